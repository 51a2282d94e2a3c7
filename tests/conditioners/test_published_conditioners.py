"""What every published conditioner promises, and several of them as one."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from sfumato import config as configs
from sfumato.build import ConditionerConfig, ModelConfig, build_conditioner, build_model
from sfumato.conditioners import wordpiece
from sfumato.conditioners.base import Conditioner, Parts, choose
from sfumato.conditioners.bert import BertConfig
from sfumato.conditioners.class_embedder import ClassEmbedder, ClassEmbedderConfig
from sfumato.conditioners.clip_text import ClipTextsConfig
from sfumato.conditioners.compose import Composite, CompositeConfig, Part, joined
from sfumato.conditioners.depth import DepthConfig, DepthMap
from sfumato.conditioners.image_embedding import EmbeddedImage, ImageEmbeddingConfig
from sfumato.conditioners.label import LabelConfig
from sfumato.conditioners.layout import Box, LayoutConfig
from sfumato.conditioners.low_resolution import LowResolutionConfig, NoisedImage, NoisedLowResolutionConfig, SmallImage
from sfumato.conditioners.masked import MaskedImage, MaskedImageConfig
from sfumato.conditioners.neighbours import NeighboursConfig
from sfumato.conditioners.picture_latent import PictureLatentConfig
from sfumato.conditioners.segmentation import SegmentationConfig
from sfumato.conditioners.sizes import Sizes, SizesConfig
from sfumato.conditioning import Conditioning
from sfumato.errors import InputError
from sfumato.generation.pipeline import Pipeline
from sfumato.io.pretrained import load_pretrained, save_pretrained
from sfumato.io.storage import Storage
from sfumato.networks.clip import ClipTextConfig, ClipVisionConfig
from sfumato.networks.unet import UNetConfig
from sfumato.noise import PictureNoise
from sfumato.priors.diffusion import DiffusionConfig, DiffusionSettings
from tiny_models import loaded, text_config

RNG = torch.Generator().manual_seed(0)
CLIP = ClipTextConfig(dim=16, layers=2, heads=2, projection=12)
TEXT = ClipTextsConfig((replace(CLIP, skip=1),), vector=True)
VISION = ClipVisionConfig(dim=16, layers=1, heads=2, hidden=24, projection=12, patch=14, size=28)
WORDS = [*wordpiece.MARKS, "a", "cat", "dog"]
JSON = wordpiece.bert_tokenizer(WORDS).to_str()


def encode(x: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(x, 4)


def picture(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=RNG) * 2 - 1


@dataclass(frozen=True)
class Case:
    config: ConditionerConfig
    inputs: tuple[Any, Any]
    keeps: bool = False  # guidance leaves it as it is
    guided: bool = True


def pair(make: Callable[[], Any]) -> tuple[Any, Any]:
    return make(), make()


CASES = {
    "cin": Case(ClassEmbedderConfig(10, 8), ("3", 9), guided=False),
    "cin256-v2": Case(ClassEmbedderConfig(10, 8, null_class=True), ("3", 9)),
    "bert": Case(BertConfig(dim=16, depth=1, length=8, vocabulary=len(WORDS), heads=2, head_channels=8), ("a cat", "dog")),
    "layout": Case(
        LayoutConfig(dim=16, depth=1, heads=2, head_channels=8), ((Box(3, 0.1, 0.1, 0.5, 0.5),), (Box(4, 0, 0, 1, 1),) * 2)
    ),
    "clip": Case(TEXT, ("a cat", "a dog")),
    "clip zeros": Case(replace(TEXT, null="zeros"), ("a cat", "a dog")),
    "rdm text": Case(ClipTextsConfig((CLIP,), context="pooled", null="zeros"), ("a cat", "a dog")),
    "sizes": Case(SizesConfig(channels=8), (Sizes((64, 64)), Sizes((32, 64), (1, 2))), keeps=True),
    "scores": Case(SizesConfig("score", channels=8), (Sizes((64, 64)), Sizes((32, 64), score=7.0))),
    "segmentation": Case(SegmentationConfig(5), pair(lambda: torch.randint(0, 5, (8, 8), generator=RNG)), keeps=True),
    "small": Case(LowResolutionConfig(), pair(lambda: SmallImage(picture(3, 4, 4))), keeps=True),
    "noised": Case(
        NoisedLowResolutionConfig(), pair(lambda: NoisedImage(picture(3, 4, 4), torch.randn(3, 4, 4), 20)), keeps=True
    ),
    "mask": Case(MaskedImageConfig(), pair(lambda: MaskedImage(picture(3, 8, 8), torch.rand(8, 8, generator=RNG))), keeps=True),
    "picture": Case(PictureLatentConfig(), pair(lambda: picture(3, 8, 8)), keeps=True),
    "depth": Case(DepthConfig(), pair(lambda: DepthMap(torch.rand(9, 9, generator=RNG), (4, 4))), keeps=True),
    "unclip": Case(ImageEmbeddingConfig(VISION), pair(lambda: EmbeddedImage(picture(3, 30, 20), torch.randn(12)))),
    "neighbours": Case(NeighboursConfig(8), pair(lambda: torch.randn(4, 8, generator=RNG))),
    "composite": Case(
        CompositeConfig((Part("text", TEXT), Part("sizes", SizesConfig(channels=8)), Part("mask", MaskedImageConfig()))),
        pair(lambda: {"text": "a cat", "sizes": Sizes((8, 8)), "mask": MaskedImage(picture(3, 8, 8), torch.ones(8, 8))}),
    ),
}


@pytest.fixture(params=list(CASES))
def case(request) -> Case:
    return CASES[request.param]


def make(case: Case) -> Conditioner[Any, Any]:
    torch.manual_seed(0)
    return build_conditioner(case.config, JSON, encode).eval()


def filled(cond: Conditioning) -> dict[str, torch.Tensor]:
    return {n: v for n, v in vars(cond).items() if v is not None}


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Parts):
        return one.values.keys() == other.values.keys() and all(same(one.values[n], other.values[n]) for n in one.values)
    return torch.equal(one, other)


@torch.no_grad()
def test_rows_do_not_depend_on_one_another(case):
    conditioner, (one, two) = make(case), case.inputs
    both = conditioner(conditioner.prepare([one, two, one]))
    alone = conditioner(conditioner.prepare([two]))
    assert filled(both).keys() == filled(alone).keys() != set()
    for name, value in filled(both).items():
        assert len(value) == 3
        torch.testing.assert_close(value[0], value[2])
        torch.testing.assert_close(value[1], getattr(alone, name)[0], atol=1e-5, rtol=1e-5)


def test_prepared_values_move_and_slice(case):
    conditioner = make(case)
    prepared = conditioner.prepare([*case.inputs])
    assert len(prepared) == 2
    assert same(prepared[1:], conditioner.prepare([case.inputs[1]]))
    assert same(prepared.to("cpu"), prepared)
    assert len(conditioner.prepare([])) == 0


@torch.no_grad()
def test_guidance_nulls_or_keeps(case):
    conditioner = make(case)
    prepared = conditioner.prepare([*case.inputs])
    assert len(conditioner.twins(prepared, 1.0)) == 1
    if not case.guided:
        with pytest.raises(InputError, match="no null class"):
            conditioner.twins(prepared, 2.0)
        return
    (cond, w), (null, v) = conditioner.twins(prepared, 3.0)
    assert (w, v) == (3.0, -2.0)
    assert filled(cond).keys() == filled(null).keys()
    assert same(conditioner.nulled(prepared), prepared) == case.keeps
    Conditioning.cat([cond, null])  # as the guided denoiser does
    equal = all(torch.equal(value, getattr(null, name)) for name, value in filled(cond).items())
    assert equal == case.keeps


def test_drop_replaces_by_the_null_twin(case):
    conditioner = make(case)
    prepared = conditioner.prepare([*case.inputs])
    rng = torch.Generator().manual_seed(0)
    assert conditioner.drop(prepared, 0.0, rng) is prepared
    if case.guided:
        assert same(conditioner.drop(prepared, 1.0, rng), choose(torch.ones(2).bool(), conditioner.nulled(prepared), prepared))


def test_trainable_parameters_learn_and_frozen_ones_do_not(case):
    conditioner = make(case)
    trained = [p for p in conditioner.parameters() if p.requires_grad]
    cond = conditioner(conditioner.prepare([*case.inputs]))
    if not trained:
        assert not any(v.requires_grad for v in filled(cond).values())
        return
    sum(v.pow(3).sum() for v in filled(cond).values() if v.is_floating_point()).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in trained)


def test_a_prompt_is_enough_or_one_line_says_what_is_missing(case):
    conditioner = make(case)
    prompt = "5" if isinstance(conditioner, ClassEmbedder) else "a cat"
    if not isinstance(case.inputs[0], str | Sizes):
        with pytest.raises(InputError, match=r"this model needs (a|retrieved) .* no prompt gives"):
            conditioner.from_prompt(prompt, (16, 24))
        return
    given = conditioner.from_prompt(prompt, (16, 24))
    assert given == (Sizes((16, 24)) if isinstance(case.inputs[0], Sizes) else prompt)
    assert len(conditioner.prepare([given])) == 1


def test_configs_survive_json(case):
    data = configs.to_dict(case.config)
    assert data["kind"] == case.config.kind
    assert configs.from_dict(ConditionerConfig, data) == case.config
    assert configs.from_dict(ConditionerConfig, configs.to_dict(LabelConfig(("a", "b")))) == LabelConfig(("a", "b"))


# ---- the class embedder


@pytest.mark.parametrize(("null_class", "rows"), [(False, 1000), (True, 1001)])
def test_class_embedder_is_the_released_table(null_class, rows):
    embedder = ClassEmbedder(ClassEmbedderConfig(null_class=null_class))
    assert {name: tuple(v.shape) for name, v in embedder.state_dict().items()} == {"embedding.weight": (rows, 512)}
    cond = embedder(embedder.prepare(["0", 999]))
    assert torch.equal(cond.context[:, 0], embedder.embedding.weight[[0, 999]])
    assert cond.context.shape == (2, 1, 512)


def test_class_embedder_null_and_names():
    with_null = ClassEmbedder(ClassEmbedderConfig(3, 4, null_class=True, names=("cat", "dog", "2")))
    assert with_null.prepare(["cat", "dog", "2", 1, "", "3"]).tolist() == [0, 1, 2, 1, 3, 3]
    assert with_null.null(2).tolist() == [3, 3]
    without = ClassEmbedder(ClassEmbedderConfig(3, 4))
    for given, said in (("3", "0 to 2"), ("-1", "0 to 2"), ("cat", "0 to 2"), ("9" * 5000, "0 to 2"), ("", "no null class")):
        with pytest.raises(InputError, match=said):
            without.prepare([given])
    with pytest.raises(InputError, match="did you mean 'dog'"):
        with_null.prepare(["dgo"])
    with pytest.raises(InputError, match="2 names for 3"):
        ClassEmbedderConfig(3, 4, names=("a", "b"))


# ---- several as one


def composite(*parts: Part) -> Composite:
    built = build_conditioner(CompositeConfig(parts), JSON, encode)
    assert isinstance(built, Composite)
    return built.eval()


@torch.no_grad()
def test_slots_join_in_order():
    both = composite(Part("text", TEXT), Part("sizes", SizesConfig(channels=8)))
    cond = both(both.prepare([{"text": "a cat", "sizes": Sizes((8, 8))}]))
    text, sizes = both.parts["text"], both.parts["sizes"]
    assert cond.vector.shape == (1, 12 + 48)
    assert torch.equal(cond.vector[:, :12], text(text.prepare(["a cat"])).vector)
    assert torch.equal(cond.vector[:, 12:], sizes(sizes.prepare([Sizes((8, 8))])).vector)
    rdm = composite(Part("text", ClipTextsConfig((CLIP,), context="pooled")), Part("neighbours", NeighboursConfig(12)))
    cond = rdm(rdm.prepare([{"neighbours": torch.ones(4, 12), "text": "a cat"}]))
    assert cond.context.shape == (1, 5, 12)
    torch.testing.assert_close(cond.context[0, 1:], torch.full((4, 12), 12**-0.5))
    maps = composite(Part("mask", MaskedImageConfig()), Part("small", LowResolutionConfig()))
    mask, small = MaskedImage(picture(3, 8, 8), torch.ones(8, 8)), SmallImage(picture(3, 2, 2))
    cond = maps(maps.prepare([{"mask": mask, "small": small}]))
    assert cond.concat.shape == (1, 4 + 3, 2, 2)
    assert torch.equal(cond.concat[0, 4:], small.image)
    with pytest.raises(InputError, match="do not fit together"):
        maps(maps.prepare([{"mask": mask, "small": SmallImage(picture(3, 4, 4))}]))


def test_masks_join():
    known, mask = torch.ones(2, 3, 4), torch.tensor([[True, False, True]] * 2)
    one = joined([Conditioning(context=known, mask=mask), Conditioning(context=known), Conditioning(vector=known[:, 0])])
    assert torch.equal(one.mask, torch.cat([mask, torch.ones(2, 3, dtype=torch.bool)], 1))
    assert joined([Conditioning(context=known), Conditioning(context=known)]).mask is None
    with pytest.raises(InputError, match="noise level"):
        joined([Conditioning(vector=torch.zeros(2).long()), Conditioning(vector=torch.zeros(2, 4))])


@torch.no_grad()
def test_guidance_nulls_the_text_and_keeps_the_mask():
    both = composite(Part("text", TEXT), Part("mask", MaskedImageConfig()))
    row = {"text": "a cat", "mask": MaskedImage(picture(3, 8, 8), torch.ones(8, 8))}
    prepared = both.prepare([row, row])
    (cond, _), (null, _) = both.twins(prepared, 4.0)
    assert torch.equal(cond.concat, null.concat)
    empty = both(both.prepare([{**row, "text": ""}] * 2))
    torch.testing.assert_close(null.context, empty.context)
    for negative in (both.prepare(["a dog", "a dog"]), both.prepare([{"text": "a dog"}] * 2)):
        (_, _), (against, _) = both.twins(prepared, 4.0, negative)
        expected = both(both.prepare([{**row, "text": "a dog"}] * 2))
        torch.testing.assert_close(against.context, expected.context)
        assert torch.equal(against.concat, cond.concat)


def test_dropping_texts_leaves_the_mask():
    both = composite(Part("text", TEXT), Part("mask", MaskedImageConfig()))
    row = {"text": "a cat", "mask": MaskedImage(picture(3, 8, 8), torch.ones(8, 8))}
    prepared = both.prepare([row] * 200)
    mixed = both.drop(prepared, 0.25, torch.Generator().manual_seed(0))
    assert same(mixed.values["mask"], prepared.values["mask"])
    kept = (mixed.values["text"] == prepared.values["text"]).flatten(1).all(1).float().mean()
    assert 0.65 < kept < 0.85  # 0.75 with a standard deviation of 0.031


def test_composite_refusals():
    both = composite(Part("text", TEXT), Part("mask", MaskedImageConfig()))
    with pytest.raises(InputError, match="did you mean 'mask'"):
        both.prepare([{"text": "a", "msk": 1}])
    with pytest.raises(InputError, match="same parts for every picture"):
        both.prepare([{"text": "a"}, {"mask": MaskedImage(picture(3, 8, 8), torch.ones(8, 8))}])
    with pytest.raises(InputError, match="no input for mask"):
        both(both.prepare(["a cat"]))
    assert both.count_truncated(["cat " * 100, {"text": "a cat"}]) == 1
    for parts in ((), (Part("a", TEXT), Part("a", TEXT)), (Part("a.b", TEXT),), (Part("keys", TEXT),)):
        with pytest.raises(InputError, match="composite"):
            CompositeConfig(parts)
    with pytest.raises(InputError, match="first stage's encoder"):
        build_conditioner(MaskedImageConfig())


def test_null_needs_every_part_to_have_one():
    both = composite(Part("text", TEXT), Part("unclip", ImageEmbeddingConfig(VISION)))
    assert len(both.null(3)) == 3
    with pytest.raises(InputError, match="no null input"):
        composite(Part("text", TEXT), Part("mask", MaskedImageConfig())).null(3)


# ---- whole models


def small_model(parts: tuple[Part, ...], **unet: Any) -> ModelConfig:
    network = UNetConfig(4, 4, channels=32, multipliers=(1, 1), num_res_blocks=1, attention_factors=(2,), **unet)
    return ModelConfig(text_config().first_stage, DiffusionConfig(network), CompositeConfig(parts), (16, 16))


def test_a_whole_inpainting_model_samples_saves_and_loads(tmp_path):
    parts = (Part("text", replace(TEXT, vector=False)), Part("mask", MaskedImageConfig()), Part("depth", DepthConfig()))
    config = small_model(parts, context_dim=16, concat_channels=6)
    torch.manual_seed(0)
    model = build_model(config).eval()
    owned = [name for name in model.state_dict() if name.startswith("conditioner.")]
    assert all(name.startswith("conditioner.parts.text.towers.0.") for name in owned)  # the encoder stays the first stage's
    row = {
        "text": "a cat",
        "mask": MaskedImage(picture(3, 16, 16), torch.ones(16, 16)),
        "depth": DepthMap(torch.rand(9, 9), (8, 8)),
    }
    prepared = model.conditioner.prepare([row, row])
    settings = DiffusionSettings(num_steps=2)
    x = model.sample(prepared, settings, PictureNoise([1, 2]), 3.0)
    assert x.shape == (2, 3, 16, 16)
    assert torch.isfinite(x).all()
    save_pretrained(tmp_path / "model", model, config, storage=Storage.fp32)
    copy = load_pretrained(tmp_path / "model")
    assert copy.config == config
    again = copy.model.sample(prepared, settings, PictureNoise([1, 2]), 3.0)
    assert torch.equal(again, x)


def test_a_whole_bert_model_keeps_its_tokenizer(tmp_path):
    config = small_model(
        (Part("text", CASES["bert"].config), Part("mask", MaskedImageConfig())), context_dim=16, concat_channels=5
    )
    model = build_model(config, JSON).eval()
    save_pretrained(tmp_path / "model", model, config)
    copy = load_pretrained(tmp_path / "model").model.conditioner
    assert torch.equal(copy.parts["text"].prepare(["a cat"]), model.conditioner.parts["text"].prepare(["a cat"]))


def test_a_whole_model_of_text_and_sizes_draws_from_a_prompt():
    parts = (Part("text", replace(TEXT, null="zeros")), Part("sizes", SizesConfig(channels=8)))
    pipeline = Pipeline(loaded(small_model(parts, context_dim=16, vector_dim=12 + 48)), torch.device("cpu"))
    calls = (("a cat", None), ("a cat", None), ("a dog", None), ("a cat", ""), ("a cat", "a dog"))
    seen = [pipeline.generate(prompt, seed=1, steps=1, negative=negative)[0].tobytes() for prompt, negative in calls]
    assert seen[0] == seen[1]
    assert len(set(seen)) == 4  # the null twin is zeros, an empty negative prompt is a prompt
    masked = small_model((Part("text", replace(TEXT, vector=False)), Part("mask", MaskedImageConfig())), context_dim=16)
    with pytest.raises(InputError, match="needs a picture and a mask"):
        Pipeline(loaded(masked), torch.device("cpu")).generate("a cat")


def test_statistics_keep_fp32_in_every_storage(tmp_path):
    config = small_model((Part("text", TEXT), Part("image", ImageEmbeddingConfig(VISION))), context_dim=16, vector_dim=36)
    model = build_model(config)
    mean = model.conditioner.parts["image"].mean
    mean.copy_(torch.randn(12, generator=RNG))
    save_pretrained(tmp_path / "model", model, config, storage=Storage.fp16)
    assert torch.equal(load_pretrained(tmp_path / "model").model.conditioner.parts["image"].mean, mean)
