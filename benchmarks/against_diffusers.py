"""The two networks beside the same ones of diffusers: equal weights, equal numbers, times as a ratio.

    python benchmarks/against_diffusers.py [--rounds 7] [--quick] [--out FILE.json]

- The autoencoder KL-f8 of Rombach et al. 2021 (arXiv 2112.10752, Tab. 8) against AutoencoderKL: one picture of 64 px through
  encoder and decoder, forward and backward.
- A U-Net with cross-attention against UNet2DConditionModel: four latents of 16 x 16 with a context of 32 vectors, forward,
  and forward and backward.

Both run in fp32 on the CPU, in one process, in turns, the first of a round changing with each; the median over the rounds
after one that does not count. Weights are random and copied by renaming; that outputs agree is checked first. A ratio
below 1 means that this library is faster. Needs the package diffusers, and says so where it is missing.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from common import machine, table, write

if TYPE_CHECKING:
    from torch import Tensor, nn

TOLERANCE = 1e-3  # of outputs of order 1: fp32 sums in another order

# pattern of a name of diffusers -> ours
SHARED = [(r"\bconv_shortcut\b", "skip"), (r"\btime_emb_proj\b", "time")]
AUTOENCODER = [
    (r"^conv_norm_out\b", "norm_out"),
    (r"^mid_block\.resnets\.0\b", "mid.0"),
    (r"^mid_block\.attentions\.0\b", "mid.1"),
    (r"^mid_block\.resnets\.1\b", "mid.2"),
    (r"^(down|up)_blocks\.(\d+)\.resnets\.(\d+)\b", r"\1.\2.\3"),
    (r"^down_blocks\.(\d+)\.downsamplers\.0\b", r"down.\1.2"),
    (r"^up_blocks\.(\d+)\.upsamplers\.0\b", r"up.\1.3"),
    (r"\bgroup_norm\b", "norm"),
    (r"\bto_([qkv])\b", r"\1"),
    (r"\bto_out\.0\b", "proj_out"),
]
UNET = [
    (r"^time_embedding\.linear_1\b", "time_embed.0"),
    (r"^time_embedding\.linear_2\b", "time_embed.2"),
    (r"^conv_in\b", "input_blocks.0.0"),
    (r"^conv_norm_out\b", "out_norm"),
    (r"^conv_out\b", "out_conv"),
    (r"^mid_block\.resnets\.0\b", "middle_block.0"),
    (r"^mid_block\.attentions\.0\b", "middle_block.1"),
    (r"^mid_block\.resnets\.1\b", "middle_block.2"),
    (r"\btransformer_blocks\b", "blocks"),
    (r"\bff\.net\.0\.proj\b", "ff.project"),
    (r"\bff\.net\.2\b", "ff.out"),
    (r"\bto_out\.0\b", "to_out"),
]


def renamed(name: str, rules: list[tuple[str, str]]) -> str:
    """Our name of a parameter of diffusers."""
    for pattern, ours in rules + SHARED:
        name = re.sub(pattern, ours, name)
    return name


def renamed_unet(name: str, blocks: int) -> str:
    """The same for the U-Net, whose levels we number through: `blocks` residual blocks a level, each with attention."""
    found = re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)(.*)", name)
    if found is None:
        return renamed(name, UNET)
    way, level, kind, i, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
    if kind == "downsamplers":
        place = f"input_blocks.{(level + 1) * (blocks + 1)}.0"
    elif kind == "upsamplers":
        place = f"output_blocks.{(level + 1) * (blocks + 1) - 1}.2"
    else:
        number = level * (blocks + 1) + i
        place = f"input_blocks.{number + 1}" if way == "down" else f"output_blocks.{number}"
        place += ".0" if kind == "resnets" else ".1"
    return renamed(place + rest, UNET)


def copy(theirs: nn.Module, ours: nn.Module, rename: Callable[[str], str]) -> None:
    """Give `theirs` random weights, about 1 / sqrt(fan-in), and `ours` the same."""
    import torch

    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in theirs.parameters():
            noise = torch.randn(p.shape, generator=rng)
            p.copy_(noise / p[0].numel() ** 0.5 if p.ndim > 1 else p + 0.1 * noise)
    wanted = ours.state_dict()
    state = {rename(name): value for name, value in theirs.state_dict().items()}
    ours.load_state_dict({name: value.reshape(wanted[name].shape) for name, value in state.items()})


def autoencoders(quick: bool) -> dict[str, Callable[[], Tensor]]:
    """One picture through encoder and decoder, by us and by diffusers."""
    import diffusers
    import torch

    from sfumato.networks.conv_autoencoder import AutoencoderConfig, Decoder, Encoder

    config = AutoencoderConfig(channels=32 if quick else 128, multipliers=(1, 2, 4, 4))
    theirs = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=tuple(config.widths()),
        layers_per_block=2,
        latent_channels=4,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ).train()
    encoder, decoder = Encoder(config).train(), Decoder(config).train()
    copy(theirs.encoder, encoder, lambda name: renamed(name, AUTOENCODER))
    copy(theirs.decoder, decoder, lambda name: renamed(name, AUTOENCODER))
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    return {
        "ours": lambda: decoder(encoder(x)[:, :4]),
        "diffusers": lambda: theirs.decoder(theirs.encoder(x)[:, :4]),
    }


def unets(quick: bool) -> dict[str, Callable[[], Tensor]]:
    """Four latents through the U-Net, by us and by diffusers."""
    import diffusers
    import torch

    from sfumato.conditioning import Conditioning
    from sfumato.networks.unet import UNet, UNetConfig

    channels, blocks = 32 if quick else 128, 2
    widths = (channels, 2 * channels, 4 * channels)
    theirs = diffusers.UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        block_out_channels=widths,
        down_block_types=("CrossAttnDownBlock2D",) * 3,
        up_block_types=("CrossAttnUpBlock2D",) * 3,
        layers_per_block=blocks,
        cross_attention_dim=256,
        attention_head_dim=8,  # the number of heads, despite its name
    ).train()
    config = UNetConfig(
        4,
        4,
        channels=channels,
        multipliers=(1, 2, 4),
        num_res_blocks=blocks,
        attention_factors=(1, 2, 4),
        context_dim=256,
        head_channels=None,
        num_heads=8,
    )
    ours = UNet(config).train()
    copy(theirs, ours, lambda name: renamed_unet(name, blocks))
    rng = torch.Generator().manual_seed(1)
    x, context = torch.randn(4, 4, 16, 16, generator=rng), torch.randn(4, 32, 256, generator=rng)
    times, cond = torch.tensor([0, 250, 600, 999]), Conditioning(context=context)
    return {"ours": lambda: ours(x, times, cond), "diffusers": lambda: theirs(x, times, context).sample}


def forward(network: Callable[[], Tensor]) -> None:
    """Without a graph."""
    import torch

    with torch.no_grad():
        network()


def backward(network: Callable[[], Tensor]) -> None:
    """Forward, and the gradient of a mean of squares; gradients add up in buffers that stay."""
    network().square().mean().backward()


def compare(
    pair: dict[str, Callable[[], Tensor]], step: Callable[[Callable[[], Tensor]], None], rounds: int
) -> dict[str, list[float]]:
    """Seconds of each, in turns."""
    times: dict[str, list[float]] = {name: [] for name in pair}
    for i in range(rounds + 1):
        for name in sorted(pair, reverse=bool(i % 2)):
            start = time.perf_counter()
            step(pair[name])
            times[name].append(time.perf_counter() - start)
    return {name: values[1:] for name, values in times.items()}


def check(pair: dict[str, Callable[[], Tensor]]) -> float:
    """Largest difference of the outputs; an error where the networks are not the same."""
    import torch

    with torch.no_grad():
        ours, theirs = pair["ours"](), pair["diffusers"]()
    difference = float((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1))
    assert difference < TOLERANCE, f"not the same network: outputs differ by {difference:.2g}"
    return difference


def main(argv: list[str] | None = None) -> None:
    """Print a table and, with --out, write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="narrow networks: to see that it runs")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    try:
        import diffusers
    except ImportError:
        raise SystemExit("skipped: the package diffusers is missing; `pip install diffusers` and run this again.") from None
    import torch

    where = f"{machine()}, {torch.get_num_threads()} threads used, diffusers {diffusers.__version__}"
    print(where)
    ladder = [
        ("autoencoder KL-f8, 1 x 64 px, forward + backward", autoencoders, [backward]),
        ("U-Net, 4 x 16 x 16 latents", unets, [forward, backward]),
    ]
    rows, found = [], {}
    for title, build, steps in ladder:
        pair = build(args.quick)
        difference = check(pair)
        for step in steps:
            name = title if len(steps) == 1 else f"{title}, {'forward' if step is forward else 'forward + backward'}"
            times = compare(pair, step, args.rounds)
            ours, theirs = median(times["ours"]), median(times["diffusers"])
            ratios = [a / b for a, b in zip(times["ours"], times["diffusers"], strict=True)]
            spread = f"{min(ratios):.2f} ... {max(ratios):.2f}"
            rows.append([name, f"{1000 * ours:.1f}", f"{1000 * theirs:.1f}", f"{ours / theirs:.3f}", spread])
            found[name] = {"ratio": ours / theirs, "outputs_differ_by": difference, **times}
    print(table(["what", "ours ms", "diffusers ms", "ours / diffusers", "ratio by round"], rows))
    write(args.out, {"machine": where, **found})


if __name__ == "__main__":
    main()
