"""The optional package's quantizers behind our interface: their own codes and averages, our losses, gauges and steps."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato import config as configs
from sfumato.errors import InputError
from sfumato.first_stages.vq import VQConfig, build_quantizer
from sfumato.networks.conv_autoencoder import AutoencoderConfig
from sfumato.nn.packaged import Packaged, PackagedConfig
from sfumato.nn.quantizers import FSQ, Codebook, CodebookAverage, vectors

package = pytest.importorskip("vector_quantize_pytorch")

CASES: dict[str, tuple[PackagedConfig, int, int, tuple[int, ...]]] = {
    "ema": (PackagedConfig("ema"), 12, 4, ()),
    "ema-rotation": (PackagedConfig("ema", rotation=True), 12, 4, ()),
    "cosine": (PackagedConfig("cosine"), 12, 4, ()),
    "simvq": (PackagedConfig("simvq"), 12, 4, ()),
    "fsq": (PackagedConfig("fsq"), 60, 3, (4, 3, 5)),
    "lfq": (PackagedConfig("lfq"), 16, 4, ()),
    "residual": (PackagedConfig("residual", depth=3), 12, 4, ()),
}


def made(name: str, **changes: Any) -> Packaged:
    config, size, channels, levels = CASES[name]
    torch.manual_seed(0)
    config = PackagedConfig(**{**config.__dict__, **changes})
    return Packaged(config, size, channels, levels)


def latents(channels: int, seed: int = 1, side: int = 5) -> Tensor:
    return torch.randn(2, channels, side, side + 1, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_the_interface(name: str, training: bool) -> None:
    """Indices, codes and training agree; gauges are of the codes; nothing but `update` moves any."""
    made_one = made(name).train(training)
    z = latents(made_one.channels)
    before = {k: v.clone() for k, v in made_one.state_dict().items()}
    found = made_one.indices(z)
    depth = made_one.depth
    assert found.dtype == torch.int64
    assert found.shape == ((2, depth, 5, 6) if depth > 1 else (2, 5, 6))
    assert int(found.min()) >= 0
    assert int(found.max()) < made_one.num_codes
    codes = made_one.lookup(found)
    assert codes.shape == z.shape
    quantized = made_one.quantize(z)
    assert torch.equal(quantized.codes, found)
    torch.testing.assert_close(quantized.z_q, codes, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(made_one(z), codes)
    used = [len(grid.unique()) / made_one.num_codes for grid in (found.unbind(1) if depth > 1 else (found,))]
    assert quantized.used.item() == pytest.approx(sum(used) / len(used))
    assert 1 <= quantized.perplexity <= made_one.num_codes
    assert quantized.commitment.shape == quantized.codebook.shape == (2,)
    assert all(torch.equal(v, before[k]) for k, v in made_one.state_dict().items())


@pytest.mark.parametrize("name", CASES)
def test_gradients_reach_the_latent(name: str) -> None:
    made_one = made(name).train()
    z = latents(made_one.channels).requires_grad_()
    quantized = made_one.quantize(z)
    weight = latents(made_one.channels, seed=3)
    (grad,) = torch.autograd.grad((quantized.z_q * weight).sum(), z, retain_graph=True)
    assert grad.isfinite().all()
    if name in ("ema", "simvq", "lfq", "residual"):
        torch.testing.assert_close(grad, weight)  # straight through
    else:
        assert (grad.abs().sum(1) > 0).all()
    if name != "fsq":
        quantized.loss(0.25).sum().backward()
    assert [n for n, p in made_one.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert len(list(made_one.parameters())) == (name == "simvq")


def test_the_commitment_is_the_squared_distance() -> None:
    """Of each level for residual codes, of directions for cosine; nothing for scalars."""
    for name in ("ema", "simvq", "lfq"):
        one = made(name).train()
        z = latents(one.channels)
        quantized = one.quantize(z)
        torch.testing.assert_close(quantized.commitment, (z - one.lookup(quantized.codes)).square().flatten(1).sum(1))
    one = made("cosine").train()
    z = latents(4)
    quantized, unit = one.quantize(z), F.normalize(z, dim=1)
    torch.testing.assert_close(quantized.commitment, (unit - quantized.z_q).square().flatten(1).sum(1))
    torch.testing.assert_close(quantized.z_q.norm(dim=1), torch.ones(2, 5, 6))
    one = made("residual").train()
    quantized = one.quantize(z)
    books = one.module.codebooks
    rest, total = z, torch.zeros(2)
    for book, grid in zip(books, quantized.codes.unbind(1), strict=True):
        rest = rest - book[grid].permute(0, 3, 1, 2)
        total = total + rest.square().flatten(1).sum(1)
    torch.testing.assert_close(quantized.commitment, total)
    assert made("fsq").quantize(latents(3)).loss(1).abs().max() == 0


def test_codes_are_the_nearest() -> None:
    z = latents(4)
    one = made("ema")
    assert torch.equal(one.indices(z).flatten(), torch.cdist(vectors(z), one.module.codebook).argmin(1))
    one = made("cosine")
    assert torch.equal(one.indices(z).flatten(), (vectors(z) @ one.module.codebook.T).argmax(1))
    one = made("simvq")
    book = one.module.frozen_codebook @ one.module.code_transform.weight.T
    assert torch.equal(one.indices(z).flatten(), torch.cdist(vectors(z), book).argmin(1))
    one = made("lfq")
    assert torch.equal(one.quantize(z).z_q, z.sign())
    bits = (vectors(z) > 0).long() @ torch.tensor([8, 4, 2, 1])
    assert torch.equal(one.indices(z).flatten(), bits)


def test_fsq_is_our_own() -> None:
    """Two implementations of arXiv 2309.15505."""
    z = 2 * latents(3)
    theirs, ours = made("fsq").quantize(z), FSQ((4, 3, 5)).quantize(z)
    assert torch.equal(theirs.codes, ours.codes)
    torch.testing.assert_close(theirs.z_q, ours.z_q)
    assert torch.equal(made("fsq").lookup(ours.codes), FSQ((4, 3, 5)).lookup(ours.codes))


def test_the_entropy_loss_of_lfq_is_that_of_signs() -> None:
    """p(k | z) is the softmax of 2 * 100 <z, e_k> over all sign vectors, here one by one; a place's loss, times 30 places."""
    one = made("lfq", entropy_weight=0.5).train()
    z = 0.002 * latents(4)
    signs = torch.tensor([[(k >> (3 - i) & 1) * 2 - 1 for i in range(4)] for k in range(16)]).float()
    p = (200 * vectors(z) @ signs.T).softmax(1)
    each = -(p * p.clamp(min=1e-5).log()).sum(1).mean()
    mean = p.mean(0)
    both = -(mean * mean.clamp(min=1e-5).log()).sum()
    found = one.quantize(z)
    torch.testing.assert_close(found.codebook, (0.5 * (each - both) * 30).expand(2), rtol=1e-4, atol=1e-4)
    assert one.eval().quantize(z).codebook.abs().max() == 0


