"""python benchmarks/latent_noise.py MODEL --data DIR: does a first stage decode means as well as what its prior learns?

A prior is trained on draws of q(z | x) = N(mu, sigma^2), reconstructions are made from mu. Where sigma is large, a decoder's
norms may expect the noise. Held-out pictures are decoded from mu + s sigma eps for s = 0, 0.5 and 1, and as the mean of several
pictures of s = 1.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import machine, table, write

if TYPE_CHECKING:
    from torch import Tensor

DRAWS = 8


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL", help="a model with a KL first stage")
    parser.add_argument("--data", required=True, metavar="DIR", help="a folder of pictures or a tar shard")
    parser.add_argument("--size", type=int, default=128, help="side of the pictures in pixels (default: 128)")
    parser.add_argument("--num", type=int, default=64, help="held-out pictures (default: 64)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    args = parser.parse_args(argv)

    from sfumato.evaluation.source import read_sets
    from sfumato.generation.pipeline import load

    stage = load(args.model, args.device).model.first_stage
    shape = (stage.channels, args.size, args.size)
    pixels = read_sets(Path(args.data), shape, num=args.num, say=lambda record: "", seed=args.seed).sets.held.pixels[: args.num]
    found = measured(stage, pixels, args.seed, args.device)
    rows = [[name, f"{row['psnr']:.2f}", f"{row['colour']:.4f}"] for name, row in found["decoded"].items()]
    spread = ", ".join(f"{s:.2f}" for s in found["spread"])
    print(f"{len(pixels)} pictures, {args.size} px, seed {args.seed}; {machine()}\n")
    print(table(["decoded from", "PSNR, dB", f"mean colour (truth {found['colour']:.4f})"], rows))
    print(f"\nmean sigma of each channel, of the latents' unit scale: {spread}")
    write(args.out, {"machine": machine(), "num": len(pixels), "size": args.size} | found)


def measured(stage: Any, pixels: Tensor, seed: int, device: str) -> dict[str, Any]:
    """psnr in dB and colour, the mean distance of a channel from its pixel's grey in [-1, 1], of every way to decode."""
    import torch

    from sfumato.alpha import on_white
    from sfumato.evaluation.data import batches
    from sfumato.generation.pixels import to_bytes, to_unit
    from sfumato.metrics.image import MAX_PSNR, psnr

    rng = torch.Generator(device).manual_seed(seed)

    def noisy(share: float) -> Callable[[Any], Tensor]:
        return lambda q: stage.decode(q.mean + share * (q.sample(rng) - q.mean))

    ways = {"the means": noisy(0.0), "half the noise": noisy(0.5), "a draw": noisy(1.0)}
    ways[f"the mean picture of {DRAWS} draws"] = lambda q: torch.stack([ways["a draw"](q) for _ in range(DRAWS)]).mean(0)
    sums = {name: {"psnr": 0.0, "colour": 0.0} for name in ways}
    truth, spread = 0.0, torch.zeros(stage.latent.channels)
    with torch.inference_mode():
        for part in batches(len(pixels), 8):
            x = to_unit(pixels[part].to(device))
            q = stage.posterior(x)
            if q.log_variance is None:
                raise SystemExit("the latents of this first stage have no noise; give a model with a KL first stage.")
            truth += colour(on_white((x + 1) / 2))
            spread += torch.exp(0.5 * q.log_variance).mean((2, 3)).sum(0).cpu()
            for name, decode in ways.items():
                shown = on_white((to_unit(to_bytes(decode(q))) + 1) / 2)
                sums[name]["psnr"] += psnr(shown, on_white((x + 1) / 2)).clamp(max=MAX_PSNR).sum().item()
                sums[name]["colour"] += colour(shown)
    count = len(pixels)
    decoded = {name: {key: value / count for key, value in row.items()} for name, row in sums.items()}
    return {"decoded": decoded, "colour": truth / count, "spread": (spread / count).tolist()}


def colour(pixels: Tensor) -> float:
    """Of (N, 3, H, W) in [0, 1], summed over pictures."""
    return 2 * (pixels - pixels.mean(1, keepdim=True)).abs().mean((1, 2, 3)).sum().item()


if __name__ == "__main__":
    main()
