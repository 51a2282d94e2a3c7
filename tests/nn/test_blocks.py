"""Blocks against formulas written out here, and against torch's own modules."""

import math

import pytest
import torch
import torch.nn.functional as F

from sfumato.errors import InputError
from sfumato.nn.attention import Attention, FeedForward, PlainAttention2d, SelfAttention2d, SpatialTransformer
from sfumato.nn.layers import Downsample, GroupNorm, Upsample, num_groups, timestep_embedding, zero
from sfumato.nn.residual import ResBlock, TimeResBlock


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shake(module: torch.nn.Module) -> torch.nn.Module:
    """Random parameters everywhere, also where a block starts from zero."""
    g = rng(1)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=g) * 0.2 + (1.0 if p.ndim == 1 else 0.0))
    return module


@pytest.mark.parametrize(("channels", "groups"), [(320, 32), (64, 32), (48, 24), (20, 20), (7, 7), (36, 18), (37, 1), (1, 1)])
def test_groups_divide_and_are_the_most_up_to_32(channels, groups):
    assert num_groups(channels) == groups


@pytest.mark.parametrize("eps", [1e-5, 1e-6])
def test_group_norm_keeps_its_input_type_and_uses_eps(eps):
    x = torch.randn(2, 64, 3, 3, generator=rng()) * 1e-3  # small enough for eps to matter
    grouped = x.view(2, 32, 2 * 9)
    wanted = (grouped - grouped.mean(2, keepdim=True)) / (grouped.var(2, unbiased=False, keepdim=True) + eps).sqrt()
    torch.testing.assert_close(GroupNorm(64, eps)(x), wanted.view_as(x), atol=1e-5, rtol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert GroupNorm(64, eps)(x.bfloat16()).dtype == torch.bfloat16


def test_a_group_of_one_number_has_no_variance():
    norm = GroupNorm(8, 1e-5)
    with pytest.raises(InputError, match="8 channels of one place"):
        norm(torch.ones(1, 8, 1, 1))
    assert norm(torch.ones(1, 8, 1, 2)).shape == (1, 8, 1, 2)
    assert GroupNorm(64, 1e-5)(torch.ones(1, 64, 1, 1)).shape == (1, 64, 1, 1)


def test_timestep_embedding_is_cosines_then_sines():
    embedding = timestep_embedding(torch.tensor([0, 3, 999]), 8)
    for row, time in zip(embedding, [0, 3, 999], strict=True):
        angles = [time * 10000 ** (-2 * i / 8) for i in range(4)]
        wanted = [math.cos(a) for a in angles] + [math.sin(a) for a in angles]
        torch.testing.assert_close(row, torch.tensor(wanted), atol=1e-4, rtol=0)  # 999 in fp32 has 6e-5 of phase error
    odd = timestep_embedding(torch.tensor([0.5]), 9)
    assert odd.shape == (1, 9)
    assert odd[0, 8] == 0


def test_downsampling_pads_right_and_below_only_when_asymmetric():
    x = torch.randn(1, 4, 6, 6, generator=rng())
    block = Downsample(4, asymmetric=True)
    wanted = F.conv2d(F.pad(x, (0, 1, 0, 1)), block.conv.weight, block.conv.bias, stride=2)
    torch.testing.assert_close(block(x), wanted)
    assert block(x).shape == Downsample(4)(x).shape == (1, 4, 3, 3)
    assert not torch.allclose(block(x), F.conv2d(x, block.conv.weight, block.conv.bias, stride=2, padding=1))


def test_upsampling_repeats_pixels_before_the_convolution():
    x = torch.randn(1, 4, 3, 5, generator=rng())
    block = Upsample(4)
    torch.testing.assert_close(block(x), block.conv(x.repeat_interleave(2, 2).repeat_interleave(2, 3)))


def test_zero_sets_every_parameter():
    assert all(p.abs().max() == 0 for p in zero(torch.nn.Linear(3, 4)).parameters())


@pytest.mark.parametrize("scale_shift", [False, True])
def test_time_residual_block_formula(scale_shift):
    block = shake(TimeResBlock(8, 16, 12, scale_shift=scale_shift))
    x, e = torch.randn(2, 8, 4, 4, generator=rng()), torch.randn(2, 12, generator=rng(2))
    h = block.conv1(F.silu(F.group_norm(x, 8, block.norm1.weight, block.norm1.bias)))
    told = block.time(F.silu(e))[..., None, None]
    if scale_shift:
        h = F.group_norm(h, 16, block.norm2.weight, block.norm2.bias) * (1 + told[:, :16]) + told[:, 16:]
    else:
        h = F.group_norm(h + told, 16, block.norm2.weight, block.norm2.bias)
    torch.testing.assert_close(block(x, e), block.skip(x) + block.conv2(F.silu(h)))


def test_residual_branches_start_as_the_identity():
    x, e = torch.randn(2, 32, 4, 4, generator=rng()), torch.randn(2, 8, generator=rng(2))
    torch.testing.assert_close(TimeResBlock(32, 32, 8)(x, e), x)
    torch.testing.assert_close(SelfAttention2d(32, 4)(x), x)
    torch.testing.assert_close(SpatialTransformer(32, 4, 8, depth=1, context_dim=6)(x, torch.zeros(2, 3, 6)), x)
    assert not torch.allclose(ResBlock(32, 32)(x), x)  # the autoencoder's block starts at random, as published


def test_attention_formula_with_mask():
    block = Attention(12, heads=3, head_dim=5, context_dim=7)
    x, context = torch.randn(2, 4, 12, generator=rng()), torch.randn(2, 6, 7, generator=rng(2))
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 1, 0]]).bool()
    q, k, v = (w(s).view(2, -1, 3, 5) for w, s in ((block.to_q, x), (block.to_k, context), (block.to_v, context)))
    scores = torch.einsum("bnhd,blhd->bhnl", q, k) / math.sqrt(5)
    weights = scores.masked_fill(~mask[:, None, None], -math.inf).softmax(-1)
    wanted = block.to_out(torch.einsum("bhnl,blhd->bnhd", weights, v).reshape(2, 4, 15))
    torch.testing.assert_close(block(x, context, mask), wanted)