@pytest.mark.parametrize("name", ["ema", "cosine", "residual"])
def test_a_step_is_what_the_package_does_in_its_forward_pass(name: str) -> None:
    """The same batch through the package's own training pass and through observe (in two parts) and update."""
    one, other = made(name, decay=0.8).train(), made(name, decay=0.8).train()
    z = latents(4)
    for book in [layer._codebook for layer in getattr(other.module, "layers", [other.module])]:
        book.decay = 0.8
    other.module(z.flatten(2).transpose(1, 2))
    one.reset()
    for part in z.split(1):
        one.observe(part, one.quantize(part).codes, torch.Generator().manual_seed(0))
    before = {k: v.clone() for k, v in one.module.state_dict().items()}
    one.update()
    after, wanted = one.module.state_dict(), other.module.state_dict()
    moved = [k for k in after if after[k].is_floating_point() and not torch.equal(after[k], before[k])]
    assert len(moved) >= 3
    for k, v in after.items():
        torch.testing.assert_close(v, wanted[k], atol=1e-5, rtol=1e-4)


def test_it_averages_nearly_as_our_own_codebook_does() -> None:
    """The package smooths counts by K eps, eps = 1e-5; all else is the same arithmetic."""
    one = made("ema", decay=0.9)
    book = Codebook(12, 4)
    with torch.no_grad():
        book.embedding.weight.copy_(one.module.codebook)
    average = CodebookAverage(book, 0.9, 0.0)
    for seed in range(5):
        z = latents(4, seed)
        for observer, codes in ((one, one.indices(z)), (average, book.indices(z))):
            observer.reset()
            observer.observe(z, codes, torch.Generator().manual_seed(seed))
            observer.update()
    torch.testing.assert_close(one.module.codebook, book.embedding.weight, atol=1e-3, rtol=1e-3)


