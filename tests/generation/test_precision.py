"""First stages that overflow in half precision run in fp32, once said; nothing else is touched."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

from sfumato.first_stages.kl import KLConfig, KLFirstStage
from sfumato.generation.precision import HalfPrecisionWarning, guarded
from sfumato.generation.tiling import Tiling, decode, encode
from sfumato.networks.conv_autoencoder import AutoencoderConfig

LATENTS = (1, 4, 8, 8)


def first_stage(scale: float) -> KLFirstStage:
    """The first convolution of the decoder makes numbers of about `scale`, which the next norm makes ordinary again."""
    config = KLConfig(AutoencoderConfig(channels=16, multipliers=(1, 1), num_res_blocks=1, mid_attention=False))
    torch.manual_seed(0)
    stage = KLFirstStage(config).eval()
    with torch.no_grad():
        for net in (stage.decoder, stage.encoder):
            net.conv_in.weight.mul_(scale / 3)
            net.conv_in.bias.zero_()
    return stage


def latents() -> Tensor:
    return torch.randn(LATENTS, generator=torch.Generator().manual_seed(1))


def test_overflow_in_fp16_becomes_fp32_and_is_said_once() -> None:
    stage = first_stage(2e5).half()
    exact = first_stage(2e5).half().float()  # the same weights, which fp16 rounded
    with torch.inference_mode():
        assert not torch.isfinite(stage.decode(latents().half())).all()
        with pytest.warns(HalfPrecisionWarning, match="NaN or infinity in float16; it runs in float32") as seen:
            found, again = decode(stage, latents()), decode(stage, latents())
        assert len(seen) == 1
        expected = exact.decode(latents())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(found, again)
    assert all(p.dtype == torch.float32 and not p.is_inference() for p in stage.parameters())


def test_overflow_of_the_encoder_too_and_in_tiles() -> None:
    x = torch.rand(1, 3, 32, 24, generator=torch.Generator().manual_seed(2)) * 2 - 1
    for code in (lambda stage: encode(stage, x).mean, lambda stage: encode(stage, x, Tiling(0, 24, 8, 2)).mean):
        stage = first_stage(2e5).half()
        with torch.no_grad(), pytest.warns(HalfPrecisionWarning) as seen:
            found = code(stage)
        assert len(seen) == 1
        torch.testing.assert_close(found, code(first_stage(2e5).half().float()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_that_holds_is_left_alone(kind: torch.dtype) -> None:
    stage = first_stage(1.0).to(kind)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        found = decode(stage, latents())
        expected = stage.decode(latents().to(kind))
    assert found.dtype == torch.float32
    assert torch.equal(found, expected.float())
    assert {p.dtype for p in stage.parameters()} == {kind}


def test_fp32_is_not_even_looked_at_and_nan_latents_convert_nothing() -> None:
    bad = torch.full(LATENTS, float("nan"))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(first_stage(1.0), bad).isnan().all()
        stage = first_stage(1.0).half()
        assert decode(stage, bad).isnan().all()
    assert {p.dtype for p in stage.parameters()} == {torch.float16}


def test_what_overflows_in_fp32_too_comes_back_as_it_is() -> None:
    stage = first_stage(1.0).half()
    with torch.no_grad():
        stage.decoder.conv_out.bias.fill_(float("inf"))
    with torch.no_grad(), pytest.warns(HalfPrecisionWarning):
        assert decode(stage, latents()).isinf().all()


def test_without_memory_for_fp32_it_is_bf16() -> None:
    stage = first_stage(2e5).half()
    ordinary = stage.decode

    def short_of_memory(z: Tensor) -> Tensor:
        if z.dtype == torch.float32:
            raise torch.OutOfMemoryError("made up")
        return ordinary(z)

    with torch.no_grad(), pytest.warns(HalfPrecisionWarning):
        found = guarded(stage, latents(), short_of_memory)
    assert {p.dtype for p in stage.parameters()} == {torch.bfloat16}
    assert found.dtype == torch.float32
    with torch.no_grad():
        exact = first_stage(2e5).decode(latents())
    torch.testing.assert_close(found, exact, rtol=0, atol=0.1 * float(exact.std()))  # 8 bits a step, over a dozen steps


def test_overflow_under_autocast_runs_without_it() -> None:
    stage = first_stage(2e5)
    with torch.no_grad():
        expected = stage.decode(latents())
        with torch.autocast("cpu", torch.float16), pytest.warns(HalfPrecisionWarning):
            found = decode(stage, latents())
    assert torch.equal(found, expected)


def test_a_decoder_without_parameters_is_run_as_it_is() -> None:
    class Double(nn.Module):
        def decode(self, z: Tensor) -> Tensor:
            return 2 * z

    stage, z = Double(), latents()
    assert torch.equal(guarded(stage, z, stage.decode), 2 * z)  # type: ignore[arg-type]