def test_normed_queries_and_keys_ignore_their_scale():
    torch.manual_seed(0)
    block = Attention(8, heads=2, head_dim=4, qk_norm=True)
    x = torch.randn(1, 5, 8, generator=rng())
    before = block(x)
    with torch.no_grad():
        block.to_q.weight *= 50
    torch.testing.assert_close(block(x), before, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("qkv_first", [False, True])
def test_self_attention_order_of_channels(qkv_first):
    block = shake(SelfAttention2d(8, heads=2, qkv_first=qkv_first))
    x = torch.randn(1, 8, 2, 3, generator=rng())
    qkv = block.qkv(block.norm(x).flatten(2))[0]  # (24, 6)
    out = []
    for head in range(2):
        starts = [8 * i + 4 * head for i in range(3)] if qkv_first else [12 * head + 4 * i for i in range(3)]
        q, k, v = (qkv[s : s + 4] for s in starts)
        out.append(v @ ((q.T @ k) / 2).softmax(-1).T)  # sqrt(4) = 2
    wanted = x + block.proj_out(torch.cat(out)[None]).view_as(x)
    torch.testing.assert_close(block(x), wanted, atol=1e-4, rtol=1e-4)


def test_plain_attention_is_torchs_with_one_head():
    block = shake(PlainAttention2d(8))
    x = torch.randn(2, 8, 3, 2, generator=rng())
    theirs = torch.nn.MultiheadAttention(8, 1, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([m.weight[:, :, 0, 0] for m in (block.q, block.k, block.v)]))
        theirs.in_proj_bias.copy_(torch.cat([m.bias for m in (block.q, block.k, block.v)]))
        theirs.out_proj.weight.copy_(block.proj_out.weight[:, :, 0, 0])
        theirs.out_proj.bias.copy_(block.proj_out.bias)
    tokens = block.norm(x).flatten(2).transpose(1, 2)
    wanted = x + theirs(tokens, tokens, tokens)[0].transpose(1, 2).reshape(x.shape)
    torch.testing.assert_close(block(x), wanted, atol=1e-4, rtol=1e-4)


def test_geglu_multiplies_by_the_gelu_of_the_second_half():
    block = FeedForward(4)
    x = torch.randn(3, 4, generator=rng())
    w, b = block.project.weight, block.project.bias
    wanted = block.out((x @ w[:16].T + b[:16]) * F.gelu(x @ w[16:].T + b[16:]))
    torch.testing.assert_close(block(x), wanted)


def test_linear_and_convolutional_projections_are_the_same_numbers():
    conv = shake(SpatialTransformer(32, 4, 8, depth=2, context_dim=6))
    linear = SpatialTransformer(32, 4, 8, depth=2, context_dim=6, linear=True)
    state = {k: v.squeeze() if "proj" in k else v for k, v in conv.state_dict().items()}
    linear.load_state_dict(state)
    x, context = torch.randn(2, 32, 3, 4, generator=rng()), torch.randn(2, 5, 6, generator=rng(2))
    # two matrix products in another order; the shaken weights make values of order 100
    torch.testing.assert_close(linear(x, context), conv(x, context), atol=1e-3, rtol=1e-4)