def test_dead_codes_become_latents_by_the_given_generator() -> None:
    z = latents(4)
    made_twice = []
    for _ in range(2):
        one = made("ema", decay=0.0, revive=0.5)
        torch.manual_seed(len(made_twice))  # the global generator has no say
        one.observe(z, one.indices(z), torch.Generator().manual_seed(3))
        counts = one.counts[0].clone()
        one.update()
        made_twice.append(one.module.codebook.clone())
    dead = counts < 0.5 * counts.mean()
    assert dead.any()
    assert torch.equal(made_twice[0], made_twice[1])
    rows = vectors(z)
    assert torch.cdist(made_twice[0][dead], rows).min(1).values.max() < 1e-4
    assert one.module._codebook.cluster_size[0, dead].eq(one.module._codebook.cluster_size[0, dead][0]).all()


@pytest.mark.parametrize("name", CASES)
def test_half_precision_finds_the_same_codes(name: str) -> None:
    """Codes rounded to 16 bits, searched in fp32: nearly all indices stay."""
    one = made(name).eval()
    z = latents(one.channels)
    wanted = one.indices(z)
    half = one.half()
    assert (half.indices(z.half()) == wanted).float().mean() > 0.9
    assert half(z.half()).dtype == torch.float16


@pytest.mark.parametrize("name", CASES)
def test_its_state_is_whole(name: str) -> None:
    one, other = made(name), made(name)
    one.observe(latents(one.channels), one.indices(latents(one.channels)), torch.Generator())
    one.update()
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(latents(one.channels, 5)), other(latents(one.channels, 5)))
    assert all(key.startswith("module.") for key in one.state_dict())


def test_configs_refuse_and_survive_json() -> None:
    for fields, words in (
        ({"decay": 1.0}, "decay is 1"), ({"revive": 1.0}, "revive is 1"), ({"depth": 2}, "depth is 2"),
        ({"method": "residual"}, "depth is 1"), ({"entropy_weight": -1.0}, "entropy_weight"),
        ({"method": "fsq", "rotation": True}, "no one code to rotate"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words):
            PackagedConfig(**fields)  # type: ignore[arg-type]
    network = AutoencoderConfig(channels=8, multipliers=(1,), num_res_blocks=1, latent_channels=4, double_moments=False)
    config = VQConfig(network, 16, quantizer=PackagedConfig("lfq"))
    assert configs.from_dict(VQConfig, configs.to_dict(config)) == config
    assert isinstance(build_quantizer(config), Packaged)
    with pytest.raises(InputError, match="expected 16"):
        VQConfig(network, 32, quantizer=PackagedConfig("lfq"))
    for levels, method in (((4, 4, 4, 4), "ema"), ((), "fsq")):
        with pytest.raises(InputError, match="fsq alone has levels"):
            VQConfig(network, 256, levels=levels, quantizer=PackagedConfig(method))  # type: ignore[arg-type]


def test_a_missing_package_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vector_quantize_pytorch", None)
    with pytest.raises(InputError, match=r"pip install 'sfumato\[quantizers\]'"):
        made("ema")
