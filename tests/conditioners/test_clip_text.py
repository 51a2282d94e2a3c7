"""CLIP's text towers: published sizes, transformers' numbers, OpenCLIP's arithmetic and names."""

import dataclasses
import sys

import pytest
import torch
import torch.nn.functional as F
from transformers import CLIPTextConfig as TheirConfig
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from sfumato import config as configs
from sfumato.conditioners import clip_text, keys
from sfumato.conditioners.clip_text import ClipTexts, ClipTextsConfig, with_layers
from sfumato.errors import InputError
from sfumato.networks.clip import ClipText, ClipTextConfig

PROMPTS = ["a photo of a cat", "", "l'été à Tokyo 🌃, 8K", "word " * 100]
L = ClipTextConfig(dim=16, layers=3, heads=2)
G = ClipTextConfig(
    dim=24, layers=4, heads=3, activation="gelu", projection=20, skip=1, final_norm=False, pad="zero"
)  # fmt: skip
H = dataclasses.replace(G, final_norm=True)


def fill(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Random weights with norms and biases that matter."""
    rng = torch.Generator().manual_seed(seed)
    for p in module.parameters():
        p.data = torch.randn(p.shape, generator=rng) * (0.3 if p.ndim > 1 else 0.5) + (p.ndim == 1) * 0.5
    return module.eval()


def theirs(config: ClipTextConfig, projected: bool) -> torch.nn.Module:
    """Transformers' model of the same sizes; its attention is the plain one, ours its default."""
    published = TheirConfig(
        vocab_size=config.vocabulary, hidden_size=config.dim, intermediate_size=4 * config.dim,
        num_hidden_layers=config.layers, num_attention_heads=config.heads, hidden_act=config.activation,
        projection_dim=config.projection or config.dim, eos_token_id=49407, bos_token_id=49406,
        attn_implementation="eager",
    )  # fmt: skip
    return fill((CLIPTextModelWithProjection if projected else CLIPTextModel)(published))


def load(tower: ClipText, model: torch.nn.Module) -> None:
    """Their weights into our tower, whichever level their release keeps them at."""
    tower.load_state_dict(keys.from_transformers(model.state_dict()))


@pytest.mark.parametrize(
    ("tower", "count"),
    # ViT-L/14's text tower: the README of Stable Diffusion 1 (123 M); the others: OpenCLIP's table of models
    [(clip_text.VIT_L, 123.06), (clip_text.VIT_H, 354.03), (clip_text.XL_G, 694.66)],
    ids=["ViT-L/14", "ViT-H/14", "ViT-bigG/14"],
)
def test_counts_of_the_published_towers(tower, count):
    with torch.device("meta"):
        module = ClipText(tower)
    assert sum(p.numel() for p in module.parameters()) / 1e6 == pytest.approx(count, abs=0.0051)
    assert not any(p.requires_grad for p in module.parameters())


@pytest.mark.parametrize(
    ("config", "context", "vector"),
    [
        (clip_text.SD1, 768, None),
        (clip_text.SD2, 1024, None),
        (clip_text.SDXL_BASE, 2048, 1280),
        (clip_text.SDXL_REFINER, 1280, 1280),
        (clip_text.RDM, 768, None),
    ],
)
def test_widths_of_the_published_models(config, context, vector):
    assert config.context_dim == context
    with torch.device("meta"):
        cond = ClipTexts(config)(torch.zeros(2, len(config.towers), 77, dtype=torch.int64, device="meta"))
    assert cond.context.shape == (2, 1 if config is clip_text.RDM else 77, context)
    assert (None if cond.vector is None else cond.vector.shape[1]) == vector
    assert configs.from_dict(ClipTextsConfig, configs.to_dict(config)) == config


@torch.no_grad()
def test_last_layer_agrees_with_transformers():
    text, model = ClipTexts(ClipTextsConfig((L,))), theirs(L, projected=False)
    load(text.towers[0], model)
    ids = text.prepare(PROMPTS)
    expected = model(input_ids=ids[:, 0]).last_hidden_state
    torch.testing.assert_close(text(ids).context, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_penultimate_layers_side_by_side_and_pooled_agree_with_transformers():
    config = ClipTextsConfig((dataclasses.replace(L, skip=1, final_norm=False), G), vector=True, null="zeros")
    text, first, second = ClipTexts(config), theirs(L, projected=False), theirs(G, projected=True)
    load(text.towers[0], first)
    load(text.towers[1], second)
    ids = text.prepare(PROMPTS)
    one = first(input_ids=ids[:, 0], output_hidden_states=True)
    two = second(input_ids=ids[:, 1], output_hidden_states=True)
    cond = text(ids)
    expected = torch.cat([one.hidden_states[-2], two.hidden_states[-2]], dim=-1)
    torch.testing.assert_close(cond.context, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(cond.vector, two.text_embeds, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_pooled_context_has_length_one():
    config = ClipTextsConfig((dataclasses.replace(L, projection=12),), context="pooled", null="zeros")
    text, model = ClipTexts(config), theirs(dataclasses.replace(L, projection=12), projected=True)
    load(text.towers[0], model)
    ids = text.prepare(PROMPTS)
    embeds = model(input_ids=ids[:, 0]).text_embeds
    torch.testing.assert_close(text(ids).context[:, 0], embeds / embeds.norm(dim=1, keepdim=True), atol=1e-6, rtol=1e-5)


def openclip(state: dict[str, torch.Tensor], ids: torch.Tensor, config: ClipTextConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """OpenCLIP's text tower by its own names: the penultimate layer under the final norm, and the pooled vector."""
    norm = lambda h, name: F.layer_norm(h, h.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])  # noqa: E731
    h = state["token_embedding.weight"][ids] + state["positional_embedding"]
    future = torch.full((77, 77), float("-inf")).triu(1)
    before = h
    for n in range(config.layers):
        before, name = h, f"transformer.resblocks.{n}"
        x = norm(h, f"{name}.ln_1").transpose(0, 1)
        attended, _ = F.multi_head_attention_forward(
            x, x, x, config.dim, config.heads, state[f"{name}.attn.in_proj_weight"], state[f"{name}.attn.in_proj_bias"],
            None, None, False, 0.0, state[f"{name}.attn.out_proj.weight"], state[f"{name}.attn.out_proj.bias"],
            attn_mask=future, need_weights=False,
        )  # fmt: skip
        h = h + attended.transpose(0, 1)
        x = F.linear(norm(h, f"{name}.ln_2"), state[f"{name}.mlp.c_fc.weight"], state[f"{name}.mlp.c_fc.bias"])
        h = h + F.linear(F.gelu(x), state[f"{name}.mlp.c_proj.weight"], state[f"{name}.mlp.c_proj.bias"])
    pooled = norm(h, "ln_final")[torch.arange(len(ids)), ids.argmax(1)] @ state["text_projection"]
    return norm(before, "ln_final"), pooled


def openclip_state(config: ClipTextConfig) -> dict[str, torch.Tensor]:
    d, shapes = config.dim, {"positional_embedding": (77, config.dim), "text_projection": (config.dim, config.projection)}
    shapes |= {"token_embedding.weight": (config.vocabulary, d), "ln_final.weight": (d,), "ln_final.bias": (d,)}
    for n in range(config.layers):
        name = f"transformer.resblocks.{n}"
        shapes |= {f"{name}.ln_{i}.{kind}": (d,) for i in (1, 2) for kind in ("weight", "bias")}
        shapes |= {f"{name}.attn.in_proj_weight": (3 * d, d), f"{name}.attn.in_proj_bias": (3 * d,)}
        shapes |= {f"{name}.attn.out_proj.weight": (d, d), f"{name}.attn.out_proj.bias": (d,)}
        shapes |= {f"{name}.mlp.c_fc.weight": (4 * d, d), f"{name}.mlp.c_fc.bias": (4 * d,)}
        shapes |= {f"{name}.mlp.c_proj.weight": (d, 4 * d), f"{name}.mlp.c_proj.bias": (d,)}
    rng = torch.Generator().manual_seed(1)
    return {name: torch.randn(shape, generator=rng) * 0.3 for name, shape in shapes.items()}


@torch.no_grad()
def test_openclip_names_and_numbers():
    text, state = ClipTexts(ClipTextsConfig((H,), vector=True)), openclip_state(H)
    full = state | {"logit_scale": torch.tensor(4.6), "attn_mask": torch.zeros(77, 77)}
    text.towers[0].load_state_dict(keys.from_openclip(full))
    ids = text.prepare(PROMPTS)
    assert ids[0, 0, -1] == 0  # OpenCLIP's padding
    cond = text(ids)
    context, pooled = openclip(state, ids[:, 0], H)
    torch.testing.assert_close(cond.context, context, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(cond.vector, pooled, atol=1e-5, rtol=1e-5)
    back = keys.to_openclip(text.towers[0].state_dict())
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], value) for name, value in state.items())


def test_transformers_names_map_both_ways():
    tower = ClipText(G)
    there = keys.to_transformers(tower.state_dict())
    # the names in a diffusers folder, older than the release that wrote this one
    assert {"text_model.embeddings.token_embedding.weight", "text_model.final_layer_norm.bias"} < set(there)
    assert {"text_model.encoder.layers.3.self_attn.q_proj.bias", "text_projection.weight"} < set(there)
    back = keys.from_transformers(there | {"text_model.embeddings.position_ids": torch.arange(77)[None]})
    assert back.keys() == tower.state_dict().keys()
    assert all(torch.equal(back[name], value) for name, value in tower.state_dict().items())


def test_openclip_names_are_checked():
    for key in ("visual.proj", "transformer.resblocks.0.attn.q.weight", "proj"):
        with pytest.raises(InputError, match="unexpected key"):
            keys.from_openclip({key: torch.zeros(2, 2)})


@torch.no_grad()
def test_a_tower_saved_without_its_last_layer():
    whole, short = fill(ClipText(H)), ClipText(with_layers(H, 3))
    assert short.config.skip == 0
    state = {name: value for name, value in whole.state_dict().items() if ".layers.3." not in name}
    short.load_state_dict(state)
    ids = ClipTexts(ClipTextsConfig((H,))).prepare(PROMPTS)[:, 0]
    torch.testing.assert_close(short(ids).context, whole(ids).context, atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_null_inputs():
    empty = ClipTexts(ClipTextsConfig((L,)))
    assert torch.equal(empty.null(2), empty.prepare(["", ""]))
    zeros = ClipTexts(ClipTextsConfig((dataclasses.replace(L, skip=1), G), vector=True, null="zeros"))
    prepared = zeros.prepare(PROMPTS)
    (cond, w), (null, v) = zeros.twins(prepared, 5.0)
    assert (w, v) == (5.0, -4.0)
    assert null.context.shape == cond.context.shape
    assert not null.context.any()
    assert not null.vector.any()
    assert zeros(zeros.prepare([""])).context.any()  # an empty prompt is a prompt
    mixed = zeros.drop(prepared, 0.5, torch.Generator().manual_seed(0))
    dropped = (mixed == ClipTexts.NOTHING).flatten(1).all(1)
    assert 0 < dropped.sum() < 4
    assert torch.equal(zeros(mixed).context.flatten(1).any(1), ~dropped)


def test_prepare_and_truncation():
    text = ClipTexts(ClipTextsConfig((L, dataclasses.replace(G, projection=None))))
    ids = text.prepare(PROMPTS)
    assert ids.shape == (4, 2, 77)
    assert ids[0, :, -1].tolist() == [49407, 0]
    assert torch.equal(
        ids[:, 0].clamp(max=49406).masked_fill(ids[:, 0] == 49407, 0), ids[:, 1].masked_fill(ids[:, 1] == 49407, 0)
    )
    assert text.count_truncated(PROMPTS) == 1
    assert text.prepare([]).shape == (0, 2, 77)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ClipTextsConfig(()),
        lambda: ClipTextsConfig((L, dataclasses.replace(L, length=50))),
        lambda: ClipTextsConfig((L,), vector=True),
        lambda: ClipTextsConfig((dataclasses.replace(L, final_norm=False),)),
        lambda: dataclasses.replace(L, skip=3),
        lambda: dataclasses.replace(L, heads=3),
        lambda: dataclasses.replace(L, vocabulary=100),
        lambda: dataclasses.replace(L, layers=0),
    ],
)
def test_refusals(make):
    with pytest.raises(InputError, match=r"expected|needs|does not divide|set skip"):
        make()


def test_without_transformers_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"pip install 'sfumato\[published\]'"):
        ClipText(L)
