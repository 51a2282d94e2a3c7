"""Every published model on the meta device: names, shapes and counts against the authors' classes and the known totals.

`tests/data/published_manifest.json` was made by `make_manifest.py` from the authors' own classes and yaml files; the totals in
millions are those of the paper, its repository and the model pages.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sfumato.build import build_conditioner, build_first_stage
from sfumato.conditioners import wordpiece
from sfumato.conditioners.bert import BertConfig
from sfumato.conditioners.checkpoint import STAGE, to_checkpoint
from sfumato.conditioners.class_embedder import ClassEmbedderConfig
from sfumato.conditioners.clip_text import ClipTextsConfig
from sfumato.conditioners.compose import CompositeConfig
from sfumato.conditioners.depth import DepthConfig, DepthMap
from sfumato.conditioners.image_embedding import EmbeddedImage, ImageEmbeddingConfig
from sfumato.conditioners.layout import Box, LayoutConfig
from sfumato.conditioners.low_resolution import LowResolutionConfig, NoisedImage, NoisedLowResolutionConfig, SmallImage
from sfumato.conditioners.masked import MaskedImage, MaskedImageConfig
from sfumato.conditioners.neighbours import NeighboursConfig
from sfumato.conditioners.none import NoneConfig
from sfumato.conditioners.picture_latent import PictureLatentConfig
from sfumato.conditioners.segmentation import SegmentationConfig
from sfumato.conditioners.sizes import Sizes, SizesConfig
from sfumato.diffusion.grids import Spacing
from sfumato.errors import InputError
from sfumato.first_stages.vq import VQConfig
from sfumato.interop import compvis
from sfumato.interop.cards import CARDS, FIRST_STAGES, Card, Source, find_card
from sfumato.networks.unet import UNet
from sfumato.samplers import SAMPLERS

ROWS: dict[str, Any] = json.loads((Path(__file__).parent.parent / "data" / "published_manifest.json").read_text("utf-8"))[
    "rows"
]
UNETS = {
    "celeba256": 274.06, "ffhq256": 274.06, "lsun_beds256": 274.06, "lsun_churches256": 294.97, "cin256": 394.98,
    "cin256-v2": 400.92, "text2img-large": 872.30, "text2img256": 403.62, "bsr_sr": 113.62, "inpainting_big": 387.25,
    "semantic_synthesis256": 215.23, "semantic_synthesis512": 215.23, "layout2img-openimages256": 246.28, "rdm768": 1335.48,
    "sd1": 859.52, "sd1-inpainting": 859.54, "instruct-pix2pix": 859.53, "sd2-base": 865.91, "sd2-v": 865.91,
    "sd2-inpainting": 865.93, "sd2-depth": 865.91, "sd2-x4-upscaler": 473.40, "sd2-unclip-h": 870.17, "sd2-unclip-l": 869.52,
    "sdxl-base": 2567.46, "sdxl-refiner": 2259.53,
}  # fmt: skip
AUTOENCODERS = {
    "kl-f4": 55.31, "kl-f8": 83.65, "kl-f16": 69.61, "kl-f32": 103.88, "vq-f4": 55.32, "vq-f4-noattn": 53.22, "vq-f8": 67.72,
    "vq-f8-n256": 67.65, "vq-f16": 69.59,
}  # fmt: skip
CONDITIONERS = {
    "cin256": 0.51, "cin256-v2": 0.51, "text2img-large": 581.99, "text2img256": 186.15, "layout2img-openimages256": 58.86,
    "semantic_synthesis256": 0.00, "semantic_synthesis512": 0.00,
}  # fmt: skip
BY_NAME = {card.name: card for card in CARDS}


def digest(named: Mapping[str, Tensor]) -> str:
    """As in `make_manifest.py`."""
    lines = sorted(f"{name} {'x'.join(map(str, value.shape))}" for name, value in named.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {k: v for k, v in module.state_dict().items() if k not in compvis.STATISTICS}


def count(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() for t in tensors)


def check(named: Mapping[str, Tensor], wanted: Mapping[str, Any]) -> None:
    assert len(named) == wanted["tensors"]
    assert count(named.values()) == wanted["parameters"]
    assert digest(named) == wanted["sha256"]


def test_there_is_a_card_for_every_row():
    names = [card.name for card in (*CARDS, *FIRST_STAGES)]
    assert len(names) == len(set(names))
    assert set(names) == set(ROWS) == set(UNETS) | set(AUTOENCODERS)


@pytest.mark.parametrize("name", UNETS)
def test_unet_has_the_published_weights(name):
    card = BY_NAME[name]
    with torch.device("meta"):
        ours = weights(UNet(card.unet))
    assert round(count(ours.values()) / 1e6, 2) == UNETS[name]
    keys = compvis.unet_keys(card.unet)
    theirs = keys.to_theirs(ours)
    check(theirs, ROWS[name]["unet"])
    assert keys.to_ours(theirs).keys() == ours.keys()
    ema = {compvis.ema_name(f"model.diffusion_model.{k}").removeprefix("model_ema."): v for k, v in theirs.items()}
    counters = {"decay": torch.empty((), device="meta"), "num_updates": torch.empty((), device="meta")}
    assert len(ema) + 2 == ROWS[name]["ema"]["tensors"]
    assert digest(ema | counters) == ROWS[name]["ema"]["sha256"]


@pytest.mark.parametrize("name", ROWS)
def test_first_stage_has_the_published_weights(name):
    config = BY_NAME[name].first_stage if name in UNETS else {card.name: card.config for card in FIRST_STAGES}[name]
    with torch.device("meta"):
        ours = weights(build_first_stage(config))
    if name in AUTOENCODERS:
        assert round(count(ours.values()) / 1e6, 2) == AUTOENCODERS[name]
    keys = compvis.first_stage_keys(config)
    check(keys.to_theirs(ours), ROWS[name]["first_stage"])


@pytest.mark.parametrize("name", CONDITIONERS)
def test_a_trained_conditioner_has_the_published_weights(name):
    card = BY_NAME[name]
    with torch.device("meta"):
        ours = build_conditioner(card.conditioner, wordpiece.bert_tokenizer(WORDS).to_str())
    theirs = to_checkpoint(card.conditioner, ours.state_dict())
    assert round(count(theirs.values()) / 1e6, 2) == CONDITIONERS[name]
    check({key.removeprefix(STAGE): value for key, value in theirs.items()}, ROWS[name]["conditioner"])


def test_every_trained_conditioner_is_compared():
    assert {name for name, row in ROWS.items() if "conditioner" in row} == set(CONDITIONERS)


def test_a_whole_checkpoint_has_both_parts():
    card = find_card("sd1")
    keys = compvis.model_keys(card.unet, card.first_stage)
    assert len(keys.pairs) == 686 + 248  # as Stable Diffusion 1's files have, beside the text encoder
    assert keys.pairs["prior.denoiser.network.out_conv.weight"] == "model.diffusion_model.out.2.weight"
    assert keys.pairs["first_stage.decoder.up.0.3.conv.bias"] == "first_stage_model.decoder.up.3.upsample.conv.bias"
    averaged = compvis.with_ema(keys).pairs
    assert averaged["prior.denoiser.network.out_conv.weight"] == "model_ema.diffusion_modelout2weight"
    assert averaged["first_stage.quant_conv.bias"] == "first_stage_model.quant_conv.bias"


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_a_card_is_of_one_piece(card: Card):
    unet = card.unet
    dims = {slot: sum(c.dim for c in card.conditions if c.slot == slot) for slot in ("context", "concat", "vector")}
    assert dims["context"] == (unet.context_dim or 0)
    assert dims["concat"] == unet.concat_channels
    assert dims["vector"] == (unet.vector_dim or 0)
    levels = [c for c in card.conditions if c.source is Source.noise_level]
    assert [c.vocabulary for c in levels] == ([unet.num_classes] if unet.num_classes else [])
    channels = card.first_stage.embed_channels or card.first_stage.network.latent_channels
    assert unet.in_channels == unet.out_channels == channels
    whole = card.first_stage.network.factor * unet.factor
    assert all(side % whole == 0 for side in card.image_size)
    assert card.sampling.sampler in SAMPLERS
    assert card.sampling.spacing is None or Spacing(card.sampling.spacing)
    assert isinstance(card.first_stage, VQConfig) <= (card.scale_factor == 1)
    assert card.source.endswith(".yaml")


def configs(card: Card) -> list[Any]:
    return (
        [p.conditioner for p in card.conditioner.parts] if isinstance(card.conditioner, CompositeConfig) else [card.conditioner]
    )


SOURCES = {
    ClassEmbedderConfig: {Source.classes},
    BertConfig: {Source.bert},
    LayoutConfig: {Source.bert},
    ClipTextsConfig: {Source.clip_text, Source.open_clip_text},
    SizesConfig: {Source.sizes},
    SegmentationConfig: {Source.segmentation},
    LowResolutionConfig: {Source.low_resolution},
    NoisedLowResolutionConfig: {Source.low_resolution, Source.noise_level},
    MaskedImageConfig: {Source.masked_picture},
    PictureLatentConfig: {Source.picture},
    DepthConfig: {Source.depth},
    ImageEmbeddingConfig: {Source.clip_image},
    NeighboursConfig: {Source.neighbours},
    NoneConfig: set(),
}
GIVEN: dict[str, Any] = {
    "text": "cat",
    "mask": MaskedImage(torch.zeros(3, 64, 64), torch.ones(64, 64)),
    "picture": torch.zeros(3, 64, 64),
    "depth": DepthMap(torch.rand(9, 9), (8, 8)),
    "small": NoisedImage(torch.zeros(3, 16, 16), torch.zeros(3, 16, 16)),
    "sizes": Sizes((1024, 1024)),
    "neighbours": torch.ones(4, 768),
}
ALONE = {
    ClassEmbedderConfig: "5",
    LayoutConfig: (Box(1, 0, 0, 1, 1),),
    SegmentationConfig: torch.zeros(64, 64, dtype=torch.int64),
    LowResolutionConfig: SmallImage(torch.zeros(3, 16, 16)),
    MaskedImageConfig: GIVEN["mask"],
}
WORDS = [*wordpiece.MARKS, "cat", *(f"[unused{i}]" for i in range(30522 - 6))]


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_the_conditioner_fills_the_slots_of_the_unet(card: Card):
    """Its sources are those that the card describes, and what it gives, built at full size, is as wide as the U-Net takes."""
    described = {condition.source for condition in card.conditions} - {Source.clip_text, Source.open_clip_text}
    built = {source for config in configs(card) for source in SOURCES[type(config)]}
    texts = {Source.clip_text, Source.open_clip_text}
    if Source.neighbours not in built:  # there the prompt is one more neighbour, and the text tower is not the model's own
        assert bool(built & texts) == any(condition.source in texts for condition in card.conditions)
    assert built - texts == described
    channels = card.unet.in_channels

    def encode(x: Tensor) -> Tensor:
        return x.new_zeros(len(x), channels, x.shape[2] // 8, x.shape[3] // 8)

    with torch.device("meta"):
        conditioner = build_conditioner(card.conditioner, wordpiece.bert_tokenizer(WORDS).to_str(), encode)
    given: Any = ALONE.get(type(card.conditioner), "cat")
    if isinstance(card.conditioner, CompositeConfig):
        noise = torch.zeros((card.unet.vector_dim or 0) // 2)
        given = {
            p.name: EmbeddedImage(torch.zeros(3, 64, 64), noise) if p.name == "image" else GIVEN[p.name]
            for p in card.conditioner.parts
        }
    cond = conditioner(conditioner.prepare([given]).to("meta"))
    assert (None if cond.context is None else cond.context.shape[2]) == card.unet.context_dim
    assert (0 if cond.concat is None else cond.concat.shape[1]) == card.unet.concat_channels
    if card.unet.num_classes is not None:
        assert cond.vector is not None
        assert cond.vector.shape == (1,)
        assert not cond.vector.is_floating_point()
    else:
        assert (None if cond.vector is None else cond.vector.shape[1]) == card.unet.vector_dim


def test_an_unknown_card_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'sdxl-base'"):
        find_card("sdxl-bse")


def test_the_page_says_what_the_manifest_says():
    page = (Path(__file__).parent.parent.parent / "docs" / "published-models.md").read_text("utf-8")
    for name, row in ROWS.items():
        part = row.get("unet") or row["first_stage"]
        line = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        assert f"| {part['tensors']} | {part['parameters'] / 1e6:.2f} M |" in line
    for name in CONDITIONERS:
        part = ROWS[name]["conditioner"]
        line = next(line for line in page.splitlines() if line.startswith(f"| of `{name}` |"))
        assert line.endswith(f"| {part['tensors']} | {part['parameters'] / 1e6:.2f} M |")
