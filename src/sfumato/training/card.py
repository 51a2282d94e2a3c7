"""The model card: what was trained on what, with which result, in words and YAML front matter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sfumato.config import to_dict
from sfumato.training.config import RunConfig


def card(config: RunConfig, data: Mapping[str, Any], results: Mapping[str, Any], parameters: Mapping[str, int]) -> str:
    """README.md of a trained model. `data`: audit summary; `results`: what the stages measured."""
    kind = {"text": "text-to-image", "class": "unconditional-image-generation"}.get(
        config.prior.condition, "unconditional-image-generation"
    )
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
trained by `sfumato train`. Conditioned on: {config.prior.condition}.

    sfumato generate {'"a prompt" ' if config.prior.condition == "text" else ""}--model DIR

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

First stage: {first["steps"]} steps of {config.first_stage.train.batch_size}. Prior: {prior["steps"]} steps of
{config.prior.train.batch_size}. Device: {results["device"]}. Images a second in the last call: first stage
{first["images_per_second"]:.0f}, prior {prior["images_per_second"]:.0f}.

## Limits

It knows only what its training pictures show. The samples in `samples/` of the run were made from fixed seeds and not chosen.

## Config

```json
{json.dumps(to_dict(config), indent=1, ensure_ascii=False)}
```
"""
