"""LoRAs into a model's weights, and out again.

    W' = W + sum_i scale_i * factor_i * up_i @ down_i        in fp32, rounded once to the type of W

Several LoRAs combine by this sum. Which weight a name in a file means is looked up in a table of all names that the weights of
this very model have in diffusers' and in the authors' trees, each with dots and with underscores; nothing is guessed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType

import torch
from torch import Tensor, nn

from sfumato.conditioners.clip_text import ClipTexts
from sfumato.conditioners.keys import to_transformers
from sfumato.errors import InputError
from sfumato.interop import compvis, diffusers
from sfumato.interop.keys import MOST_SHOWN, KeyMap
from sfumato.interop.lora import Lora, LowRank
from sfumato.networks.unet import UNet, UNetConfig

UNET_STARTS = ("unet.", "", "diffusion_model.", compvis.UNET)
UNDERSCORED_UNET = "lora_unet_"
TEXT_STARTS = (("text_encoder.", ""), ("text_encoder_2.",))
UNDERSCORED_TEXT = (("lora_te_", "lora_te1_"), ("lora_te2_",))
_SHOWN_STARTS = 150


def layer_names(model: nn.Module) -> dict[str, str]:
    """Every name that LoRA files have for a layer of `model` -> the name of its weight in the model.

    U-Nets and CLIP's text towers anywhere in it are seen; other parts have no names in LoRA files. `model` may be on the meta
    device.
    """
    table: dict[str, str] = {}
    for path, module in model.named_modules():
        ours = f"{path}." if path else ""
        if isinstance(module, UNet):
            for theirs, name in _unet(module.config):
                _enter(table, (start + theirs for start in UNET_STARTS), ours + name)
                _enter(table, (UNDERSCORED_UNET + theirs.replace(".", "_"),), ours + name)
        elif isinstance(module, ClipTexts):
            for number, tower in enumerate(module.towers):
                # the refiner of SDXL has the second tower alone, and published folders call it so
                place = 1 if module.config.vector and len(module.towers) == 1 else number
                if place < len(TEXT_STARTS):
                    for theirs, name in _text(tower):
                        _enter(table, (start + theirs for start in TEXT_STARTS[place]), f"{ours}towers.{number}.{name}")
                        flat = theirs.replace(".", "_")
                        _enter(table, (start + flat for start in UNDERSCORED_TEXT[place]), f"{ours}towers.{number}.{name}")
    return table


def matched(lora: Lora, model: nn.Module) -> dict[str, LowRank]:
    """Name of a weight of `model` -> its change. Raises `InputError`, one line, that lists the first ten layers that the model
    does not have or that have another shape there."""
    names, weights = layer_names(model), dict(model.named_parameters())
    strange = sorted(name for name in lora.layers if name not in names)
    if strange:
        raise InputError(
            f"{lora.path}: {len(strange)} of its {len(lora.layers)} layers are not in this model ({_listed(strange)}); "
            "was it made for another one?"
        )
    found: dict[str, LowRank] = {}
    wrong = []
    for name, change in lora.layers.items():
        ours = names[name]
        if ours in found:
            raise InputError(f"{lora.path} changes {ours} twice, under two names, the second {name[:_SHOWN_STARTS]}.")
        if _core(change.shape) != _core(tuple(weights[ours].shape)):
            wrong.append(f"{name} changes a weight {change.shape}, and here it is {tuple(weights[ours].shape)}")
        found[ours] = change
    if wrong:
        raise InputError(f"{lora.path} does not fit: {_listed(wrong, '; ')}; was it made for another model?")
    return found


Scale = float | tuple[float, float]
"""How much of a LoRA: of all of it, or (U-Net, text encoders)."""


def scale_text(scale: Scale) -> str:
    """As it is written on the command line: 0.8, or 0.8:0.5."""
    return ":".join(f"{one:g}" for one in (scale if isinstance(scale, tuple) else (scale,)))


class Merge:
    """LoRAs that are in a model's weights: what `merge` returns. `undo` takes them out; as a context, its end does."""

    def __init__(self) -> None:
        self._kept: list[tuple[str, nn.Parameter, Tensor, int]] = []

    def __len__(self) -> int:
        """How many weights are changed."""
        return len(self._kept)

    def undo(self) -> None:
        """The weights from before, bit by bit. Merges are undone in reverse order and before the model is moved or cast.

        Raises `InputError`, and changes nothing, where a weight is no longer the one that was merged. Twice is once.
        """
        for name, weight, _, place in self._kept:
            if weight.data_ptr() != place:
                raise InputError(
                    f"{name} was moved, cast or merged again since this merge; undo merges in reverse order and before that."
                )
        self._restore()

    def _restore(self) -> None:
        while self._kept:
            _, weight, before, _ = self._kept.pop()
            weight.data = before

    def _put(self, name: str, weight: nn.Parameter, value: Tensor) -> None:
        self._kept.append((name, weight, weight.data, value.data_ptr()))
        weight.data = value

    def __enter__(self) -> Merge:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.undo()


