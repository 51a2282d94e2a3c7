"""Quantizers against their formulas: gradients, moving averages, revival, gauges, indices."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from sfumato.errors import InputError
from sfumato.nn.quantizers import FSQ, Codebook, CodebookAverage, Quantizer, straight_through, usage

MAKE = {"codebook": lambda: _book(20, 3), "levels 4, 3, 5": lambda: FSQ((4, 3, 5)), "one channel": lambda: FSQ((7,))}


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _book(size: int, channels: int) -> Codebook:
    book = Codebook(size, channels)
    with torch.no_grad():
        book.embedding.weight.copy_(torch.randn(size, channels, generator=rng(1)))
    return book


def latents(channels: int, batch: int = 2, side: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(batch, channels, side, side, generator=rng(seed))


@pytest.mark.parametrize("name", MAKE)
def test_contract(name: str) -> None:
    """Codes are their own codes, indices say which, and gradients arrive."""
    quantizer: Quantizer = MAKE[name]()
    z = latents(quantizer.channels).requires_grad_()
    found = quantizer.quantize(z)
    assert found.codes.shape == (2, 4, 4)
    assert found.codes.dtype == torch.int64
    assert 0 <= int(found.codes.min()) <= int(found.codes.max()) < quantizer.num_codes
    assert torch.equal(found.z_q, quantizer.lookup(found.codes))
    assert torch.equal(found.z_q, quantizer(z))
    assert torch.equal(found.codes, quantizer.indices(z))
    assert quantizer(z.bfloat16()).dtype == torch.bfloat16
    assert found.loss(0.25).shape == (2,)
    found.z_q.square().sum().backward()
    assert z.grad is not None
    assert z.grad.any()


def test_the_loss_and_its_gradients_are_those_of_eq_3() -> None:
    """On one latent: L = ||z - e||^2 + beta ||z - e||^2, dL/de = 2 (e - z), dL/dz = 2 beta (z - e), and z_q passes its own."""
    book = Codebook(3, 2)
    with torch.no_grad():
        book.embedding.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]]))
    z = torch.tensor([0.5, -0.25]).view(1, 2, 1, 1).requires_grad_()  # the nearest is (1, 0), at distance^2 0.25 + 0.0625
    found = book.quantize(z)
    assert found.codes.item() == 0
    assert found.codebook.item() == found.commitment.item() == 0.3125
    assert found.loss(0.25).item() == 1.25 * 0.3125
    pull = torch.tensor([3.0, -5.0])  # of what comes behind z_q
    (found.loss(0.25).sum() + (pull.view(1, 2, 1, 1) * found.z_q).sum()).backward()
    assert torch.equal(z.grad.flatten(), 2 * 0.25 * torch.tensor([-0.5, -0.25]) + pull)
    assert torch.equal(book.embedding.weight.grad, torch.tensor([[1.0, 0.5], [0.0, 0.0], [0.0, 0.0]]))


def test_losses_are_summed_over_a_picture() -> None:
    book, z = _book(20, 3), latents(3)
    found = book.quantize(z)
    e = book.embedding.weight.detach()[found.codes].permute(0, 3, 1, 2)
    torch.testing.assert_close(found.codebook.detach(), ((z - e) ** 2).sum((1, 2, 3)))


def test_straight_through_is_exact() -> None:
    z = (1e4 * torch.randn(1000, generator=rng())).requires_grad_()
    e = torch.randn(1000, generator=rng(1))
    out = straight_through(z, e)
    assert torch.equal(out, e)  # z + (e - z) would round
    out.sum().backward()
    assert torch.equal(z.grad, torch.ones(1000))


def test_perplexity_of_known_counts() -> None:
    """Even use of 4 codes is 4, one code is 1, (1/2, 1/4, 1/4) is 2^1.5."""
    for codes, perplexity, used in (
        ([0, 1, 2, 3], 4, 0.5),
        ([5, 5, 5, 5], 1, 0.125),
        ([0, 0, 6, 7], 2**1.5, 0.375),
        (list(range(8)), 8, 1),
    ):
        found = usage(torch.tensor(codes), 8)
        assert found[0].item() == pytest.approx(perplexity, rel=1e-6)
        assert found[1].item() == used


def test_moving_averages_are_those_of_the_formula() -> None:
    """Three steps of N, m and e = m / N written out code by code, in float64; observed in two parts."""
    book, decay = _book(5, 2), 0.9
    average = CodebookAverage(book, decay, revive=0)
    assert not book.embedding.weight.requires_grad
    size = [1.0] * 5
    total = [row.tolist() for row in book.embedding.weight]
    for step in range(3):
        z = latents(2, batch=3, side=2, seed=step)
        codes = book.indices(z)
        for k in range(5):
            seen = [v.tolist() for v, c in zip(z.permute(0, 2, 3, 1).flatten(0, 2), codes.flatten(), strict=True) if c == k]
            size[k] = decay * size[k] + (1 - decay) * len(seen)
            total[k] = [decay * m + (1 - decay) * sum(v[i] for v in seen) for i, m in enumerate(total[k])]
        average.reset()
        average.observe(z[:1], codes[:1], rng())
        average.observe(z[1:], codes[1:], rng())
        average.update()
        expected = torch.tensor([[m / size[k] for m in total[k]] for k in range(5)])
        torch.testing.assert_close(book.embedding.weight.data, expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(average.size, torch.tensor(size), rtol=1e-5, atol=0)
        assert average.revived.item() == 0


def test_what_was_reset_moves_nothing() -> None:
    """Latents that are not finite, of a step that is dropped."""
    book = _book(5, 2)
    before = book.embedding.weight.clone()
    average = CodebookAverage(book, 0.9, 0.1)
    average.observe(torch.full((1, 2, 2, 2), math.nan), torch.zeros(1, 2, 2, dtype=torch.long), rng())
    average.reset()
    average.observe(before.T.reshape(1, 2, 5, 1), torch.arange(5).view(1, 5, 1), rng())
    average.update()
    torch.testing.assert_close(book.embedding.weight.data, before)


def test_a_dead_code_becomes_a_latent_and_others_do_not() -> None:
    """Codes 0 and 1 get all latents; far code 2 falls below a tenth of the mean after some steps, and not before."""
    book = Codebook(3, 1)
    with torch.no_grad():
        book.embedding.weight.copy_(torch.tensor([[-1.0], [1.0], [100.0]]))
    average = CodebookAverage(book, 0.5, revive=0.1)
    z = torch.tensor([-1.0, -1.0, 1.0, 1.0]).view(1, 1, 2, 2)
    sizes = [1.0, 1.0, 1.0]
    for step in range(4):
        average.reset()
        average.observe(z, book.indices(z), rng(step))
        average.update()
        sizes = [0.5 * n + 0.5 * c for n, c in zip(sizes, (2, 2, 0), strict=True)]
        if sizes[2] >= 0.1 * sum(sizes) / 3:
            assert average.revived.item() == 0
            assert book.embedding.weight[2].item() == 100
        else:
            break
    assert step == 2  # N are 1.5, 0.5; 1.75, 0.25; 1.875, 0.125, which is below a tenth of their mean, 1.29
    assert average.revived.item() == 1
    assert book.embedding.weight[2].item() in (-1, 1)
    assert average.size[2].item() == pytest.approx(sum(sizes) / 3)
    torch.testing.assert_close(book.embedding.weight[:2].detach(), torch.tensor([[-1.0], [1.0]]))


def test_a_code_that_is_never_seen_again_stays() -> None:
    """N fades to exactly 0 and the code does not become NaN."""
    book = Codebook(2, 1)
    with torch.no_grad():
        book.embedding.weight.copy_(torch.tensor([[0.0], [7.0]]))
    average = CodebookAverage(book, 0.01, revive=0)
    for _ in range(40):
        average.reset()
        average.observe(torch.zeros(1, 1, 2, 2), torch.zeros(1, 2, 2, dtype=torch.long), rng())
        average.update()
    assert average.size[1].item() < 1e-40
    torch.testing.assert_close(book.embedding.weight[1].detach(), torch.tensor([7.0]))


def test_averages_refuse() -> None:
    with pytest.raises(InputError, match="decay is 1"):
        CodebookAverage(_book(2, 1), 1, 0)
    with pytest.raises(InputError, match="revive is -1"):
        CodebookAverage(_book(2, 1), 0.9, -1)


@pytest.mark.parametrize("levels", [(3,), (4, 3), (8, 5, 5), (5, 4, 6, 3)])
def test_fsq_indices_and_codes_are_one_to_one(levels: tuple[int, ...]) -> None:
    quantizer = FSQ(levels)
    assert quantizer.num_codes == math.prod(levels)
    every = torch.arange(quantizer.num_codes).view(1, -1, 1)
    codes = quantizer.lookup(every)
    rows = {tuple(row) for row in codes[0, :, :, 0].T.tolist()}
    grids = [[(i - n // 2) / (n // 2) for i in range(n)] for n in levels]
    assert len(rows) == quantizer.num_codes
    for row in rows:
        assert all(min(abs(v - g) for g in grid) < 1e-6 for v, grid in zip(row, grids, strict=True))
    # a z that is bounded to exactly these codes: the inverse of b
    n = torch.tensor(levels).view(-1, 1, 1).double()
    reach, offset = (n - 1) * 1.001 / 2, 0.5 * (n % 2 == 0)
    z = torch.atanh((codes.double() * (n // 2) + offset) / reach) - torch.atanh(offset / reach)
    assert torch.equal(quantizer.indices(z.float()), every)


def test_fsq_by_hand() -> None:
    """Level by level, in float64; the gradient is that of b(z) / floor(L / 2)."""
    levels, z = (8, 5), latents(2, batch=1).mul(2).requires_grad_()
    found = FSQ(levels).quantize(z)
    for channel, n in enumerate(levels):
        for i, j in itertools.product(range(4), range(4)):
            reach, offset = (n - 1) * 1.001 / 2, 0.5 if n % 2 == 0 else 0.0
            value = math.tanh(z[0, channel, i, j].item() + math.atanh(offset / reach)) * reach - offset
            assert found.z_q[0, channel, i, j].item() == pytest.approx(round(value) / (n // 2))
    found.z_q.sum().backward()
    n = torch.tensor(levels).view(1, 2, 1, 1)
    reach, offset = (n - 1) * 1.001 / 2, 0.5 * (n % 2 == 0)
    slope = (1 - torch.tanh(z.detach() + torch.atanh(offset / reach)) ** 2) * reach / (n // 2)
    torch.testing.assert_close(z.grad, slope)
    assert not found.loss(0.25).any()


def test_fsq_refuses_levels() -> None:
    for levels in ((), (2, 5)):
        with pytest.raises(InputError, match="FSQ levels are"):
            FSQ(levels)


def test_fsq_agrees_with_an_independent_implementation() -> None:
    other = pytest.importorskip("vector_quantize_pytorch").FSQ(levels=[8, 5, 4])
    z = latents(3, side=16).mul(2)
    found, (z_q, codes) = FSQ((8, 5, 4)).quantize(z), other(z)
    torch.testing.assert_close(found.z_q, z_q)
    assert torch.equal(found.codes, codes.long())


def test_moving_averages_agree_with_an_independent_implementation() -> None:
    """That one starts N at 0 or 1 and smooths it; with its state set to ours and no smoothing, five steps agree."""
    book = _book(12, 3)
    other = pytest.importorskip("vector_quantize_pytorch").VectorQuantize(
        dim=3, codebook_size=12, decay=0.9, eps=0.0, accept_image_fmap=True, rotation_trick=False, commitment_weight=0.25
    )
    theirs = other._codebook
    theirs.embed.data.copy_(book.embedding.weight[None].detach())
    theirs.embed_avg.copy_(theirs.embed.data)
    theirs.cluster_size.fill_(1)
    average = CodebookAverage(book, 0.9, 0)
    for step in range(5):
        z = latents(3, batch=4, seed=step)
        found = book.quantize(z)
        z_q, codes, loss = other(z)
        assert torch.equal(found.codes, codes)
        torch.testing.assert_close(found.z_q, z_q, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(0.25 * found.commitment.mean() / z[0].numel(), loss.sum())
        average.reset()
        average.observe(z, found.codes)
        average.update()
        torch.testing.assert_close(book.embedding.weight.data, theirs.embed[0], rtol=1e-4, atol=1e-5)
