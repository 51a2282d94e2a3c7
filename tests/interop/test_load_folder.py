"""Folders that diffusers and transformers wrote come back as our models, with the numbers of the classes that wrote them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel, UNet2DModel, VQModel
from published import CARDS, CLIP, RGB, XL
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from sfumato.conditioners.clip_text import ClipTextsConfig
from sfumato.conditioners.sizes import Sizes
from sfumato.conditioning import Conditioning
from sfumato.errors import InputError
from sfumato.interop import diffusers_config
from sfumato.interop.cards import Card
from sfumato.interop.ema import Weights
from sfumato.interop.load import load_published
from sfumato.io.pretrained import LoadedModel
from sfumato.networks.clip import ClipTextConfig

IDS = torch.tensor([[49406, 320, 2368, 49407, *[49407] * 73]])  # "a cat", padded as Stable Diffusion 1 does


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFUMATO_CACHE", str(tmp_path / "cache"))


def randomized(module: Any) -> Any:
    torch.manual_seed(0)
    for name, value in module.named_parameters():
        value.data.copy_(torch.randn(value.shape) * (0.1 if value.ndim == 1 else value[0].numel() ** -0.5))
        if value.ndim == 1 and name.endswith("weight"):
            value.data.add_(1)
    return module.eval()


def tower(config: ClipTextConfig, layers: int, projected: bool = False) -> Any:
    settings = CLIPTextConfig(
        hidden_size=config.dim, intermediate_size=4 * config.dim, num_hidden_layers=layers, num_attention_heads=config.heads,
        hidden_act=config.activation, projection_dim=config.projection or config.dim,
    )  # fmt: skip
    return randomized((CLIPTextModelWithProjection if projected else CLIPTextModel)(settings))


def write(root: Path, card: Card, encoders: dict[str, Any], **scheduler: Any) -> dict[str, Any]:
    """A pipeline's folder of the card's networks as diffusers' classes; returns them."""
    text_time = card.name.endswith("sdxl-base")
    settings = diffusers_config.unet_settings(card.unet, text_time=text_time)
    settings |= {"addition_time_embed_dim": 8} if text_time else {}
    unet = UNet2DModel if card.unet.context_dim is None else UNet2DConditionModel
    stage = diffusers_config.first_stage_settings(card.first_stage)
    is_vq = "num_vq_embeddings" in stage
    stage |= {} if is_vq else {"scaling_factor": card.scale_factor}
    parts = {"unet": unet(**settings), "vae": (VQModel if is_vq else AutoencoderKL)(**stage)}
    parts = {name: randomized(part) for name, part in parts.items()} | encoders
    table: dict[str, Any] = {"_class_name": "StableDiffusionPipeline"}
    for name, part in parts.items():
        part.save_pretrained(root / name)
        table[name] = ["transformers" if name in encoders else "diffusers", type(part).__name__]
    (root / "scheduler").mkdir()
    (root / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    table["scheduler"] = ["diffusers", "DDIMScheduler"]
    (root / "model_index.json").write_text(json.dumps(table))
    return parts


@torch.no_grad()
def check(loaded: LoadedModel, theirs: dict[str, Any], cond: Conditioning, **given: Any) -> None:
    """Encoder, decoder and U-Net: 1e-4 of the outputs' spread, since sums run in another order."""
    stage, vae = loaded.model.first_stage, theirs["vae"]
    z = stage.posterior(RGB[None]).mode()
    if isinstance(vae, VQModel):
        close(z, vae.encode(RGB[None]).latents)
        close(stage.decode(z), vae.decode(z).sample)
    else:
        close(z, vae.encode(RGB[None]).latent_dist.mode() * vae.config.scaling_factor)
        close(stage.decode(z), vae.decode(z / vae.config.scaling_factor).sample)
    x_t = torch.randn(z.shape, generator=torch.Generator().manual_seed(1))
    network = loaded.model.get_submodule("prior.denoiser.network")
    close(network(x_t, torch.tensor([501]), cond), theirs["unet"](x_t, torch.tensor([501]), **given).sample)


def close(ours: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4 * float(expected.std()))


def test_stable_diffusion_1(tmp_path):
    card = CARDS["sd1"][0]
    theirs = write(tmp_path / "mine", card, {"text_encoder": tower(CLIP, 2)})
    loaded = load_published(tmp_path / "mine", card=card)
    assert (loaded.name, len(loaded.hash)) == ("mine", 10)
    conditioner = loaded.model.conditioner
    cond = conditioner(conditioner.prepare(["a cat"]))
    context = theirs["text_encoder"](IDS).last_hidden_state.detach()
    close(cond.context, context)
    check(loaded, theirs, cond, encoder_hidden_states=context)
    half = load_published(tmp_path / "mine", card=card, dtype=torch.float16).model.state_dict()
    assert half["prior.denoiser.network.out_conv.weight"].dtype == torch.float16
    assert half["first_stage.scale"].dtype == torch.float32


def test_stable_diffusion_2_without_its_last_layer(tmp_path):
    card = CARDS["sd2"][0]
    config = card.conditioner
    assert isinstance(config, ClipTextsConfig)
    encoder = tower(config.towers[0], 1)  # of two, as folders hold 23 of 24
    theirs = write(tmp_path / "mine", card, {"text_encoder": encoder}, prediction_type="v_prediction")
    loaded = load_published(tmp_path / "mine", card=card)
    kept = loaded.config.conditioner
    assert isinstance(kept, ClipTextsConfig)
    assert [(t.layers, t.skip, t.projection) for t in kept.towers] == [(1, 0, None)]
    conditioner = loaded.model.conditioner
    prepared = conditioner.prepare(["a cat"])
    assert prepared[0, 0, 4:].eq(0).all()
    cond = conditioner(prepared)
    context = encoder(prepared[:, 0]).last_hidden_state.detach()
    close(cond.context, context)
    check(loaded, theirs, cond, encoder_hidden_states=context)


def test_all_layers_of_a_folder_s_text_encoder_are_used(tmp_path):
    """Where it holds the last one too, diffusers ends the context with it."""
    card = CARDS["sd2"][0]
    assert isinstance(card.conditioner, ClipTextsConfig)
    encoder = tower(card.conditioner.towers[0], 2)
    write(tmp_path / "mine", card, {"text_encoder": encoder}, prediction_type="v_prediction")
    conditioner = load_published(tmp_path / "mine", card=card).model.conditioner
    prepared = conditioner.prepare(["a cat"])
    close(conditioner(prepared).context, encoder(prepared[:, 0]).last_hidden_state.detach())


def test_stable_diffusion_xl(tmp_path):
    card = CARDS["sdxl"][0]
    encoders = {"text_encoder": tower(CLIP, 2), "text_encoder_2": tower(XL, 2, projected=True)}
    theirs = write(tmp_path / "mine", card, encoders)
    loaded = load_published(tmp_path / "mine", card=card)
    conditioner = loaded.model.conditioner
    cond = conditioner(conditioner.prepare([{"text": "a cat", "sizes": Sizes((16, 16))}]))
    ids = IDS.clone()
    ids[:, 4:] = 0
    first = theirs["text_encoder"](IDS, output_hidden_states=True).hidden_states[-2].detach()
    second = theirs["text_encoder_2"](ids, output_hidden_states=True)
    context = torch.cat([first, second.hidden_states[-2].detach()], dim=2)
    close(cond.context, context)
    added = {"text_embeds": second.text_embeds.detach(), "time_ids": torch.tensor([[16, 16, 0, 0, 16, 16]])}
    check(loaded, theirs, cond, encoder_hidden_states=context, added_cond_kwargs=added)


def test_an_unconditional_model_over_a_vq_first_stage(tmp_path):
    card = CARDS["faces"][0]
    theirs = write(tmp_path / "mine", card, {})
    check(load_published(tmp_path / "mine", card=card), theirs, Conditioning())


def test_heads_and_scale_are_the_folder_s_own(tmp_path):
    card = CARDS["sd1"][0]
    other = replace(card, prior=replace(card.prior, network=replace(card.unet, num_heads=4)), scale_factor=0.5)
    write(tmp_path / "mine", other, {"text_encoder": tower(CLIP, 2)})
    loaded = load_published(tmp_path / "mine", card=card)
    assert loaded.config.prior.network.num_heads == 4
    assert torch.equal(loaded.model.first_stage.get_buffer("scale"), torch.full((4,), 2.0))


def test_a_folder_that_is_not_whole(tmp_path):
    card = CARDS["sd1"][0]
    write(tmp_path / "mine", card, {"text_encoder": tower(CLIP, 1)})
    with pytest.raises(InputError, match=r"missing conditioner\.towers\.0"):
        load_published(tmp_path / "mine", card=card)
    write(tmp_path / "none", card, {})
    with pytest.raises(InputError, match="has 0 text encoders; this model has 1"):
        load_published(tmp_path / "none", card=card)
    with pytest.raises(InputError, match="no files of the variant 'non_ema'"):
        load_published(tmp_path / "none", card=card, weights=Weights.raw)
    with pytest.raises(InputError, match="of no published model"):
        load_published(tmp_path / "none")
    with pytest.raises(InputError, match="not read from folders"):
        load_published(tmp_path / "none", card=replace(card, conditioner=CARDS["classes"][0].conditioner))
