"""LoRAs merged into weights: diffusers' and transformers' networks with the same LoRA beside their layers, and arithmetic.

Tolerance 1e-5 of the output's scale, fp32: one sum in the weight against two sums of outputs, where base weights agree.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import shrunken
import torch
from lora_files import ALPHA, RANK, Thin, in_branches, kohya, peft, random_lora, save
from test_diffusers_parity import randomise, told
from torch import Tensor, nn

from sfumato.conditioners import clip_text
from sfumato.conditioners import keys as text_keys
from sfumato.conditioners.clip_text import ClipTexts, ClipTextsConfig
from sfumato.errors import InputError
from sfumato.interop import compvis
from sfumato.interop import diffusers as names
from sfumato.interop.diffusers_config import unet_class, unet_settings
from sfumato.interop.lora import read_lora
from sfumato.interop.merge import layer_names, matched, merge
from sfumato.networks.clip import ClipTextConfig
from sfumato.networks.unet import UNet, UNetConfig

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")
TOLERANCE = 1e-5
SDXL = dataclasses.replace(shrunken.unet("sdxl-base"), transformer_depth=(0, 1, 2), context_dim=64)
UNETS = {
    "sd1": dataclasses.replace(shrunken.unet("sd1"), context_dim=48),
    "sd2-base": dataclasses.replace(shrunken.unet("sd2-base"), context_dim=48),
    "sdxl-base": SDXL,
}
SMALL = ClipTextConfig(dim=16, layers=2, heads=2, skip=1)
LARGE = ClipTextConfig(dim=24, layers=3, heads=3, activation="gelu", projection=20, skip=1, final_norm=False, pad="zero")


def both(config: UNetConfig, sdxl: bool) -> tuple[UNet, Any]:
    """Ours and diffusers', of the same random weights."""
    theirs = randomise(getattr(diffusers, unet_class(config))(**unet_settings(config, text_time=sdxl)))
    ours = UNet(config).eval()
    ours.load_state_dict(names.unet_keys(config, text_time=sdxl).to_ours(theirs.state_dict()))
    return ours, theirs


def outputs(ours: UNet, theirs: Any, config: UNetConfig, sdxl: bool) -> tuple[Tensor, Tensor]:
    x, time, cond = shrunken.inputs(config)
    cond, said = told(config, sdxl, cond)
    return ours(x, time, cond), theirs(x, time, cond.context, **said).sample


def assert_alike(given: Tensor, wanted: Tensor) -> None:
    error = float((given - wanted).abs().max() / wanted.std())
    assert error <= TOLERANCE, f"max abs error {error:.2e} of the output's scale"


def authors(config: UNetConfig, lora: dict[str, Thin], sdxl: bool) -> dict[str, Thin]:
    """The same LoRA by the authors' names of the layers, as kohya's scripts train SDXL."""
    there = {b: a for a, b in names.unet_keys(config, text_time=sdxl).pairs.items()}
    to = compvis.unet_keys(config).pairs
    return {to[there[f"{name}.weight"]].removesuffix(".weight"): thin for name, thin in lora.items()}


@torch.no_grad()
@pytest.mark.parametrize("form", ["peft", "down and up", "kohya", "kohya, the authors' tree"])
@pytest.mark.parametrize("name", UNETS)
def test_unet_as_diffusers_with_branches(name: str, form: str, tmp_path: Path) -> None:
    """Every linear map and every convolution of the network is changed, under each kind of name."""
    config, sdxl = UNETS[name], name.startswith("sdxl")
    ours, theirs = both(config, sdxl)
    lora = random_lora(theirs)
    match form:
        case "peft":
            tensors = peft(lora)
        case "down and up":
            tensors = peft(lora, ends=("lora_down", "lora_up"))
        case "kohya":
            tensors = kohya(lora)
        case _:
            tensors = kohya(authors(config, lora, sdxl))
    plain = outputs(ours, theirs, config, sdxl)
    assert_alike(*plain)
    in_branches(theirs, lora, 0.7)
    found = read_lora(save(tmp_path / "x.safetensors", tensors))
    assert len(found.layers) == len(lora) == sum(p.ndim > 1 for p in ours.parameters())
    done = merge(ours, [(found, 0.7)])
    given, wanted = outputs(ours, theirs, config, sdxl)
    assert_alike(given, wanted)
    assert float((wanted - plain[1]).abs().max() / plain[1].std()) > 0.1, "the LoRA changes nothing to speak of"
    done.undo()
    assert torch.equal(outputs(ours, theirs, config, sdxl)[0], plain[0])


