"""The published models at full size beside another implementation: equal weights, equal numbers.

    python benchmarks/published_parity.py [MODEL ...] [--authors FOLDER] [--pixels 128] [--quick] [--out FILE.json]

Each model (all that the other side can express, unless named) is built in a process of its own with random weights, which
both sides share in memory, so that one model is in memory at a time; SDXL's U-Net takes 10 GB. Its U-Net is called once at
two different steps, its first stage encodes and decodes; what is shown is the largest difference over the standard deviation
of the output. In fp32 sums in another order make about 1e-6 a layer; above 1e-4 the command fails.

The other side is diffusers, which has no class for the churches and the paper's inpainting model, or with `--authors` the
authors' own classes, for every model: FOLDER holds checkouts of their repositories, see tests/interop/authors.py.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from common import machine, table, write

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sfumato.conditioning import Conditioning
    from sfumato.interop.cards import Card
    from sfumato.interop.keys import KeyMap

TOLERANCE = 1e-4
HERE = Path(__file__).resolve()
BATCH, TOKENS, TIMES, CLASSES = 2, 7, (20, 801), (1, 20)
NARROW = 32
SIZES = 256  # channels of each of SDXL's numbers


class Other(NamedTuple):
    """The other side: networks without weights, and how to call them."""

    unet: Callable[[Card], tuple[nn.Module, KeyMap]]
    call: Callable[[nn.Module, Card, Tensor, Tensor, Conditioning], Tensor]
    first_stage: Callable[[Card], tuple[nn.Module, KeyMap]]
    encode: Callable[[nn.Module, Tensor], Tensor]
    """Pixels to moments, or to the latent before quantization."""
    decode: Callable[[nn.Module, Tensor], Tensor]
    """Codes or latents to pixels; they are quantized already."""


def narrow(card: Card) -> Card:
    """The same model with a fraction of its channels."""
    unet = card.unet
    unet = replace(unet, channels=NARROW, head_channels=unet.head_channels and min(unet.head_channels, NARROW))
    network = replace(card.first_stage.network, channels=NARROW)
    return replace(card, prior=replace(card.prior, network=unet), first_stage=replace(card.first_stage, network=network))


def fill(module: nn.Module) -> dict[str, Tensor]:
    """Random weights for a module without any."""
    return dict(randomise(module.to_empty(device="cpu")).state_dict())


def randomise(module: nn.Module) -> nn.Module:
    """The module with random weights of about 1 / sqrt(fan-in), and norms about 1."""
    import torch

    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in module.named_parameters():
            spread = p[0].numel() ** -0.5 if p.ndim > 1 else 0.1
            p.normal_(0, spread, generator=rng)
            if p.ndim == 1 and name.endswith("weight"):
                p.add_(1)
    return module.eval()


def adopt(build: Callable[[], nn.Module], tensors: dict[str, Tensor]) -> nn.Module:
    """Our module around the other side's memory. Buffers that it lacks (statistics) are our defaults."""
    import torch

    with torch.device("meta"):
        ours = build()
    for name, buffer in ours.named_buffers():
        tensors[name] = torch.ones(buffer.shape) if name == "scale" else torch.zeros(buffer.shape)
    ours.load_state_dict(tensors, assign=True)
    return ours.eval()


