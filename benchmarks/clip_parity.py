"""CLIP's published towers at full size beside other implementations: equal weights, equal numbers.

    python benchmarks/clip_parity.py [TOWER ...] [--openclip] [--quick] [--out FILE.json]

Each tower (all, unless named) is built in a process of its own with random weights, which both sides share in memory. Text
towers read four prompts, vision towers two pictures; what is shown is the largest difference over the standard deviation of
what the other side gives. In fp32 sums in another order make about 1e-6 a layer; above 1e-4 the command fails.

The other side is transformers' CLIPTextModelWithProjection or CLIPVisionModelWithProjection with the plain attention, built
from the numbers of the published config.json. Our towers hold transformers' layers (with its default attention), so that this
checks sizes, names, activations, which layer is read, the norm behind it, the pooling and the projection. With `--openclip`
it is the class that OpenCLIP's weights were trained with, which shares no code: it needs the package open_clip_torch and of
torchvision nothing, since the one class of it that is imported is replaced by an empty shell.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import subprocess
import sys
import time
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from common import machine, table, write
from published_parity import TOLERANCE, difference, randomise

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sfumato.networks.clip import ClipTextConfig, ClipVisionConfig

HERE = Path(__file__).resolve()
PROMPTS = ("a photo of a cat", "", "l'été à Tokyo 🌃, 8K", "word " * 100)
QUICK_LAYERS = 3


class Tower(NamedTuple):
    """A tower's published numbers: width, layers, heads, feed-forward, activation and projection of its config.json."""

    model: str
    used_by: str
    vision: bool
    width: int
    layers: int
    heads: int
    hidden: int
    activation: str
    projection: int


TOWERS = {
    "sd1": Tower("ViT-L/14 text", "SD 1: last layer, normed", False, 768, 12, 12, 3072, "quick_gelu", 768),
    "rdm": Tower("ViT-L/14 text", "RDM: pooled", False, 768, 12, 12, 3072, "quick_gelu", 768),
    "sd2": Tower("OpenCLIP ViT-H/14 text", "SD 2: penultimate, normed", False, 1024, 24, 16, 4096, "gelu", 1024),
    "sdxl-l": Tower("ViT-L/14 text", "SDXL: penultimate", False, 768, 12, 12, 3072, "quick_gelu", 768),
    "sdxl-g": Tower("OpenCLIP ViT-bigG/14 text", "SDXL: penultimate, pooled", False, 1280, 32, 20, 5120, "gelu", 1280),
    "unclip-l": Tower("ViT-L/14 vision", "unCLIP-L: embedding", True, 1024, 24, 16, 4096, "quick_gelu", 768),
    "unclip-h": Tower("OpenCLIP ViT-H/14 vision", "unCLIP-H: embedding", True, 1280, 32, 16, 5120, "gelu", 1024),
}
"""Of openai/clip-vit-large-patch14, and laion's CLIP-ViT-H-14-laion2B-s32B-b79K and CLIP-ViT-bigG-14-laion2B-39B-b160k."""


class Found(NamedTuple):
    """What a side gives: the last two layers' tokens (texts only) and the vector in the shared space."""

    penultimate: Tensor | None
    normed_penultimate: Tensor | None
    normed_last: Tensor | None
    vector: Tensor


def our_config(name: str) -> ClipTextConfig | ClipVisionConfig:
    """The tower as the cards' conditioners build it."""
    from sfumato.conditioners import clip_text, image_embedding

    return {
        "sd1": clip_text.SD1.towers[0],
        "rdm": clip_text.RDM.towers[0],
        "sd2": clip_text.SD2.towers[0],
        "sdxl-l": clip_text.SDXL_BASE.towers[0],
        "sdxl-g": clip_text.SDXL_BASE.towers[1],
        "unclip-l": image_embedding.VIT_L,
        "unclip-h": image_embedding.VIT_H,
    }[name]


def inputs(tower: Tower, pad: int) -> Tensor:
    """Token ids (4, 77), or normalised pictures (2, 3, 224, 224)."""
    import torch

    from sfumato.conditioners.clip_tokens import encode_padded

    if tower.vision:
        return torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    return encode_padded(PROMPTS, pad)


def transformers_side(tower: Tower, given: Tensor) -> tuple[dict[str, Tensor], Found]:
    """Transformers' model filled with random weights: these, under the names of our towers, and what it gives."""
    import transformers

    from sfumato.conditioners import keys

    sizes = {
        "hidden_size": tower.width,
        "intermediate_size": tower.hidden,
        "num_hidden_layers": tower.layers,
        "num_attention_heads": tower.heads,
        "hidden_act": tower.activation,
        "projection_dim": tower.projection,
        "layer_norm_eps": 1e-5,
        "attn_implementation": "eager",
    }
    if tower.vision:
        vision = transformers.CLIPVisionConfig(**sizes, image_size=224, patch_size=14)
        model = randomise(transformers.CLIPVisionModelWithProjection(vision))
        found = Found(None, None, None, model(pixel_values=given).image_embeds)
    else:
        text = transformers.CLIPTextConfig(**sizes, vocab_size=49408, max_position_embeddings=77, eos_token_id=2)
        model = randomise(transformers.CLIPTextModelWithProjection(text))
        out = model(input_ids=given, output_hidden_states=True)
        before = out.hidden_states[-2]
        norm = next(part for name, part in model.named_modules() if name.endswith("final_layer_norm"))
        found = Found(before, norm(before), out.last_hidden_state, out.text_embeds)
    return keys.from_transformers(model.state_dict()), found


