"""`sfumato explain loss`: what each part of time costs in training, and what it is worth in the variational bound."""

from __future__ import annotations

import argparse

from sfumato.cli.analyses import common
from sfumato.generation.limits import LIMITS, whole

NAME, HELP = "loss", "the training loss over time, and each time's share of the variational bound"
NUM, PARTS = 64, 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its flags."""
    common.add_model(parser)
    common.add_data(parser, NUM)
    parser.add_argument("--parts", metavar="P", default=str(PARTS), help=f"parts of time, one call each (default: {PARTS})")
    common.add_seed(parser)
    common.add_batch_size(parser)
    common.add_out(parser)


def run(args: argparse.Namespace) -> int:
    """Check everything, then load, measure, draw."""
    num, parts = LIMITS.num(common.number(args, "num")), whole("parts", common.number(args, "parts"), 2, LIMITS.max_steps)
    seed = common.check_seed(common.number(args, "seed"), 2 * num)
    batch_size, data = LIMITS.batch_size(common.number(args, "batch_size")), common.data_of(args)
    out = common.out_of(args)

    import torch

    from sfumato.conditioning import Conditioning
    from sfumato.explain.losses import figure, losses, summary
    from sfumato.explain.walk import diffusion_of
    from sfumato.first_stages.identity import IdentityFirstStage

    pipeline = common.load_model(args)
    prior, stage = diffusion_of(pipeline, "a loss for each time"), common.encoder_of(pipeline)
    held = common.held_out(pipeline, data, args.split, num, seed)
    conditioner, size = pipeline.model.conditioner, pipeline.model.image_size

    def told(part: slice) -> Conditioning:
        inputs = [conditioner.from_prompt(caption, size) for caption in held.captions[part]]
        with torch.no_grad():
            return conditioner(conditioner.prepare(inputs).to(pipeline.device))

    z_0 = common.latents_of(pipeline, held.pixels, seed + num, batch_size, sample=True).z  # other noise than that of x_t
    found = losses(
        prior.denoiser,
        told,
        z_0.to(pipeline.device),
        held.pixels[0].numel(),
        num_parts=parts,
        in_pixels=isinstance(stage, IdentityFirstStage),
        seed=seed,
        batch_size=batch_size,
        squared=prior.config.loss == "l2",
    )
    for low, high, loss, share in zip(found.edges, found.edges[1:], found.loss, found.shares, strict=False):
        print(f"t {float(low):.3f} ... {float(high):.3f}   loss {float(loss):8.4f}   {float(share):7.2%} of the bound")
    print(summary(found))
    if prior.denoiser.learns_variance:
        print("the bound is that of the small variance; `sfumato explain rate-distortion` takes the one that was learned")
    common.write(out, figure(found, f"{pipeline.name}: loss and bound over time"), found.to_json(), pipeline, args.overwrite)
    return 0
