"""Networks over codes: what each logit may see and does see, the cache, the window, the same numbers as GPT-2."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato import config as configs
from sfumato.conditioning import Conditioning
from sfumato.errors import InputError
from sfumato.latent import Codes
from sfumato.networks.gpt import GPT, GPTConfig, window_start
from sfumato.networks.pixelcnn import PixelCNNConfig
from sfumato.networks.raster import CodeNetwork, place, to_grid, to_sequence
from sfumato.priors.autoregressive import build_code_network

NONE = Conditioning()
GPT_SMALL = GPTConfig(vocabulary=5, height=4, width=3, dim=16, depth=2, heads=2)
PIXELCNN_SMALL = PixelCNNConfig(vocabulary=5, dim=12, depth=4, first_kernel=3)
MASK = torch.tensor([[True, False, True], [True, True, False]])
CONTEXT = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(7))
CASES: dict[str, tuple[Any, Conditioning]] = {
    "gpt": (GPT_SMALL, NONE),
    "gpt-rgb": (dataclasses.replace(GPT_SMALL, channels=3), NONE),
    "gpt-class": (dataclasses.replace(GPT_SMALL, num_classes=4), Conditioning(vector=torch.tensor([3, 1]))),
    "gpt-prefix": (dataclasses.replace(GPT_SMALL, context_dim=6), Conditioning(context=CONTEXT)),
    "gpt-prefix-mask": (dataclasses.replace(GPT_SMALL, context_dim=6), Conditioning(context=CONTEXT, mask=MASK.flip(1))),
    "gpt-cross-mask": (
        dataclasses.replace(GPT_SMALL, context_dim=6, context="cross", vector_dim=2),
        Conditioning(context=CONTEXT, mask=MASK, vector=torch.tensor([[0.5, 1.0], [-1.0, 0.0]])),
    ),
    "pixelcnn": (PIXELCNN_SMALL, NONE),
    "pixelcnn-rgb": (dataclasses.replace(PIXELCNN_SMALL, channels=3, dim=36), NONE),
    "pixelcnn-class": (dataclasses.replace(PIXELCNN_SMALL, num_classes=4), Conditioning(vector=torch.tensor([3, 1]))),
    "pixelcnn-map": (
        dataclasses.replace(PIXELCNN_SMALL, concat_channels=2, vector_dim=2),
        Conditioning(concat=CONTEXT.flatten()[:24].repeat(2).view(2, 2, 4, 3), vector=torch.ones(2, 2)),
    ),
}


def made(config: Any) -> CodeNetwork:
    torch.manual_seed(0)
    network = build_code_network(config).double().eval()
    g = torch.Generator().manual_seed(5)
    with torch.no_grad():  # far from zero, so that everything matters
        for p in network.parameters():
            p.add_(torch.randn(p.shape, generator=g, dtype=p.dtype) * 0.3)
    return network


def case(name: str) -> tuple[CodeNetwork, Conditioning, Tensor]:
    config, cond = CASES[name]
    codes = torch.randint(config.vocabulary, (2, config.channels, 4, 3), generator=torch.Generator().manual_seed(1))
    return made(config), cond.to(dtype=torch.float64), codes


def test_raster_order_is_row_place_channel():
    grid = torch.arange(2 * 3 * 2 * 2).view(2, 3, 2, 2)
    sequence = to_sequence(grid)
    assert sequence[0].tolist() == [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]
    assert torch.equal(to_grid(sequence, (3, 2, 2)), grid)
    for index in range(12):
        channel, row, column = place(index, (3, 2, 2))
        assert grid[1, channel, row, column] == sequence[1, index]


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_changing_a_code_changes_no_logits_before_or_at_it(name: str):
    network, cond, codes = case(name)
    before = network(codes, cond)
    shape = codes.shape[1:]
    assert before.shape == (*codes.shape, network.config.vocabulary)
    changed_later = 0
    for index in range(shape.numel()):
        sequence = to_sequence(codes).clone()
        sequence[:, index] = (sequence[:, index] + 1) % 5
        difference = (network(to_grid(sequence, shape), cond) - before).abs()
        each = to_sequence(difference.amax(-1))
        assert each[:, : index + 1].max() == 0
        changed_later += int((each[:, index + 1 :] > 0).any(0).all())  # a unit may be at rest in one picture
    assert changed_later == shape.numel()  # and every later one sees it: no blind spot


@pytest.mark.parametrize("name", CASES)
def test_gradients_reach_earlier_codes_only_and_every_parameter(name: str):
    network, cond, codes = case(name)
    found: list[Tensor] = []
    table = network.tokens if isinstance(network, GPT) else network.embedding

    def keep(_module: Any, _inputs: Any, output: Tensor) -> Tensor:
        found.append(output.detach().requires_grad_())
        return found[-1] + 0 * output

    handle = table.register_forward_hook(keep)
    shape, index = codes.shape[1:], codes.shape[1] * 7 + codes.shape[1] - 1  # the last channel of place (2, 1)
    logits = network(codes, cond)
    channel, row, column = place(index, shape)
    (grad,) = torch.autograd.grad(logits[:, channel, row, column].square().sum(), found[0])
    handle.remove()
    if isinstance(network, GPT):
        each = grad.abs().amax(-1)  # (B, N - 1)
    else:
        each = to_sequence(grad.abs().amax(-1))
    assert (each[:, :index] > 0).any(0).all()  # a unit may be at rest in one picture
    assert each[:, index:].max() == 0
    network(codes, cond).square().sum().backward()
    for key, p in network.named_parameters():
        assert p.grad is not None, key
        assert p.grad.abs().max() > 0, key


@pytest.mark.parametrize("name", CASES)
def test_one_code_after_the_other_gives_the_same_logits(name: str):
    network, cond, codes = case(name)
    whole = to_sequence_of_logits(network(codes, cond))
    predict = network.predictor(cond, 2, codes.shape[1:])
    sequence = torch.zeros_like(to_sequence(codes))  # codes to come are not looked at
    for index in range(sequence.shape[1]):
        torch.testing.assert_close(predict(sequence, index), whole[:, index], atol=1e-12, rtol=0)
        sequence[:, index] = to_sequence(codes)[:, index]


def to_sequence_of_logits(logits: Tensor) -> Tensor:
    return logits.permute(0, 2, 3, 1, 4).flatten(1, 3)


@pytest.mark.parametrize("name", [name for name, (_, cond) in CASES.items() if cond is not NONE])
@torch.no_grad()
def test_every_logit_listens_to_the_condition(name: str):
    network, cond, codes = case(name)
    for slot in ("vector", "context", "concat"):
        value = getattr(cond, slot)
        if value is not None:
            other = dataclasses.replace(cond, **{slot: (value + 1) % 4 if slot == "vector" else value + 1})
            assert ((network(codes, other) - network(codes, cond)).abs().amax(-1) > 0).all(), slot
            with pytest.raises(AssertionError, match=slot):
                network(codes, dataclasses.replace(cond, **{slot: None}))


@pytest.mark.parametrize("name", ["gpt-prefix-mask", "gpt-cross-mask"])
@torch.no_grad()
def test_context_that_does_not_count_is_not_seen(name: str):
    network, cond, codes = case(name)
    assert cond.mask is not None
    assert cond.context is not None
    hidden = torch.where(cond.mask[..., None], cond.context, torch.tensor(9.0).double())
    moved = dataclasses.replace(cond, context=hidden)
    torch.testing.assert_close(network(codes, moved), network(codes, cond), atol=1e-12, rtol=0)


@pytest.mark.parametrize("crossed", [False, True])
@torch.no_grad()
def test_gpt_agrees_with_gpt2_of_transformers(crossed: bool):
    """fp32, the same weights, the same sums in another order: 1e-5."""
    transformers = pytest.importorskip("transformers")
    config = GPTConfig(
        7, 3, 4, dim=24, depth=3, heads=3, **({"context_dim": 24, "context": "cross"} if crossed else {})
    )  # fmt: skip
    network = made(config).float()
    assert isinstance(network, GPT)
    oracle = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=7, n_positions=12, n_embd=24, n_layer=3, n_head=3, activation_function="gelu",
            add_cross_attention=crossed, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, tie_word_embeddings=False,
            attn_implementation="eager",
        )
    ).eval()  # fmt: skip

    def copy(theirs: Any, ours: Any) -> None:
        transposed = type(theirs).__name__ == "Conv1D"
        theirs.weight.copy_(ours.weight.T if transposed else ours.weight)
        if getattr(ours, "bias", None) is not None:
            theirs.bias.copy_(ours.bias)

    copy(oracle.transformer.wpe, network.positions)
    copy(oracle.transformer.ln_f, network.norm)
    copy(oracle.lm_head, network.head)
    for theirs, ours in zip(oracle.transformer.h, network.blocks, strict=True):
        pairs = [
            (theirs.ln_1, ours.norm1), (theirs.attn.c_attn, ours.attn.qkv), (theirs.attn.c_proj, ours.attn.out),
            (theirs.ln_2, ours.norm2), (theirs.mlp.c_fc, ours.wide), (theirs.mlp.c_proj, ours.narrow),
        ]  # fmt: skip
        if crossed:
            cross = theirs.crossattention
            pairs += [(theirs.ln_cross_attn, ours.norm_cross), (cross.q_attn, ours.cross.q)]
            pairs += [(cross.c_attn, ours.cross.kv), (cross.c_proj, ours.cross.out)]
        for pair in pairs:
            copy(*pair)
    g = torch.Generator().manual_seed(3)
    codes = torch.randint(7, (2, 1, 3, 4), generator=g)
    context = torch.randn(2, 5, 24, generator=g) if crossed else None
    begun = torch.cat([network.start.expand(2, 1, -1), network.tokens(to_sequence(codes)[:, :-1])], 1)
    extra = {"encoder_hidden_states": context} if crossed else {}
    wanted = oracle(inputs_embeds=begun, **extra).logits
    found = to_sequence_of_logits(network(codes, Conditioning(context=context)))
    assert found.std() > 0.3
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_window_stays_inside_and_has_its_code_in_the_middle():
    """A 16 wide window over 40: as in Esser et al. 2020, Fig. 3; before the 8th place it is at the border."""
    starts = [window_start(at, 40, 16) for at in range(40)]
    assert starts == [0] * 9 + list(range(1, 24)) + [24] * 8
    assert [window_start(at, 3, 16) for at in range(3)] == [0, 0, 0]


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("size", [(4, 7), (6, 3), (6, 5), (7, 2)])
@torch.no_grad()
def test_gpt_beyond_the_trained_size(size: tuple[int, int], channels: int):
    network = made(dataclasses.replace(GPT_SMALL, channels=channels))
    shape = (channels, *size)
    codes = torch.randint(5, (2, *shape), generator=torch.Generator().manual_seed(4))
    logits = network(codes, NONE)
    assert logits.shape == (2, *shape, 5)
    for row in range(size[0]):
        for column in range(size[1]):
            top, left = window_start(row, size[0], 4), window_start(column, size[1], 3)
            window = codes[:, :, top : top + 4, left : left + 3]
            wanted = network(window, NONE)[:, :, row - top, column - left]
            torch.testing.assert_close(logits[:, :, row, column], wanted, atol=1e-12, rtol=0)
    predict, sequence = network.predictor(NONE, 2, shape), torch.zeros_like(to_sequence(codes))
    for index in range(sequence.shape[1]):
        found = predict(sequence, index)
        torch.testing.assert_close(found, to_sequence_of_logits(logits)[:, index], atol=1e-12, rtol=0)
        sequence[:, index] = to_sequence(codes)[:, index]


@torch.no_grad()
def test_pixelcnn_sees_the_square_of_its_kernels_and_nothing_else():
    """L layers of a k x k square reach L (k // 2) places aside and, with the shift to the row above, one more row up."""
    network = made(PixelCNNConfig(vocabulary=3, dim=8, depth=2, kernel=3, first_kernel=3))
    codes, row, column = torch.zeros(1, 1, 9, 9, dtype=torch.int64), 5, 4
    before = network(codes, NONE)[0, 0, row, column]
    seen = torch.zeros(9, 9, dtype=torch.bool)
    for i in range(9):
        for j in range(9):
            other = codes.clone()
            other[0, 0, i, j] = 1
            seen[i, j] = not torch.equal(network(other, NONE)[0, 0, row, column], before)
    wanted = torch.zeros(9, 9, dtype=torch.bool)
    wanted[2:5, 2:7] = True  # the rows above, both sides alike
    wanted[5, 2:4] = True  # before it in its row
    assert torch.equal(seen, wanted)


def test_gpt_checkpointing_gives_the_same_gradients():
    network, cond, codes = case("gpt-cross-mask")
    grads = []
    for flag in (False, True):
        network.checkpointing = flag
        network.zero_grad()
        network(codes, cond).square().sum().backward()
        grads.append([p.grad.clone() for p in network.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@torch.no_grad()
def test_networks_in_bf16():
    """bf16 keeps 8 bits: 0.4 % a rounding, some dozens of them."""
    for name in ("gpt-cross-mask", "pixelcnn-map"):
        network, cond, codes = case(name)
        wanted = network(codes, cond)
        found = network.bfloat16()(codes, cond.to(dtype=torch.bfloat16))
        assert found.dtype == torch.bfloat16
        assert (found.double() - wanted).norm() / wanted.norm() < 0.05


def test_gpt_counts_its_published_parameters():
    """GPT-2 small: 124,439,808 with its tied head (Radford et al. 2019 as released); ours has a start and an untied head."""
    with torch.device("meta"):
        network = GPT(GPTConfig(50257, 32, 32, dim=768, depth=12, heads=12))
    count = sum(p.numel() for p in network.parameters())
    assert count == 124_439_808 + 768 + 50257 * 768


@pytest.mark.parametrize(
    ("kind", "fields", "words"),
    [
        (GPTConfig, {"height": 0, "width": 2}, "height is 0"),
        (GPTConfig, {"height": 2, "width": 2, "dim": 10, "heads": 4}, "does not divide"),
        (GPTConfig, {"height": 2, "width": 2, "num_classes": 3, "vector_dim": 3}, "give one"),
        (GPTConfig, {"height": 2, "width": 2, "dropout": 1.0}, "dropout"),
        (PixelCNNConfig, {"kernel": 4}, "odd number"),
        (PixelCNNConfig, {"first_kernel": 1}, "odd number"),
        (PixelCNNConfig, {"dim": 16, "channels": 3}, "multiple"),
        (PixelCNNConfig, {"depth": 0}, "depth is 0"),
        (PixelCNNConfig, {"concat_channels": -1}, "concat_channels"),
        (PixelCNNConfig, {"num_classes": 3, "vector_dim": 3}, "give one"),
    ],
)
def test_configs_refuse(kind: Any, fields: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        kind(vocabulary=4, **fields)


@pytest.mark.parametrize("name", CASES)
def test_configs_survive_json(name: str):
    config = CASES[name][0]
    assert configs.from_dict(type(config), configs.to_dict(config)) == config


def test_codes_have_a_shape_a_level():
    assert Codes((8, 4), 512).shapes(32, 64) == ((1, 4, 8), (1, 8, 16))
    assert Codes((1,), 256, channels=3).shapes(32, 32) == ((3, 32, 32),)
    with pytest.raises(InputError, match="width 36 is not a positive multiple of 8"):
        Codes((4, 8), 512).shapes(32, 36)
