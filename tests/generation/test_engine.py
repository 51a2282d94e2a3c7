"""Seeds belong to pictures: bit-equal on the CPU for any batch size, neighbours and position. Failures are typed errors."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import pytest
import torch
from PIL import Image

import tiny_models
from sfumato.conditioning import Twins
from sfumato.errors import InputError, MachineError
from sfumato.generation import engine
from sfumato.generation.engine import NotFiniteError, Progress
from sfumato.generation.metadata import parse_exact, parse_text
from sfumato.generation.pipeline import Pipeline, load
from sfumato.generation.pixels import to_pictures, to_previews
from sfumato.noise import NoiseSource
from sfumato.priors.base import Step
from sfumato.samplers import SAMPLERS

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline(tiny_models.loaded(tiny_models.text_config()), CPU)


@pytest.fixture(scope="module")
def unconditional() -> Pipeline:
    return Pipeline(tiny_models.loaded(tiny_models.unconditional_config()), CPU)


def pixels(images: Sequence[Image.Image]) -> list[bytes]:
    return [image.tobytes() for image in images]


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_picture_does_not_depend_on_batch_or_neighbours(pipeline: Pipeline, sampler: str) -> None:
    many = pixels(pipeline.generate(["a red dragon", "cat"], num=4, seed=7, sampler=sampler))
    assert len(set(many)) == 8
    for batch_size in (3, 8):
        assert pixels(pipeline.generate(["a red dragon", "cat"], num=4, seed=7, sampler=sampler, batch_size=batch_size)) == many
    for i, prompt in [(0, "a red dragon"), (3, "a red dragon"), (4, "cat"), (7, "cat")]:
        assert pixels(pipeline.generate(prompt, seed=7 + i, sampler=sampler)) == [many[i]]
    other = pixels(pipeline.generate(["something quite different", "cat"], num=4, seed=7, sampler=sampler))
    assert other[4:] == many[4:]


def test_many_seeds_alone_and_together(unconditional: Pipeline) -> None:
    together = pixels(unconditional.generate(num=100, seed=0, steps=1))
    assert together[::9] == [pixels(unconditional.generate(seed=s, steps=1))[0] for s in range(0, 100, 9)]
    assert len(set(together)) == 100


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m_sde"])
def test_batches_of_a_gpu_agree(pipeline: Pipeline, sampler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batched path that a GPU takes, run here on the CPU: the same pictures within 2/255."""
    alone = pipeline.generate(["a red dragon", "cat"], num=3, seed=7, sampler=sampler)
    monkeypatch.setattr(engine, "chunk_size", lambda request, device: request.batch_size)
    for batch_size in (2, 4, 6):
        batched = pipeline.generate(["a red dragon", "cat"], num=3, seed=7, sampler=sampler, batch_size=batch_size)
        for one, other in zip(alone, batched, strict=True):
            assert max(abs(a - b) for a, b in zip(one.tobytes(), other.tobytes(), strict=True)) <= 2


def test_every_option_changes_the_picture(pipeline: Pipeline) -> None:
    base = {"prompts": "a red dragon", "seed": 7}
    [plain] = pixels(pipeline.generate(**base))
    for change in ({"prompts": "cat"}, {"seed": 8}, {"steps": 4}, {"guidance": 1.0}, {"negative": "cat"}, {"sampler": "ddim"}):
        assert pixels(pipeline.generate(**base | change)) != [plain], change
    assert pipeline.generate(**base, size=(32, 64))[0].size == (64, 32)
    assert pixels(pipeline.generate(**base, guidance=1.0, negative="cat")) == pixels(pipeline.generate(**base, guidance=1.0))


def test_pictures_carry_what_made_them_and_can_be_made_again(pipeline: Pipeline) -> None:
    images = pipeline.generate(["a red dragon", "cat"], num=2, seed=7, negative="blue", guidance=2.5, sampler="euler_a")
    for i, image in enumerate(images):
        found = parse_text(image.info["parameters"])
        assert found == parse_exact(image.info["sfumato"])
        assert (found.seed, found.model, found.model_hash) == (7 + i, "tiny", "0123456789")
        again = pipeline.generate(
            found.prompt, seed=found.seed, negative=found.negative, guidance=found.guidance, sampler=found.sampler,
            steps=found.steps, size=(found.height, found.width),
        )  # fmt: skip
        assert pixels(again) == [image.tobytes()]


def test_steps_are_reported(pipeline: Pipeline) -> None:
    seen: list[tuple[int, int, int]] = []

    def on_step(progress: Progress) -> None:
        [picture] = progress.pictures
        assert progress.decode()[0].size == (16, 16)
        assert progress.previews()[0].size == (8, 8)
        seen.append((picture.seed, progress.step, progress.num_steps))

    pipeline.generate("cat", num=2, seed=3, steps=2, sampler="ddim", on_step=on_step)
    assert seen == [(3, 1, 2), (3, 2, 2), (4, 1, 2), (4, 2, 2)]