@torch.no_grad()
@pytest.mark.parametrize("form", ["peft", "kohya"])
def test_text_towers_as_transformers_with_branches(form: str, tmp_path: Path) -> None:
    """SDXL's two towers, each under its own names; the first goes by two in kohya's."""
    ours = ClipTexts(ClipTextsConfig((dataclasses.replace(SMALL, final_norm=False), LARGE), vector=True, null="zeros")).eval()
    randomise(ours)
    tensors: dict[str, Tensor] = {}
    wanted = []
    ids = ours.prepare(["a cat", "a very long sentence about dogs"])
    for number, tower in enumerate(ours.towers):
        c = tower.config
        kind = transformers.CLIPTextModelWithProjection if c.projection else transformers.CLIPTextModel
        published = transformers.CLIPTextConfig(
            vocab_size=c.vocabulary, hidden_size=c.dim, intermediate_size=4 * c.dim, num_hidden_layers=c.layers,
            num_attention_heads=c.heads, hidden_act=c.activation, projection_dim=c.projection or c.dim, eos_token_id=49407,
        )  # fmt: skip
        theirs = kind(published).eval()
        state = text_keys.to_transformers(tower.state_dict())
        own = set(theirs.state_dict())
        theirs.load_state_dict({k if k in own else k.removeprefix("text_model."): v for k, v in state.items()})
        lora = random_lora(theirs, seed=number)
        in_branches(theirs, lora)
        prefix = {"peft": ("text_encoder.", "text_encoder_2."), "kohya": ("lora_te1_", "lora_te2_")}[form][number]
        tensors |= peft(lora, prefix) if form == "peft" else kohya(lora, prefix)
        wanted.append(theirs(input_ids=ids[:, number], output_hidden_states=True))
    merge(ours, [(read_lora(save(tmp_path / "x.safetensors", tensors)), 1.0)])
    given = ours(ids)
    assert_alike(given.context, torch.cat([one.hidden_states[-2] for one in wanted], 2))
    assert_alike(given.vector, wanted[1].text_embeds)


@torch.no_grad()
def test_files_of_one_lora_give_equal_weights(tmp_path: Path) -> None:
    config = UNETS["sdxl-base"]
    ours, theirs = both(config, True)
    lora = random_lora(theirs)
    forms = {
        "peft": peft(lora),
        "bare": peft(lora, ""),
        "peft's own": peft(lora, "base_model.model."),
        "kohya": kohya(lora),
        "authors": kohya(authors(config, lora, True)),
        "authors, dots": peft(authors(config, lora, True), "diffusion_model."),
    }
    files = [save(tmp_path / f"{form}.safetensors", tensors) for form, tensors in forms.items()]
    torch.save(kohya(lora), tmp_path / "x.pt")
    first: dict[str, Tensor] = {}
    for file in (*files, tmp_path / "x.pt"):
        with merge(ours, [(read_lora(file), 0.8)]) as done:
            assert len(done) == len(lora)
            first = first or ours.state_dict()
            assert all(torch.equal(value, first[name]) for name, value in ours.state_dict().items()), file


