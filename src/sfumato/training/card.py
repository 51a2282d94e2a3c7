"""The model card: what was trained on what, with which result, in words and YAML front matter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sfumato.build import TrainedConditionerConfig
from sfumato.conditioners.compose import CompositeConfig
from sfumato.conditioners.low_resolution import LowResolutionConfig
from sfumato.config import to_dict
from sfumato.training.config import RunConfig

TOLD: dict[str, tuple[str, str, str]] = {
    "text": ("text", 'generate "a prompt"', "text-to-image"),
    "class": ("class", "generate --class NAME", "unconditional-image-generation"),
    "layout": ("boxes with labels", "compose LAYOUT.json", "image-to-image"),
    "segmentation": ("class maps", "paint MAP", "image-to-image"),
    "low_resolution": ("small pictures", "upscale IMAGE --factor {factor}", "image-to-image"),
    "masked_image": ("a mask and what it leaves", "inpaint IMAGE --mask MASK", "image-to-image"),
    "retrieved": ("neighbours", "generate --neighbours DIR", "unconditional-image-generation"),
    "none": ("none", "generate", "unconditional-image-generation"),
}
"""By kind of conditioner: what it is told, how pictures are made, and what hubs call that."""


def _told(conditioner: TrainedConditionerConfig) -> tuple[str, str, str]:
    """As `TOLD`; of several parts all conditions, and the command of the last that has one of its own."""
    parts = [part.conditioner for part in conditioner.parts] if isinstance(conditioner, CompositeConfig) else [conditioner]
    rows = [TOLD.get(part.kind, (part.kind, "generate", "image-to-image")) for part in parts]
    own = next((row for row in reversed(rows) if row[2] == "image-to-image"), rows[0])
    factor = next((part.factor for part in parts if isinstance(part, LowResolutionConfig)), 0)
    return " and ".join(row[0] for row in rows), own[1].format(factor=factor), own[2]


def _first_stage(config: RunConfig, first: Mapping[str, Any]) -> str:
    if config.first_stage.frozen:
        return f"First stage: that of {config.first_stage.frozen}, as it is."
    steps, batch, rate = first["steps"], config.first_stage.train.batch_size, first["images_per_second"]
    return f"First stage: {steps} steps of {batch}, {rate:.0f} images a second in the last call."


def card(config: RunConfig, data: Mapping[str, Any], results: Mapping[str, Any], parameters: Mapping[str, int]) -> str:
    """README.md of a trained model. `data`: audit summary; `results`: what the stages measured."""
    conditioned, command, kind = _told(config.prior.conditioner)
    first, prior = results["first_stage"], results["prior"]
    report, with_alpha, alpha = first["reconstruction"], "", ""
    if "alpha_psnr" in report:
        with_alpha = " with transparency"
        alpha = f"\nCompared on white, as RGB pictures would be. PSNR of alpha alone: {report['alpha_psnr']:.2f} dB.\n"
    counts = "\n".join(f"| {name} | {number:,} |" for name, number in parameters.items())
    return f"""---
library_name: sfumato
pipeline_tag: {kind}
tags: [latent-diffusion, sfumato]
---

# {config.name}

A latent diffusion model (Rombach et al. 2021, arXiv 2112.10752) for {config.data.size}x{config.data.size} pictures{with_alpha},
trained by `sfumato train`. Conditioned on: {conditioned}.

    sfumato {command} --model DIR

## Data

{data["num_train"]} pictures for training, {data["num_held_out"]} held out, {data["num_bad"]} unreadable,
{data["num_duplicates"]} duplicates.

## Parameters

| part | number |
|---|---|
{counts}

## Reconstruction of {int(report["pictures"])} held-out pictures by the first stage

| PSNR | SSIM | perceptual distance (embedded) |
|---|---|---|
| {report["psnr"]:.2f} dB | {report["ssim"]:.4f} | {report["perceptual"]:.4f} |
{alpha}
## Training

{_first_stage(config, first)} Prior: {prior["steps"]} steps of {config.prior.train.batch_size},
{prior["images_per_second"]:.0f} images a second in the last call. Device: {results["device"]}.

## Limits

It knows only what its training pictures show. The samples in `samples/` of the run were made from fixed seeds and not chosen.

## Config

```json
{json.dumps(to_dict(config), indent=1, ensure_ascii=False)}
```
"""
