"""Between two prompts and between two noises.

    python examples/interpolation.py --out between.png [--steps 8] [--prompts A B A B ...] [--noise PROMPT ...]

Between prompts A and B the noise stays the same (seed S + row) and the condition goes straight through context space,

    c = (1 - s) c_A + s c_B,

while guidance goes on as always: w and 1 - w for c and the null condition. A longer prompt has more tokens; the shorter one's
vectors are then stretched to as many, first to first and last to last, by linear interpolation along the prompt. The ends are
the two prompts as they are.

Between noises the prompt stays and all noise goes along the great circle from seed S + row to seed S + row + 1000 (Shoemake
1985, "Animating rotation with quaternion curves"; for latents White 2016, arXiv 1609.04468):

    n = (sin((1 - s) a) n_A + sin(s a) n_B) / sin(a),   a the angle between n_A and n_B,

which keeps the length that normal noise has; a straight line would not.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from PIL import Image
from sheets import Row, Tile, arguments, save, sheet
from torch import Tensor
from torch.nn import functional as F

import sfumato
from sfumato.conditioning import Conditioning
from sfumato.generation.pipeline import Pipeline
from sfumato.generation.pixels import to_pictures
from sfumato.generation.request import Draft
from sfumato.noise import NoiseSource, PictureNoise

PROMPTS = (
    "a grinning face, 3D style",
    "an angry face, 3D style",
    "a woman scientist with light skin tone, noto style",
    "a man farmer with dark skin tone, noto style",
    "a cat, flat style",
    "a cat, 3D style",
)
NOISE = ("a superhero, 3D style", "a red heart, noto style")
OTHER = 1000  # from one seed to the other


def between(a: Conditioning, b: Conditioning, share: float) -> Conditioning:
    """The condition at `share` of the way from a to b, of one picture each; the very a at 0 and b at 1."""
    if share in (0.0, 1.0):
        return b if share else a
    context, mask = None, None
    if a.context is not None and b.context is not None:
        first, last = _counted(a), _counted(b)
        length = max(first.shape[1], last.shape[1])
        context = torch.lerp(stretched(first, length), stretched(last, length), share)
        mask = torch.ones(context.shape[:2], dtype=torch.bool, device=context.device)
        padding = a.context.shape[1] - length  # the null condition beside it has the full length
        context, mask = F.pad(context, (0, 0, 0, padding)), F.pad(mask, (0, padding))
    return Conditioning(context, mask, _lerp(a.concat, b.concat, share), _lerp(a.vector, b.vector, share))


def _counted(cond: Conditioning) -> Tensor:
    """(1, l, D): the context's tokens that count."""
    assert cond.context is not None
    return cond.context if cond.mask is None else cond.context[:, cond.mask[0]]


def _lerp(a: Tensor | None, b: Tensor | None, share: float) -> Tensor | None:
    return None if a is None or b is None else torch.lerp(a, b, share)


def stretched(context: Tensor, length: int) -> Tensor:
    """(1, l, D) -> (1, length, D): linear along the tokens, the first on the first and the last on the last."""
    if context.shape[1] == length:
        return context
    return F.interpolate(context.transpose(1, 2), length, mode="linear", align_corners=True).transpose(1, 2)


class NoiseBetween:
    """All noise of one picture at `share` of the great circle from one source to the other."""

    def __init__(self, a: NoiseSource, b: NoiseSource, share: float):
        self.a, self.b, self.share = a, b, share

    def __call__(self, like: Tensor) -> Tensor:
        """Standard normal noise (1, ...) like `like`."""
        a, b = self.a(like), self.b(like)
        angle = torch.acos(F.cosine_similarity(a.flatten(), b.flatten(), 0).clamp(-1, 1))
        if self.share in (0.0, 1.0) or angle.sin() < 1e-6:
            return b if self.share == 1.0 else a
        return (torch.sin((1 - self.share) * angle) * a + torch.sin(self.share * angle) * b) / torch.sin(angle)


@torch.inference_mode()
def draw(pipeline: Pipeline, a: str, b: str, share: float, noise: NoiseSource) -> Image.Image:
    """One picture of a condition between prompts a and b at the model's own settings."""
    model, request = pipeline.model, pipeline.request(Draft(prompts=(a,), seed=0))
    one, other = (
        model.conditioner.twins(model.conditioner.prepare([prompt]).to(pipeline.device), request.guidance) for prompt in (a, b)
    )
    (cond, weight), *rest = one
    twins = [(between(cond, other[0][0], share), weight), *rest]
    shape = (1, *model.latent_shape(request.height, request.width))
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # true fp32, as `generate` has it
        z = model.prior.sample(shape, twins, pipeline.settings(request), noise)
        return to_pictures(model.decode(z))[0]


def shares(steps: int) -> list[float]:
    """0 ... 1."""
    return [i / (steps - 1) for i in range(steps)]


def prompt_row(pipeline: Pipeline, a: str, b: str, steps: int, seed: int, heading: str) -> Row:
    """From prompt a to prompt b."""
    made = [draw(pipeline, a, b, s, PictureNoise([seed])) for s in shares(steps)]
    return Row(_tiles(made, a, b), heading)


def noise_row(pipeline: Pipeline, prompt: str, steps: int, seed: int, heading: str) -> Row:
    """From one seed to the other."""
    other = seed + OTHER
    made = [
        draw(pipeline, prompt, prompt, s, NoiseBetween(PictureNoise([seed]), PictureNoise([other]), s)) for s in shares(steps)
    ]
    return Row(_tiles(made, f"{prompt}, seed {seed}", f"seed {other}"), heading)


def _tiles(made: Sequence[Image.Image], first: str, last: str) -> list[Tile]:
    texts = [first, *[f"{s:.2f}" for s in shares(len(made))[1:-1]], last]
    return [Tile([picture], text) for picture, text in zip(made, texts, strict=True)]


def main(argv: list[str] | None = None) -> int:
    """Write the sheet and its text, and print the text."""
    parser = arguments(__doc__, data=None)
    parser.add_argument("--steps", type=int, default=8, help="pictures a row, both ends included (default: 8)")
    parser.add_argument("--prompts", nargs="*", default=PROMPTS, help="prompts in pairs")
    parser.add_argument("--noise", nargs="*", default=NOISE, help="prompts that are drawn from noise to noise")
    args = parser.parse_args(argv)
    if args.steps < 2 or len(args.prompts) % 2:
        parser.error("--steps is 2 or more, and --prompts come in pairs")
    pipeline = sfumato.load(args.model, args.device)
    rows, lines = [], []
    for i, (a, b) in enumerate(zip(args.prompts[::2], args.prompts[1::2], strict=True)):
        heading = "from prompt to prompt, one noise" if i == 0 else ""
        rows.append(prompt_row(pipeline, a, b, args.steps, args.seed + i, heading))
        lines.append(f"{a} -> {b}, seed {args.seed + i}")
    for prompt in args.noise:
        seed, heading = args.seed + len(rows), "from noise to noise, one prompt" if len(rows) == len(args.prompts) // 2 else ""
        rows.append(noise_row(pipeline, prompt, args.steps, seed, heading))
        lines.append(f"{prompt}, seed {seed} -> {seed + OTHER}")
    save(sheet(rows), args.out, "\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