def test_stopping_in_a_step_stops(pipeline: Pipeline) -> None:
    def stop(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.generate("cat", on_step=stop)
    assert not torch.is_inference_mode_enabled()
    assert len(pipeline.generate("cat")) == 1


def test_inference_mode_does_not_leak_between_pictures(pipeline: Pipeline) -> None:
    request = pipeline.request(engine_draft(num=2))
    for _ in pipeline.stream(request):
        assert not torch.is_inference_mode_enabled()


def engine_draft(**fields: object) -> object:
    from sfumato.generation.request import Draft

    return Draft(("cat",), **fields)


@pytest.mark.parametrize("call", range(3))
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("whole", [True, False])
def test_nan_at_any_step_is_an_error(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, call: int, value: float, whole: bool
) -> None:
    steps = pipeline.model.prior.steps

    def broken(shape: Sequence[int], twins: Twins, settings: object, noise: NoiseSource) -> Iterator[Step]:
        for step in steps(shape, twins, settings, noise):
            z_t = step.z_t.clone()
            if step.index >= call:  # what is broken once stays so
                z_t[(...,) if whole else (..., 0, 0)] = value
            yield dataclasses.replace(step, z_t=z_t)

    monkeypatch.setattr(pipeline.model.prior, "steps", broken)
    with pytest.raises(NotFiniteError, match=r"picture 1 \(seed 9\)") as caught:
        pipeline.generate("cat", num=2, seed=9, steps=3, sampler="ddim")
    assert caught.value.exit_code == 3


def test_nan_from_the_decoder_is_an_error(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.model.first_stage, "decode", lambda z: torch.full((1, 3, 16, 16), float("nan")))
    with pytest.raises(NotFiniteError):
        pipeline.generate("cat")


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("x"), MemoryError(),
    RuntimeError("can't allocate memory"), RuntimeError("MPS backend out of memory"),
])  # fmt: skip
def test_out_of_memory_names_the_next_batch(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*args: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(pipeline.model.prior, "steps", fail)
        with pytest.raises(MachineError, match="smaller size"):
            pipeline.generate("cat", num=8)
        patch.setattr(engine, "chunk_size", lambda request, device: request.batch_size)
        with pytest.raises(MachineError, match="8 pictures of 16x16 at once; try a batch size of 4"):
            pipeline.generate("cat", num=8, batch_size=8)
    assert len(pipeline.generate("cat")) == 1


def test_other_errors_are_not_hidden(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("sizes differ")

    monkeypatch.setattr(pipeline.model.prior, "steps", fail)
    with pytest.raises(RuntimeError, match="sizes differ"):
        pipeline.generate("cat")


@pytest.mark.parametrize("call", [
    {"prompts": []}, {"size": (16, 18)}, {"size": 16}, {"size": (16, None, 3)}, {"sampler": "dimm"}, {"seed": -1},
    {"prompts": ["cat", 7]}, {"prompts": None}, {"prompts": 7},
])  # fmt: skip
def test_wrong_calls_are_refused(pipeline: Pipeline, call: dict[str, object]) -> None:
    with pytest.raises(InputError):
        pipeline.generate(**{"prompts": "cat"} | call)


def test_unconditional_model_needs_no_prompt(unconditional: Pipeline) -> None:
    assert not unconditional.needs_prompt
    assert len(unconditional.generate(num=2, seed=1)) == 2


def test_sides_are_multiples_of_both_factors(pipeline: Pipeline) -> None:
    assert pipeline.multiple == 4


@pytest.mark.parametrize("device", ["", "gpu", "cuda:99", "meta", "cpu:x", None, 7, "\x1b[31m"])
def test_unknown_device_is_refused(device: object) -> None:
    with pytest.raises(InputError, match="device"):
        load("emoji", device)  # type: ignore[arg-type]


def test_pixels_are_rounded_and_clipped() -> None:
    x = torch.tensor([-2.0, -1.0, -1 + 1.2 / 255, 0.1 / 255, 1.0, 3.0]).view(1, 1, 1, 6)
    [image] = to_pictures(x)
    assert list(image.tobytes()) == [0, 0, 1, 128, 255, 255]
    assert [to_pictures(torch.zeros(1, c, 2, 3))[0].mode for c in (1, 3, 4)] == ["L", "RGB", "RGB"]
    assert to_pictures(torch.zeros(1, 3, 2, 5))[0].size == (5, 2)
    with pytest.raises(InputError):
        to_pictures(torch.zeros(1, 2, 2, 2))


def test_preview_is_the_linear_map() -> None:
    z = torch.randn(2, 4, 3, 3)
    preview = torch.randn(5, 3) * 0.1
    expected = torch.einsum("bchw,cd->bdhw", z, preview[:4]) + preview[4].view(1, 3, 1, 1)
    for one, other in zip(to_previews(z, preview), to_pictures(expected), strict=True):
        assert max(abs(a - b) for a, b in zip(one.tobytes(), other.tobytes(), strict=True)) <= 1
