"""Checkpoints in the authors' layout come back as the models they were written from, to the bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from published import (
    CARDS,
    WORDS,
    config_of,
    made,
    picture,
    prepared_for,
    shapes_of,
    state_of,
    with_averages,
    write,
    write_hollow,
)

from sfumato.conditioners.checkpoint import Statistics
from sfumato.conditioners.compose import CompositeConfig
from sfumato.errors import InputError
from sfumato.generation.pipeline import Pipeline
from sfumato.interop.cards import find_card
from sfumato.interop.ema import Weights
from sfumato.interop.embeddings import PLACES, read_statistics, statistics_for
from sfumato.interop.load import load_first_stage, load_published

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFUMATO_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(WORDS) + "\n", "utf-8")
    return path


@pytest.mark.parametrize("ending", [".ckpt", ".safetensors"])
@pytest.mark.parametrize("name", CARDS)
def test_a_checkpoint_is_the_model_it_came_from(name, ending, tmp_path, vocabulary):
    card, given = CARDS[name]
    if name == "retrieval":  # published without the tower that reads its text
        assert isinstance(card.conditioner, CompositeConfig)
        card = replace(card, conditioner=card.conditioner.parts[1].conditioner)
    model = made(card)
    path = write(state_of(model, card), tmp_path / f"mine{ending}")
    loaded = load_published(path, card=CARDS[name][0], vocabulary=vocabulary)
    assert loaded.config == config_of(card)
    assert (loaded.name, loaded.path, len(loaded.hash)) == ("mine", path, 10)
    ours, theirs = model.state_dict(), loaded.model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours if not key.endswith((".scale", ".preview")))
    torch.testing.assert_close(ours["first_stage.scale"], theirs["first_stage.scale"], rtol=1e-6, atol=0)
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert not loaded.model.training
    assert not any(t.is_meta for t in (*loaded.model.parameters(), *loaded.model.buffers()))
    guidance = 1.0 if name in ("layout", "unclip") else 2.0
    prepared = prepared_for(model, given)
    expected = picture(model, prepared, guidance)
    assert torch.isfinite(expected).all()
    assert expected.std() > 1e-3
    result = picture(loaded.model, prepared_for(loaded.model, given), guidance)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)  # the scale factor was rounded to fp32 and inverted


def test_the_defaults_are_the_authors(tmp_path):
    card = CARDS["sd1"][0]
    path = write(state_of(made(card), card), tmp_path / "a.safetensors")
    defaults = load_published(path, card=card).defaults
    assert (defaults.sampler, defaults.spacing, defaults.steps, defaults.guidance) == ("plms", "leading", 50, 7.5)


def test_a_pipeline_draws_with_a_loaded_checkpoint(tmp_path):
    card = CARDS["sd1"][0]
    path = write(state_of(made(card), card), tmp_path / "a.safetensors")
    pipeline = Pipeline(load_published(path, card=card), CPU)
    first, second = (pipeline.generate(prompt, seed=1, steps=3)[0] for prompt in ("a cat", "a dog"))
    assert first.size == (16, 16)
    assert first.tobytes() != second.tobytes()
    assert pipeline.hash in first.info["parameters"]


def test_averages_are_used_where_there_are_any(tmp_path):
    card = CARDS["sd1"][0]
    raw, averaged = made(card), made(card, seed=1)
    state = with_averages(state_of(raw, card), state_of(averaged, card))
    path = write(state, tmp_path / "a.ckpt")
    name = "prior.denoiser.network.input_blocks.0.0.weight"
    for given, expected in ((Weights.ema, averaged), (Weights.raw, raw)):
        found = load_published(path, card=card, weights=given).model.state_dict()
        assert torch.equal(found[name], expected.state_dict()[name])
        kept = "first_stage.decoder.conv_in.weight"
        assert torch.equal(found[kept], raw.state_dict()[kept])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype, tmp_path):
    card, given = CARDS["sdxl"]
    model = made(card)
    loaded = load_published(write(state_of(model, card), tmp_path / "a.safetensors"), card=card, dtype=dtype).model
    state = loaded.state_dict()
    assert state["prior.denoiser.network.out_conv.weight"].dtype == dtype
    assert state["conditioner.parts.text.towers.0.body.final_layer_norm.weight"].dtype == dtype
    assert state["first_stage.scale"].dtype == torch.float32
    expected, result = (picture_of(m, given) for m in (model, loaded))
    assert torch.corrcoef(torch.stack([expected.flatten(), result.flatten().float()]))[0, 1] > 0.99


def picture_of(model, given):
    twins = model.conditioner.twins(prepared_for(model, given), 1.0)
    rng = torch.Generator().manual_seed(3)
    x_t = torch.randn(1, *model.latent_shape(16, 16), generator=rng)
    with torch.no_grad():
        return model.prior.denoiser(x_t, torch.tensor([0.5]), twins[0][0]).x_0


def test_the_file_s_own_scale_factor_counts(tmp_path):
    card = CARDS["churches"][0]
    assert card.scale_factor is None
    state = state_of(made(card), card) | {"scale_factor": torch.tensor(0.25)}
    loaded = load_published(write(state, tmp_path / "a.ckpt"), card=card)
    assert torch.equal(loaded.model.first_stage.get_buffer("scale"), torch.full((4,), 4.0))
    del state["scale_factor"]
    with pytest.raises(InputError, match="no scale_factor"):
        load_published(write(state, tmp_path / "b.ckpt"), card=card)


def test_statistics_of_image_embeddings(tmp_path):
    card = CARDS["unclip"][0]
    path = write(state_of(made(card), card), tmp_path / "a.ckpt")
    given = Statistics(torch.randn(6), torch.rand(6))
    loaded = load_published(path, card=card, embeddings=given, dtype=torch.bfloat16)
    part = loaded.model.conditioner.get_submodule("parts.image")
    assert torch.equal(part.get_buffer("mean"), given.mean)
    assert torch.equal(part.get_buffer("std"), given.std)


def test_unclip_l_without_its_statistics_is_refused(tmp_path):
    path = write_hollow(shapes_of(find_card("sd2-unclip-l")), tmp_path / "a.safetensors")
    with pytest.raises(
        InputError, match=r"is sd2-unclip-l, whose statistics .*put ViT-L-14_stats.th beside it.*diffusers folder"
    ):
        load_published(path)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("pair", [tuple, list])
def test_statistics_beside_unclip_l(tmp_path, place, pair):
    mean, std = torch.randn(768), torch.rand(768).double() + 0.1
    (tmp_path / place).parent.mkdir(exist_ok=True)
    torch.save(pair((mean, std)), tmp_path / place)
    found = statistics_for(find_card("sd2-unclip-l"), tmp_path / "a.safetensors")
    assert found is not None
    assert torch.equal(found.mean, mean)
    assert torch.equal(found.std, std.float())
    assert statistics_for(find_card("sd2-unclip-h"), tmp_path / "a.safetensors") is None
    assert statistics_for(find_card("sd1"), tmp_path / "a.safetensors") is None


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ((torch.zeros(4), torch.ones(5)), "no pair of vectors of 4"),
        ((torch.zeros(1, 4), torch.ones(1, 4)), "no pair of vectors of 4"),
        ({"0": torch.zeros(4)}, "no pair of vectors of 4"),
        ((torch.zeros(4), torch.zeros(4)), "above 0"),
        ((torch.full((4,), torch.nan), torch.ones(4)), "finite"),
        ((torch.zeros(4), torch.ones(4), torch.ones(4)), "holds no state dict"),
    ],
)
def test_other_files_are_no_statistics(tmp_path, saved, message):
    torch.save(saved, tmp_path / "a.th")
    with pytest.raises(InputError, match=message):
        read_statistics(tmp_path / "a.th", 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("model.diffusion_model.out.2.bias"), "out.2.bias is missing"),
        (lambda s: s.update({"strange.weight": torch.zeros(2)}), "belong to no part.*strange.weight"),
        (lambda s: s.update({"cond_stage_model.other.weight": torch.zeros(2)}), "belong to no part.*cond_stage_model.other"),
        (lambda s: s.update({"cond_stage_model.transformer.text_model.x": torch.zeros(2)}), "unexpected conditioner.towers.0"),
        (
            lambda s: s.pop("cond_stage_model.transformer.text_model.final_layer_norm.bias"),
            "missing conditioner.towers.0.body.final_layer_norm.bias",
        ),
        (lambda s: [s.pop(n) for n in list(s) if n.startswith("cond_stage_model.")], "has no cond_stage_model"),
        (lambda s: [s.pop(n) for n in list(s) if n.startswith("first_stage_model.")], "without a first stage"),
        (lambda s: [s.pop(n) for n in list(s) if n.startswith("model.")], "first stage alone.*load_first_stage"),
    ],
)  # fmt: skip
def test_a_checkpoint_that_is_not_whole(change, message, tmp_path):
    card = CARDS["sd1"][0]
    state = state_of(made(card), card)
    change(state)
    with pytest.raises(InputError, match=message) as caught:
        load_published(write(state, tmp_path / "a.safetensors"), card=card)
    assert "\n" not in str(caught.value)


def test_a_card_of_another_architecture_is_refused(tmp_path):
    card = CARDS["sd1"][0]
    path = write(state_of(made(card), card), tmp_path / "a.safetensors")
    with pytest.raises(InputError, match="another U-Net and first stage than sd1; published models of its shapes: none"):
        load_published(path, card="sd1")
    with pytest.raises(InputError, match="of no published model; give its card"):
        load_published(path)
    with pytest.raises(InputError, match="did you mean"):
        load_published(path, card="sd2-basee")


@pytest.mark.parametrize("name", ["faces", "sd1"])
@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_a_first_stage_alone(name, prefix, tmp_path):
    card = CARDS[name][0]
    model = made(card).first_stage
    state = {n: v for n, v in state_of(made(card), card).items() if n.startswith("first_stage_model.")}
    state = {prefix + n.removeprefix("first_stage_model."): v for n, v in state.items()}
    state |= {"loss.logvar": torch.zeros(()), "loss.discriminator.main.0.weight": torch.zeros(4, 3, 4, 4)}
    loaded = load_first_stage(write(state, tmp_path / "a.ckpt"), scale_factor=card.scale_factor)
    assert loaded.config == card.first_stage
    x = torch.rand(1, 3, 16, 16) * 2 - 1
    z = model.posterior(x).mode()
    torch.testing.assert_close(loaded.model.posterior(x).mode(), z, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(loaded.model.decode(z), model.decode(z), rtol=1e-4, atol=1e-5)
    whole = load_first_stage(write(state_of(made(card), card), tmp_path / "b.safetensors"))
    assert whole.scale_factor == pytest.approx(card.scale_factor)
    with pytest.raises(InputError, match="belong to no part"):
        load_first_stage(write({**state, "strange": torch.zeros(1)}, tmp_path / "c.safetensors"))