def inputs(card: Card, pixels: int) -> tuple[Tensor, Tensor, Conditioning]:
    """x_t, steps and a condition for the U-Net of a picture of `pixels` a side."""
    import torch

    from sfumato.conditioning import Conditioning
    from sfumato.nn.layers import timestep_embedding

    unet, rng = card.unet, torch.Generator().manual_seed(1)
    side = max(pixels // card.first_stage.network.factor // unet.factor, 1) * unet.factor
    vector = None
    if unet.num_classes is not None:
        vector = torch.tensor(CLASSES)
    elif "sdxl" in card.name:
        count = 5 if "refiner" in card.name else 6
        sizes = torch.arange(BATCH * count) * 64
        pooled = torch.randn(BATCH, (unet.vector_dim or 0) - count * SIZES, generator=rng)
        vector = torch.cat([pooled, timestep_embedding(sizes, SIZES).view(BATCH, -1)], 1)
    elif unet.vector_dim is not None:
        vector = torch.randn(BATCH, unet.vector_dim, generator=rng)
    context = None if unet.context_dim is None else torch.randn(BATCH, TOKENS, unet.context_dim, generator=rng)
    concat = torch.randn(BATCH, unet.concat_channels, side, side, generator=rng) if unet.concat_channels else None
    x = torch.randn(BATCH, unet.in_channels, side, side, generator=rng)
    return x, torch.tensor(TIMES), Conditioning(context=context, concat=concat, vector=vector)


def difference(given: Tensor, wanted: Tensor) -> float:
    """Largest, over the standard deviation of what is wanted."""
    assert given.shape == wanted.shape, f"{tuple(given.shape)} is not {tuple(wanted.shape)}"
    return float((given - wanted).abs().max() / wanted.std())


def measure(card: Card, other: Other, pixels: int) -> dict[str, Any]:
    """Differences of the U-Net, the encoder and the decoder."""
    import torch

    from sfumato.build import build_first_stage
    from sfumato.first_stages.vq import VQFirstStage
    from sfumato.networks.unet import UNet

    start, found = time.perf_counter(), {}
    with torch.no_grad():
        with torch.device("meta"):
            theirs, keys = other.unet(card)
        tensors = fill(theirs)
        found["parameters"] = sum(t.numel() for t in tensors.values())
        x, steps, cond = inputs(card, pixels)
        wanted = other.call(theirs, card, x, steps, cond)
        del theirs
        found["unet"] = difference(adopt(lambda: UNet(card.unet), keys.to_ours(tensors))(x, steps, cond), wanted)
        tensors.clear()
        with torch.device("meta"):
            theirs, keys = other.first_stage(card)
        ours = adopt(lambda: build_first_stage(card.first_stage), keys.to_ours(fill(theirs)))
        side = max(pixels // card.first_stage.network.factor, 1) * card.first_stage.network.factor
        x = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(2)) * 2 - 1
        wanted = other.encode(theirs, x)
        found["encoder"] = difference(ours.quant_conv(ours.encoder(x)), wanted)
        z = ours.posterior(x).mode()
        codes = ours.quantize(z) if isinstance(ours, VQFirstStage) else z
        found["decoder"] = difference(ours.decode(z), other.decode(theirs, codes))
    return found | {"seconds": time.perf_counter() - start, "latent": list(z.shape[1:])}


def diffusers_side() -> Other:
    """diffusers' classes."""
    import diffusers
    import torch

    from sfumato.interop import diffusers as names
    from sfumato.interop.diffusers_config import first_stage_settings, unet_class, unet_settings

    def unet(card: Card) -> tuple[nn.Module, KeyMap]:
        settings = unet_settings(card.unet, text_time="sdxl" in card.name)
        keys = names.unet_keys(card.unet, text_time="sdxl" in card.name)
        return getattr(diffusers, unet_class(card.unet))(**settings), keys

    def call(network: nn.Module, card: Card, x: Tensor, steps: Tensor, cond: Conditioning) -> Tensor:
        whole = x if cond.concat is None else torch.cat([x, cond.concat], 1)
        told: dict[str, Any] = {"class_labels": cond.vector}
        if "sdxl" in card.name:
            count = 5 if "refiner" in card.name else 6
            sizes = (torch.arange(BATCH * count) * 64).view(BATCH, count)
            told = {"added_cond_kwargs": {"text_embeds": cond.vector[:, : -count * SIZES], "time_ids": sizes}}
        context = () if cond.context is None else (cond.context,)
        return network(whole, steps, *context, **told).sample

    def first_stage(card: Card) -> tuple[nn.Module, KeyMap]:
        settings = first_stage_settings(card.first_stage)
        kind = diffusers.VQModel if card.first_stage.kind == "vq" else diffusers.AutoencoderKL
        return kind(**settings), names.first_stage_keys(card.first_stage)

    def encode(stage: nn.Module, x: Tensor) -> Tensor:
        return stage.quant_conv(stage.encoder(x))

    def decode(stage: nn.Module, z: Tensor) -> Tensor:
        return stage.decode(z).sample  # codes are their own nearest code

    return Other(unet, call, first_stage, encode, decode)


def authors_side(folder: Path, name: str, quick: bool) -> Other:
    """The authors' classes, built from their yaml file and not from our card."""
    import torch

    sys.path.insert(0, str(HERE.parent.parent / "tests" / "interop"))
    import authors

    from sfumato.interop import compvis

    repository, yaml_file, changes = authors.ROWS[name]
    root = folder / repository
    authors.enter(root)
    network, stage = authors.configs(root, yaml_file, changes)
    assert network is not None, f"{name} is a first stage alone"
    if quick:
        network["model_channels"] = stage["ddconfig"]["ch"] = NARROW
        if "num_head_channels" in network:
            network["num_head_channels"] = min(network["num_head_channels"], NARROW)

    def call(network: nn.Module, card: Card, x: Tensor, steps: Tensor, cond: Conditioning) -> Tensor:
        whole = x if cond.concat is None else torch.cat([x, cond.concat], 1)
        return network(whole, steps, context=cond.context, y=cond.vector)

    def encode(stage: nn.Module, x: Tensor) -> Tensor:
        return stage.quant_conv(stage.encoder(x))

    def decode(stage: nn.Module, z: Tensor) -> Tensor:
        return stage.decoder(stage.post_quant_conv(z))

    return Other(
        lambda card: (authors.unet(network), compvis.unet_keys(card.unet)),
        call,
        lambda card: (authors.first_stage(stage), compvis.first_stage_keys(card.first_stage)),
        encode,
        decode,
    )


def names(authors: bool) -> list[str]:
    """Models that the other side can express."""
    from sfumato.errors import InputError
    from sfumato.interop.cards import CARDS
    from sfumato.interop.diffusers import check_unet

    found = []
    for card in CARDS:
        try:
            if not authors:
                check_unet(card.unet)
        except InputError:
            continue
        found.append(card.name)
    return found


def main(argv: list[str] | None = None) -> None:
    """Print a table and, with --out, write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--authors", type=Path, metavar="FOLDER", help="against the authors' classes in these checkouts")
    parser.add_argument("--pixels", type=int, default=128, help="side of the picture whose latents are used")
    parser.add_argument("--quick", action="store_true", help=f"first levels of {NARROW} channels: to see that it runs")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    from sfumato.interop.cards import find_card

    if args.one:
        card = find_card(args.one)
        other = authors_side(args.authors, args.one, args.quick) if args.authors else diffusers_side()
        print("\n" + json.dumps(measure(narrow(card) if args.quick else card, other, args.pixels)))
        return
    passed_on = [f"--pixels={args.pixels}"] + ([f"--authors={args.authors}"] if args.authors else [])
    passed_on += ["--quick"] if args.quick else []
    print(machine())
    rows, found, worst = [], {}, 0.0
    for name in args.models or names(bool(args.authors)):
        card = find_card(name)
        command = [sys.executable, str(HERE), f"--one={card.name}", *passed_on]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{card.name} failed; its last words are above.")
        found[name] = result = json.loads(done.stdout.splitlines()[-1])
        shown = [result[part] for part in ("unet", "encoder", "decoder")]
        worst = max(worst, *shown)
        millions = f"{result['parameters'] / 1e6:.2f} M"
        rows.append([name, millions, *(f"{value:.1e}" for value in shown), f"{result['seconds']:.0f} s"])
        print(*rows[-1], file=sys.stderr)
    print(table(["model", "U-Net", "U-Net differs by", "encoder", "decoder", "time"], rows))
    write(args.out, {"machine": machine(), "against": "authors" if args.authors else "diffusers", "models": found})
    if worst > TOLERANCE:
        raise SystemExit(f"the largest difference is {worst:.1e} of the output's scale, more than {TOLERANCE:.0e}.")


if __name__ == "__main__":
    main()
