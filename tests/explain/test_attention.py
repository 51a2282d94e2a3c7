"""Recorded maps against PyTorch's own attention weights, and that looking changes nothing."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from sfumato.build import ModelConfig
from sfumato.conditioners.clip_text import ClipTextsConfig
from sfumato.conditioning import Conditioning
from sfumato.diffusion.schedule import ScheduleConfig
from sfumato.errors import InputError
from sfumato.explain.attended import attended
from sfumato.explain.attention import WordMaps, enlarged, recorded, square
from sfumato.explain.walk import watched
from sfumato.explain.words import Group
from sfumato.generation.pipeline import Pipeline
from sfumato.generation.request import Draft
from sfumato.networks.clip import ClipTextConfig
from sfumato.networks.hourglass import HourglassConfig
from sfumato.networks.unet import UNet, UNetConfig
from sfumato.nn.attention import Attention
from sfumato.priors.diffusion import DiffusionConfig
from tiny_models import loaded, text_config, unconditional_config

PROMPT = "a red dragon"


def hourglass_config() -> ModelConfig:
    """The tiny text model with a transformer in place of its U-Net, of two levels."""
    config = text_config()
    network = HourglassConfig(4, 4, (16, 32), (1, 2), head_channels=8, condition_channels=16, context_dim=32)
    return dataclasses.replace(config, prior=dataclasses.replace(config.prior, network=network))


def pipeline(config: ModelConfig, **defaults: object) -> Pipeline:
    return Pipeline(loaded(config, **defaults), torch.device("cpu"))


def awake(network: nn.Module) -> nn.Module:
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng) * 0.1)
    return network


@pytest.mark.parametrize("masked", [False, True])
def test_maps_are_those_of_multihead_attention(masked):
    """`nn.MultiheadAttention` with the same projections gives the same weights of every head, and the same answer."""
    torch.manual_seed(0)
    heads, dim, source = 3, 12, 8
    mine = Attention(dim, heads, 4, source)
    other = nn.MultiheadAttention(dim, heads, bias=True, kdim=source, vdim=source, batch_first=True)
    with torch.no_grad():
        other.q_proj_weight.copy_(mine.to_q.weight)
        other.k_proj_weight.copy_(mine.to_k.weight)
        other.v_proj_weight.copy_(mine.to_v.weight)
        other.in_proj_bias.zero_()
        other.out_proj.load_state_dict(mine.to_out.state_dict())
    x, context = torch.randn(2, 10, dim), torch.randn(2, 5, source)
    mask = torch.tensor([[True] * 5, [True, True, False, True, False]]) if masked else None
    ignored = None if mask is None else ~mask
    answer, there = other(x, context, context, key_padding_mask=ignored, need_weights=True, average_attn_weights=False)
    torch.testing.assert_close(mine.maps(x, context, mask), there, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(mine(x, context, mask), answer, rtol=1e-5, atol=1e-6)


def test_maps_with_normed_queries_and_keys_explain_the_answer():
    """Maps times values, through the output map, are what the layer answers."""
    torch.manual_seed(0)
    layer = Attention(12, 3, 4, 8, qk_norm=True)
    x, context = torch.randn(2, 10, 12), torch.randn(2, 5, 8)
    values = layer.to_v(context).unflatten(2, (3, 4))  # (B, L, H, d)
    drawn = torch.einsum("bhnl,blhd->bnhd", layer.maps(x, context), values).flatten(2)
    torch.testing.assert_close(layer.to_out(drawn), layer(x, context), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("config", [text_config, hourglass_config], ids=["unet", "hourglass"])
def test_looking_changes_nothing(config):
    """A picture with its maps recorded is `generate`'s, bit for bit; maps sum to 1; afterwards no hook is left."""
    model = pipeline(config())
    request = model.request(Draft(prompts=(PROMPT,), seed=5))
    plain = model.generate(PROMPT, seed=5)[0]
    sums = []
    with recorded(model.model.prior.network, lambda layer, maps: sums.append(maps.sum(3))) as layers:
        moments, image = watched(model, request)
    assert image.tobytes() == plain.tobytes()
    assert len(sums) == len(layers) * len(moments) > 0
    assert all(len(total) == 1 for total in sums)  # of the two twins, the one that is told the prompt
    torch.testing.assert_close(torch.cat([total.flatten() for total in sums]), torch.ones(sum(t.numel() for t in sums)))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.model.modules())


def test_hooks_go_when_sampling_fails():
    network = pipeline(text_config()).model.prior.network
    with pytest.raises(RuntimeError, match="stop"), recorded(network, lambda layer, maps: None):
        raise RuntimeError("stop")
    assert not any(module._forward_hooks for module in network.modules())


def test_the_told_twin_is_recorded():
    """Guidance runs the prompt and the empty prompt in one batch: the maps are those of the prompt alone."""
    model = pipeline(text_config())
    found = {}
    for guidance in (1.0, 3.0):
        maps = []
        request = model.request(Draft(prompts=(PROMPT,), seed=5, guidance=guidance, steps=1))
        with recorded(model.model.prior.network, lambda layer, one, maps=maps: maps.append(one)):
            watched(model, request)
        found[guidance] = maps
    for one, two in zip(found[1.0], found[3.0], strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)  # kernels differ in their last bits by batch size