@torch.no_grad()
def merge(model: nn.Module, loras: Sequence[tuple[Lora, Scale]]) -> Merge:
    """Add LoRAs, each times its scale (1 is as trained, 0 nothing, below 0 the opposite), to the weights of `model`. A pair of
    scales is that of the U-Net and that of text encoders.

    Changed weights are new tensors (those from before are kept for `Merge.undo`, and a mapped file is never written). Raises
    `InputError` as `matched`, for a scale that is no finite number, and for a sum that the weight's type cannot hold; the model
    is then as it was.
    """
    changes: dict[str, list[tuple[LowRank, float, Lora]]] = {}
    texts = tuple(f"{path}." if path else "" for path, part in model.named_modules() if isinstance(part, ClipTexts))
    for lora, scale in loras:
        main, text = scale if isinstance(scale, tuple) else (scale, scale)
        if not (math.isfinite(main) and math.isfinite(text)):
            raise InputError(
                f"the scale of {lora.path} is {scale}; expected a finite number, 1 for the LoRA as it was trained."
            )
        for name, change in matched(lora, model).items():
            changes.setdefault(name, []).append((change, text if name.startswith(texts) else main, lora))
    weights, done = dict(model.named_parameters()), Merge()
    try:
        for name, parts in changes.items():
            done._put(name, weights[name], _sum(name, weights[name], parts))
    except BaseException:
        done._restore()
        raise
    return done


def _sum(name: str, weight: Tensor, parts: list[tuple[LowRank, float, Lora]]) -> Tensor:
    assert weight.dtype.is_floating_point, f"{name} has type {weight.dtype}"
    assert not weight.is_meta, f"{name} has no numbers yet: load the model first"
    total = weight.to(torch.promote_types(weight.dtype, torch.float32), copy=True)
    for change, scale, _ in parts:
        total += change.delta(weight.device).reshape(weight.shape).to(total.dtype) * scale
    result = total.to(weight.dtype)
    if (weight.isfinite() & ~result.isfinite()).any():
        files = ", ".join(str(lora.path) for _, _, lora in parts)
        raise InputError(f"{name} leaves the range of {weight.dtype} with {files}; lower the scale or load in fp32.")
    return result


def _unet(config: UNetConfig) -> Iterator[tuple[str, str]]:
    """(a layer's name there, our weight's) in every tree that can express the U-Net."""
    trees: tuple[Callable[[], KeyMap], ...] = (
        lambda: compvis.unet_keys(config),
        lambda: diffusers.unet_keys(config),
        lambda: diffusers.unet_keys(config, text_time=True),
    )
    seen: set[tuple[str, str]] = set()
    for tree in trees:
        try:
            pairs = tree().pairs
        except InputError:  # a U-Net without a form there has no LoRA in its names
            continue
        seen |= {(theirs.removesuffix(".weight"), ours) for ours, theirs in pairs.items() if theirs.endswith(".weight")}
    yield from sorted(seen)


def _text(tower: nn.Module) -> Iterator[tuple[str, str]]:
    """(a layer's name in transformers, our weight's in the tower); releases from 5 on leave `text_model.` out."""
    for name in tower.state_dict():
        theirs = next(iter(to_transformers({name: torch.empty(0)})))
        if theirs.endswith(".weight"):
            layer = theirs.removesuffix(".weight")
            yield layer, name
            if layer.startswith("text_model."):
                yield layer.removeprefix("text_model."), name


def _enter(table: dict[str, str], names: Iterator[str] | tuple[str, ...], ours: str) -> None:
    for name in names:
        if table.setdefault(name, ours) != ours:
            raise InputError(f"{table[name]} and {ours} would both be {name} in a LoRA file; this model has no LoRAs.")


def _core(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A weight's shape, a 1 x 1 convolution's as the matrix that it is."""
    return shape[:2] if all(size == 1 for size in shape[2:]) else shape


def _listed(items: Sequence[str], between: str = ", ") -> str:
    shown = between.join(item[:_SHOWN_STARTS] for item in items[:MOST_SHOWN])
    return shown + (f" and {len(items) - MOST_SHOWN} more" if items[MOST_SHOWN:] else "")