def test_weights_are_the_formula(tmp_path: Path) -> None:
    """In float64: W + sum of scale * alpha / rank * up @ down, of two LoRAs of other ranks, some layers in one of them only."""
    config = UNETS["sd1"]
    ours, theirs = both(config, False)
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    layers = [n for n, m in theirs.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    one, two = random_lora(theirs, 1, 4, layers[::2]), random_lora(theirs, 2, 2, layers[::3])
    files = [read_lora(save(tmp_path / f"{i}.safetensors", kohya(lora))) for i, lora in enumerate((one, two))]
    with merge(ours, [(files[0], 0.5), (files[1], -1.25)]) as done:
        assert len(done) == len({*one, *two})
        after = {name: value.clone() for name, value in ours.state_dict().items()}
    to_ours = {b: a for a, b in names.unet_keys(config).pairs.items()}
    for layer in layers:
        name = to_ours[f"{layer}.weight"]
        wanted = before[name].double()
        for lora, scale in ((one, 0.5), (two, -1.25)):
            if layer in lora:
                thin = lora[layer]
                change = torch.einsum("or,r...->o...", thin.up.double().flatten(1), thin.down.double())
                wanted = wanted + scale * thin.alpha / thin.down.shape[0] * change.reshape(wanted.shape)
        torch.testing.assert_close(after[name].double(), wanted, rtol=0, atol=1e-6)
    unchanged = before.keys() - {to_ours[f"{layer}.weight"] for layer in (*one, *two)}
    assert unchanged
    assert all(torch.equal(after[name], before[name]) for name in unchanged)
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items()), "undone bit by bit"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bits_are_rounded_once(dtype: torch.dtype, tmp_path: Path) -> None:
    config = UNETS["sd1"]
    ours, theirs = both(config, False)
    ours.to(dtype)
    layer = "mid_block.attentions.0.proj_in"
    lora = random_lora(theirs, layers=[layer])
    name = next(a for a, b in names.unet_keys(config).pairs.items() if b == f"{layer}.weight")
    weight = ours.get_parameter(name)
    before = weight.detach().clone()
    files = [read_lora(save(tmp_path / f"{i}.safetensors", kohya(lora))) for i in range(2)]
    done = merge(ours, [(file, 0.01) for file in files])
    thin = lora[layer]
    change = 0.02 * thin.factor * (thin.up.flatten(1).double() @ thin.down.flatten(1).double())
    wanted = (before.double().flatten(1) + change).view_as(before)
    assert weight.dtype == dtype
    ulp = torch.finfo(dtype).eps * wanted.abs()
    assert bool(((weight.double() - wanted).abs() <= 0.5001 * ulp + 1e-7).all()), "the nearest number of the type"
    done.undo()
    assert torch.equal(weight, before)


@torch.no_grad()
@pytest.mark.parametrize("name", ["sd1", "sdxl-base"])
@pytest.mark.parametrize("form", ["peft", "peft with notes", "kohya"])
def test_diffusers_own_loader(name: str, form: str, tmp_path: Path) -> None:
    """What diffusers makes of the same file through PEFT, its names, ranks and alphas read by its own code.

    Of Stable Diffusion it reads no alpha beside dotted names; there alpha stands in the notes, or is the rank. Kohya's form has
    every layer, SDXL's in the authors' tree, as those scripts write it.
    """
    pytest.importorskip("peft")
    config, sdxl = UNETS[name], name.startswith("sdxl")
    ours, theirs = both(config, sdxl)
    transformer = [n for n, m in theirs.named_modules() if ".transformer_blocks." in n and isinstance(m, nn.Linear)]
    lora = random_lora(theirs, layers=None if form == "kohya" else transformer)
    notes = {}
    if form == "kohya":
        tensors = kohya(authors(config, lora, sdxl) if sdxl else lora)
    else:
        tensors = {key: value for key, value in peft(lora).items() if not key.endswith(".alpha")}
    if form == "peft with notes":
        some = "attn2.to_k"
        settings = {"r": RANK, "lora_alpha": ALPHA, "alpha_pattern": {some: 6}, "target_modules": sorted(lora)}
        notes = {"lora_adapter_metadata": {f"unet.{key}": value for key, value in settings.items()}}
    file = save(tmp_path / "x.safetensors", tensors, notes)
    kind = diffusers.StableDiffusionXLPipeline if sdxl else diffusers.StableDiffusionPipeline
    if form == "peft with notes":
        state, alphas, said = kind.lora_state_dict(str(file), unet_config=theirs.config, return_lora_metadata=True)
        assert said
    else:
        (state, alphas), said = kind.lora_state_dict(str(file), unet_config=theirs.config), None
    theirs.load_lora_adapter(state, network_alphas=alphas, prefix="unet", metadata=said)
    merge(ours, [(read_lora(file), 1.0)])
    given, wanted = outputs(ours, theirs, config, sdxl)
    assert_alike(given, wanted)