def openclip_side(tower: Tower, given: Tensor) -> tuple[dict[str, Tensor], Found]:
    """The same of OpenCLIP's own classes."""
    from torch import nn

    from sfumato.conditioners import keys

    parts = openclip()
    kind = {"act_layer": parts.QuickGELU if tower.activation == "quick_gelu" else nn.GELU, "output_dim": tower.projection}
    ratio = tower.hidden / tower.width
    if tower.vision:
        model = randomise(parts.VisionTransformer(224, 14, tower.width, tower.layers, tower.heads, ratio, **kind))
        return keys.from_openclip(model.state_dict(), vision=True), Found(None, None, None, model(given))
    model = parts.TextTransformer(77, 49408, tower.width, tower.heads, tower.layers, ratio, **kind)
    randomise(model)
    seen: list[Tensor] = []
    for block in model.transformer.resblocks[-2:]:
        block.register_forward_hook(lambda _, __, out: seen.append(out))
    vector = model(given)
    before, last = seen
    return keys.from_openclip(model.state_dict()), Found(before, model.ln_final(before), model.ln_final(last), vector)


def openclip() -> types.ModuleType:
    """OpenCLIP's module of transformers, without what the package's own __init__ imports and without torchvision."""
    spec = importlib.util.find_spec("open_clip")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("--openclip needs the package open_clip_torch.")
    shells = {name: types.ModuleType(name) for name in ("open_clip", "torchvision", "torchvision.ops", "torchvision.ops.misc")}
    shells["open_clip"].__path__ = list(spec.submodule_search_locations)
    shells["torchvision.ops.misc"].__dict__["FrozenBatchNorm2d"] = type(None)
    before = {name: sys.modules.get(name) for name in shells}
    sys.modules.update(shells)
    try:
        return importlib.import_module("open_clip.transformer")
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def ours(config: ClipTextConfig | ClipVisionConfig, tensors: dict[str, Tensor]) -> nn.Module:
    """Our tower around the other side's memory."""
    import torch

    from sfumato.networks.clip import ClipText, ClipTextConfig, ClipVision, number_positions

    with torch.device("meta"):
        module = ClipText(config) if isinstance(config, ClipTextConfig) else ClipVision(config)
    wanted = module.state_dict().keys()
    if "projection.weight" not in wanted:  # the tower of SD 1 and SDXL's first: the map is in the file, and nothing uses it
        tensors.pop("projection.weight", None)
    module.load_state_dict(tensors, assign=True)
    number_positions(module)
    return module.eval()


def measure(name: str, side: Callable[[Tower, Tensor], tuple[dict[str, Tensor], Found]], quick: bool) -> dict[str, Any]:
    """Differences of what the published models read: tokens, and the vector where the tower has one here."""
    import torch

    from sfumato.networks.clip import END_ID, ClipTextConfig

    tower, config, start = TOWERS[name], our_config(name), time.perf_counter()
    if quick:
        tower, config = tower._replace(layers=QUICK_LAYERS), replace(config, layers=QUICK_LAYERS)
    pad = END_ID if isinstance(config, ClipTextConfig) and config.pad == "end" else 0
    given = inputs(tower, pad)
    with torch.no_grad():
        tensors, wanted = side(tower, given)
        module = ours(config, tensors)
        result: dict[str, Any] = {"parameters": sum(p.numel() for p in module.parameters())}
        made = module(given)
    if not isinstance(config, ClipTextConfig):
        return result | {"vector": difference(made, wanted.vector), "seconds": time.perf_counter() - start}
    tokens = (wanted.normed_penultimate if config.final_norm else wanted.penultimate) if config.skip else wanted.normed_last
    assert tokens is not None, "texts have tokens"
    result["tokens"] = difference(made.context, tokens)
    if made.pooled is not None:
        result["vector"] = difference(made.pooled, wanted.vector)
    return result | {"seconds": time.perf_counter() - start}


def main(argv: list[str] | None = None) -> None:
    """Print a table and, with --out, write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("towers", nargs="*", metavar="TOWER", help=", ".join(TOWERS))
    parser.add_argument("--openclip", action="store_true", help="against OpenCLIP's own classes")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_LAYERS} layers: to see that it runs")
    parser.add_argument("--one", choices=TOWERS, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    if args.one:
        print("\n" + json.dumps(measure(args.one, openclip_side if args.openclip else transformers_side, args.quick)))
        return
    if unknown := set(args.towers) - set(TOWERS):
        raise SystemExit(f"no such tower: {', '.join(sorted(unknown))}; expected of {', '.join(TOWERS)}.")
    print(machine())
    passed_on = ["--openclip"] * args.openclip + ["--quick"] * args.quick
    rows, found, worst = [], {}, 0.0
    for name in args.towers or TOWERS:
        command = [sys.executable, str(HERE), f"--one={name}", *passed_on]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{name} failed; its last words are above.")
        found[name] = result = json.loads(done.stdout.splitlines()[-1])
        shown = [result.get(part) for part in ("tokens", "vector")]
        worst = max(worst, *(value for value in shown if value is not None))
        differences = ("" if value is None else f"{value:.1e}" for value in shown)
        tower, millions = TOWERS[name], f"{result['parameters'] / 1e6:.2f} M"
        rows.append([f"`{name}`", tower.model, tower.used_by, millions, *differences, f"{result['seconds']:.0f} s"])
        print(*rows[-1], file=sys.stderr)
    print(table(["", "tower", "read by", "parameters", "tokens differ by", "vector", "time"], rows))
    write(args.out, {"machine": machine(), "against": "OpenCLIP" if args.openclip else "transformers", "towers": found})
    if worst > TOLERANCE:
        raise SystemExit(f"the largest difference is {worst:.1e} of the output's scale, more than {TOLERANCE:.0e}.")


if __name__ == "__main__":
    main()
