"""The model card: what was trained on what, with which result, in words and YAML front matter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sfumato.build import TrainedConditionerConfig
from sfumato.conditioners.compose import CompositeConfig
from sfumato.conditioners.low_resolution import LowResolutionConfig
from sfumato.config import from_dict, to_dict
from sfumato.training.config import RunConfig
from sfumato.training.held_out import Found

TOLD: dict[str, tuple[str, str, str]] = {
    "text": ("text", 'generate "a prompt"', "text-to-image"),
    "frozen_text": ("text, read by a frozen encoder", 'generate "a prompt"', "text-to-image"),
    "class": ("class", "generate --class NAME", "unconditional-image-generation"),
    "layout": ("boxes with labels", "compose LAYOUT.json", "image-to-image"),
    "segmentation": ("class maps", "paint MAP", "image-to-image"),
    "low_resolution": ("small pictures", "upscale IMAGE --factor {factor}", "image-to-image"),
    "masked_image": ("a mask and what it leaves", "inpaint IMAGE --mask MASK", "image-to-image"),
    "retrieved": ("neighbours", "generate --neighbours DIR", "unconditional-image-generation"),
    "none": ("none", "generate", "unconditional-image-generation"),
}
"""By kind of conditioner: what it is told, how pictures are made, and what hubs call that."""


CONFIG = "\n## Config\n\n```json\n"
"""Before the run's config at the card's end, closed by three backticks."""


def config_of(text: str) -> RunConfig | None:
    """The config of the run that a card tells of; None for a card of another kind, or with fields of another release."""
    _, found, rest = text.rpartition(CONFIG)
    if not found:
        return None
    try:
        return from_dict(RunConfig, json.loads(rest.partition("\n```")[0]), "config")
    except (ValueError, RecursionError):  # no JSON, or no such config, which is an `InputError`
        return None


def _told(conditioner: TrainedConditionerConfig) -> tuple[str, str, str]:
    """As `TOLD`; of several parts all conditions, and the command of the last that has one of its own."""
    parts = [part.conditioner for part in conditioner.parts] if isinstance(conditioner, CompositeConfig) else [conditioner]
    rows = [TOLD.get(part.kind, (part.kind, "generate", "image-to-image")) for part in parts]
    own = next((row for row in reversed(rows) if row[2] == "image-to-image"), rows[0])
    factor = next((part.factor for part in parts if isinstance(part, LowResolutionConfig)), 0)
    return " and ".join(row[0] for row in rows), own[1].format(factor=factor), own[2]


KINDS: dict[tuple[str, str], str] = {
    ("generator", "normal"): "A generative adversarial network (Goodfellow et al. 2014, arXiv 1406.2661)",
    ("kl", "normal"): "A variational autoencoder (Kingma & Welling 2013, arXiv 1312.6114)",
    ("vq2", "hierarchical"): "A hierarchical autoregressive model of codes (Razavi et al. 2019, arXiv 1906.00446)",
    ("vq", "autoregressive"): "An autoregressive model of codes (van den Oord et al. 2017, arXiv 1711.00937)",
    ("identity", "autoregressive"): "An autoregressive model of pixels (van den Oord et al. 2016, arXiv 1601.06759)",
    ("identity", "flow"): "A normalizing flow of pixels (Kingma & Dhariwal 2018, arXiv 1807.03039)",
    ("kl", "flow"): "A normalizing flow of latents (Kingma & Dhariwal 2018, arXiv 1807.03039)",
    ("identity", "diffusion"): "A diffusion model of pixels (Ho et al. 2020, arXiv 2006.11239)",
}
"""By kinds of first stage and prior; every other pair is a latent diffusion model's, or its regression baseline."""


def _stages(config: RunConfig, first: Mapping[str, Any], prior: Mapping[str, Any]) -> str:
    """What was trained, a sentence for each stage that was."""
    said = []
    if config.first_stage.frozen:
        said.append(f"First stage: that of {config.first_stage.frozen}, as it is.")
    elif first["steps"]:
        said.append(_steps("First stage", first, config.first_stage.train.batch_size))
    if prior["steps"]:
        said.append(_steps("Prior", prior, config.prior.train.batch_size))
        if "held_out" in prior:
            found = Found(**prior["held_out"])
            kept = config.prior.train.keep == "best" and found.last_step != found.best_step
            said.append(f"The {found.told()}{'; the weights of the former are kept' if kept else ''}.")
    return " ".join(said)


def _steps(name: str, done: Mapping[str, Any], batch_size: int) -> str:
    return f"{name}: {done['steps']} steps of {batch_size}, {done['images_per_second']:.0f} images a second in the last call."


def _reconstruction(report: Mapping[str, float] | None) -> tuple[str, str]:
    """What follows the pictures' size, and the section; nothing where there is no encoder or nothing is lost."""
    if report is None or not report["pictures"]:
        return "", ""
    with_alpha, alpha = "", ""
    if "alpha_psnr" in report:
        with_alpha = " with transparency"
        alpha = f"\nCompared on white, as RGB pictures would be. PSNR of alpha alone: {report['alpha_psnr']:.2f} dB.\n"
    return (
        with_alpha,
        f"""
## Reconstruction of {int(report["pictures"])} held-out pictures by the first stage

| PSNR | SSIM | perceptual distance (embedded) |
|---|---|---|
| {report["psnr"]:.2f} dB | {report["ssim"]:.4f} | {report["perceptual"]:.4f} |
{alpha}""",
    )


def card(config: RunConfig, data: Mapping[str, Any], results: Mapping[str, Any], parameters: Mapping[str, int]) -> str:
    """README.md of a trained model. `data`: audit summary; `results`: what the stages measured."""
    conditioned, command, kind = _told(config.prior.conditioner)
    first, prior = results["first_stage"], results["prior"]
    with_alpha, reconstruction = _reconstruction(first.get("reconstruction"))
    latent = "A latent diffusion model (Rombach et al. 2021, arXiv 2112.10752)"
    what = KINDS.get((config.first_stage.model.kind, config.prior.model.kind), latent)
    counts = "\n".join(f"| {name} | {number:,} |" for name, number in parameters.items())
    return f"""---
library_name: sfumato
pipeline_tag: {kind}
tags: [latent-diffusion, sfumato]
---

# {config.name}

{what} for {config.data.size}x{config.data.size} pictures{with_alpha},
trained by `sfumato train`. Conditioned on: {conditioned}.

    sfumato {command} --model DIR

## Data

{data["num_train"]} pictures for training, {data["num_held_out"]} held out, {data["num_bad"]} unreadable,
{data["num_duplicates"]} duplicates.

## Parameters

| part | number |
|---|---|
{counts}
{reconstruction}
## Training

{_stages(config, first, prior)} Device: {results["device"]}.

## Limits

It knows only what its training pictures show. The samples in `samples/` of the run were made from fixed seeds and not chosen.
{CONFIG}{json.dumps(to_dict(config), indent=1, ensure_ascii=False)}
```
"""