def test_undo_in_reverse_order_only(tmp_path: Path) -> None:
    ours, theirs = both(UNETS["sd1"], False)
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    file = read_lora(save(tmp_path / "x.safetensors", kohya(random_lora(theirs))))
    first = merge(ours, [(file, 1.0)])
    second = merge(ours, [(file, 1.0)])
    with pytest.raises(InputError, match="reverse order"):
        first.undo()
    second.undo()
    first.undo()
    first.undo()
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())


def test_what_fails_changes_nothing(tmp_path: Path) -> None:
    ours, theirs = both(UNETS["sd1"], False)
    before = {name: (value.clone(), value.data_ptr()) for name, value in ours.state_dict().items()}
    lora = random_lora(theirs)
    good = read_lora(save(tmp_path / "good.safetensors", kohya(lora)))
    last = list(lora)[-1]
    broken = lora | {last: Thin(lora[last].down * float("nan"), lora[last].up)}
    bad = read_lora(save(tmp_path / "bad.safetensors", kohya(broken)))
    large = lora | {last: Thin(lora[last].down * 1e30, lora[last].up * 1e30)}
    huge = read_lora(save(tmp_path / "huge.safetensors", kohya(large)))
    for pairs, said in (
        ([(good, 1.0), (bad, 1.0)], "holds NaN"),
        ([(good, 1.0), (huge, 1.0)], "numbers without bound"),
        ([(good, 1e39)], "leaves the range of torch.float32"),
        ([(good, float("nan"))], "scale of .* is nan"),
        ([(good, float("inf"))], "scale of .* is inf"),
    ):
        with pytest.raises(InputError, match=said) as caught:
            merge(ours, pairs)
        assert "\n" not in str(caught.value)
        assert all(torch.equal(v, before[n][0]) and v.data_ptr() == before[n][1] for n, v in ours.state_dict().items())


@pytest.mark.parametrize("name", UNETS)
def test_a_full_size_model_on_the_meta_device_knows_its_names(name: str) -> None:
    """Names cost no weights: U-Net and text towers at full size, by diffusers' own names of its modules."""
    card = shrunken.find_card(name)
    sdxl = name.startswith("sdxl")
    text = {"sd1": clip_text.SD1, "sd2-base": clip_text.SD2, "sdxl-base": clip_text.SDXL_BASE}[name]
    with torch.device("meta"):
        model = nn.ModuleDict({"unet": UNet(card.unet), "text": ClipTexts(text)})
        theirs = diffusers.UNet2DConditionModel(**unet_settings(card.unet, text_time=sdxl))
    table, weights = layer_names(model), dict(model.named_parameters())
    found = set()
    for layer, module in theirs.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            ours = table[f"unet.{layer}"]
            assert table[f"lora_unet_{layer.replace('.', '_')}"] == ours
            assert ours.startswith("unet.")
            assert weights[ours].shape == module.weight.shape
            found.add(ours)
    assert found == {name for name, p in weights.items() if name.startswith("unet.") and p.ndim > 1}
    for number, tower in enumerate(text.towers):
        inner = f"text_model.encoder.layers.{tower.layers - 1}.self_attn.out_proj"
        ours = f"text.towers.{number}.body.encoder.layers.{tower.layers - 1}.self_attn.out_proj.weight"
        starts = ("lora_te_", "lora_te1_", "text_encoder.") if number == 0 else ("lora_te2_", "text_encoder_2.")
        assert all(table[start + (inner if start.endswith(".") else inner.replace(".", "_"))] == ours for start in starts)


def test_another_models_lora_is_refused(tmp_path: Path) -> None:
    ours, _ = both(UNETS["sd1"], False)
    _, sdxl = both(SDXL, True)
    stranger = read_lora(save(tmp_path / "x.safetensors", kohya(random_lora(sdxl))))
    with pytest.raises(
        InputError, match=r"\d+ of its \d+ layers are not in this model \((lora_unet_\w+, ){9}lora_unet_\w+ and "
    ):
        matched(stranger, ours)
    wide = dataclasses.replace(UNETS["sd1"], context_dim=32)
    other = read_lora(save(tmp_path / "y.safetensors", kohya(random_lora(both(wide, False)[1]))))
    with pytest.raises(InputError, match=r"does not fit: lora_unet_\w+attn2_to_k changes a weight \(\d+, 32\), and here it is"):
        matched(other, ours)