@pytest.mark.parametrize("linear", [False, True])
def test_networks_of_the_published_kind(linear):
    """One layer for each spatial transformer's cross-attention, two where self-attention is disabled; none without context."""
    config = UNetConfig(
        4, 4, channels=32, multipliers=(1, 1), num_res_blocks=1, attention_factors=(1, 2), context_dim=8, num_heads=2,
        head_channels=None, linear_projection=linear, disable_self_attentions=(True, False),
    )  # fmt: skip
    network = awake(UNet(config)).eval()
    sizes = []
    cond = Conditioning(context=torch.randn(2, 7, 8))
    with recorded(network, lambda layer, maps: sizes.append(tuple(maps.shape)), rows=1) as layers, torch.no_grad():
        network(torch.randn(2, 4, 8, 8), torch.tensor([5.0, 5.0]), cond)
    fine, coarse = [s for s in sizes if s[2] == 64], [s for s in sizes if s[2] == 16]
    assert set(sizes) == {(1, 2, 64, 7), (1, 2, 16, 7)}
    assert len(fine) == 2 * 3  # one block down and two up, each with two cross-attentions
    assert len(coarse) == 1 + 1 + 2  # down, middle, two up
    assert len(layers) == len(sizes)
    assert sum("attn1" in name for name in layers) == 3


def test_a_model_of_the_published_kind_has_its_words():
    """Stable Diffusion's parts, small: CLIP's tokens, padding attended to, a context of 77."""
    config = text_config()
    network = UNetConfig(
        4, 4, channels=32, multipliers=(1, 2), num_res_blocks=1, attention_factors=(1, 2), context_dim=16, num_heads=2,
        head_channels=None,
    )  # fmt: skip
    prior = DiffusionConfig(network, ScheduleConfig())
    text = ClipTextsConfig((ClipTextConfig(dim=16, layers=1, heads=2),))
    model = pipeline(dataclasses.replace(config, prior=prior, conditioner=text))
    found = attended(model, model.request(Draft(prompts=("a lighthouse at dusk",), seed=1, steps=2)))
    names = [name for name, _ in found.shares()]
    assert names == ["a", "lighthouse", "at", "dusk", "(begin)", "(end)", "(padding)"]
    assert sum(len(group.tokens) for group in found.maps.groups) == 77
    assert dict(found.shares())["(padding)"] > 0.5  # 71 of the 77 tokens, under random weights
    torch.testing.assert_close(found.maps.mean().sum(0), torch.ones(8, 8))
    assert [tuple(one.shape[-2:]) for one in found.maps.by_layer] == [(8, 8), (4, 4), (4, 4), (4, 4), (4, 4), (8, 8), (8, 8)]


def test_word_maps_are_means_of_what_came():
    """Steps, layers and heads are means of the same numbers, each with all others counted alike, coarse layers enlarged."""
    rng = torch.Generator().manual_seed(0)
    groups = [Group("a", (1, 2), True), Group("rest", (0, 3))]
    words = WordMaps(groups, (4, 4))
    given = []
    for _ in range(3):
        words.next_step()
        fine, coarse = (torch.randn(1, h, n, 4, generator=rng).softmax(3) for h, n in ((2, 16), (3, 4)))
        words.add(0, fine)
        words.add(1, coarse)
        given.append((fine, coarse))
    for step, (fine, coarse) in enumerate(given):
        wide = coarse[0].unflatten(1, (2, 2)).repeat_interleave(2, 1).repeat_interleave(2, 2)  # (3, 4, 4, L)
        every = torch.cat([fine[0].unflatten(1, (4, 4)), wide])  # (5 heads, 4, 4, L)
        there = every[..., 1:3].sum(3).mean(0)
        torch.testing.assert_close(words.steps()[step, 0], there)
    torch.testing.assert_close(words.steps().sum(1), torch.ones(3, 4, 4))
    torch.testing.assert_close(words.layers().sum(1), torch.ones(2, 4, 4))
    torch.testing.assert_close(words.heads(1).mean(0), words.layers()[1])
    torch.testing.assert_close((2 * words.layers()[0] + 3 * words.layers()[1]) / 5, words.mean())
    torch.testing.assert_close(words.shares(words.mean()).sum(), torch.tensor(1.0))


def test_levels_have_their_shape():
    assert square(16 * 24, (32, 48)) == (16, 24)
    assert square(32 * 48, (32, 48)) == (32, 48)
    assert square(8, (8, 16)) == (2, 4)
    torch.testing.assert_close(enlarged(torch.tensor([[1.0, 2.0]]), (2, 4)), torch.tensor([[1.0, 1, 2, 2], [1, 1, 2, 2]]))


def test_a_picture_has_its_words():
    model = pipeline(hourglass_config())
    found = attended(model, model.request(Draft(prompts=(PROMPT,), seed=1)))
    short = attended(model, model.request(Draft(prompts=("a",), seed=1)))
    names = [name for name, _ in found.shares()]
    assert names == ["a", "red", "dragon", "(begin)", "(end)"]
    assert sum(share for _, share in found.shares()) == pytest.approx(1, abs=1e-5)
    assert dict(short.shares())["(padding)"] == 0  # masked
    facts = found.to_json()
    assert len(facts["shares_by_head"]) == len(facts["layers"]) == 1 + 2 + 1
    assert len(facts["times"]) == len(facts["shares_by_step"]) == 3


def test_what_has_no_words_says_so():
    model = pipeline(unconditional_config())
    with pytest.raises(InputError, match="told no words"):
        attended(model, model.request(Draft(prompts=(PROMPT,), seed=1)))
    words = WordMaps([Group("a", (0,), True)], (4, 4))
    words.next_step()
    with pytest.raises(InputError, match="no cross-attention"):
        words.steps()
