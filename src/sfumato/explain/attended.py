"""One picture with the cross-attention that made it: taken while it is sampled, then drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL.Image import Image
from torch import Tensor

from sfumato.errors import InputError
from sfumato.explain.attention import WordMaps, recorded
from sfumato.explain.between import decoded
from sfumato.explain.figure import FILM_SCALE, Figure
from sfumato.explain.heat import overlay
from sfumato.explain.sheets import Row, evenly, sheet
from sfumato.explain.walk import Moment, diffusion_of, watched
from sfumato.explain.words import groups
from sfumato.generation.film import kept_steps
from sfumato.generation.pipeline import Pipeline
from sfumato.generation.request import Request

COLUMNS = 8
LONGEST = 10
MOST_LAYERS = 12
NOTE = "each map from its lowest value (white) to its highest (red); below it the word's share of the attention"
NOTE_STEPS = "each word's maps on one scale, from its lowest (white) to its highest (red); below, its share of the attention"


@dataclass(frozen=True)
class Attended:
    """A picture, its moments, and the maps of its groups of tokens; layers: the names of those with cross-attention."""

    prompt: str
    image: Image
    moments: Sequence[Moment]
    maps: WordMaps
    layers: Sequence[str]

    def shares(self) -> list[tuple[str, float]]:
        """Every group with its part of all attention; they sum to 1."""
        found = self.maps.shares(self.maps.mean()).tolist()
        return [(group.name, share) for group, share in zip(self.maps.groups, found, strict=True)]

    def to_json(self) -> dict[str, Any]:
        """Plain values: shares by step, layer and head, and the mean map of each group."""
        maps = self.maps
        return {
            "prompt": self.prompt,
            "groups": [{"name": g.name, "tokens": list(g.tokens), "word": g.is_word} for g in maps.groups],
            "times": [moment.t for moment in self.moments],
            "layers": list(self.layers),
            "shares": maps.shares(maps.mean()).tolist(),
            "shares_by_step": maps.shares(maps.steps()).tolist(),
            "shares_by_layer": maps.shares(maps.layers()).tolist(),
            "shares_by_head": [maps.shares(maps.heads(k)).tolist() for k in range(len(self.layers))],
            "maps": maps.mean().tolist(),
        }


def attended(pipeline: Pipeline, request: Request) -> Attended:
    """Sample the request's one picture as `generate` does, and take the maps on the way.

    Raises `InputError` for a model without a diffusion prior, without words, or without cross-attention.
    """
    prior, prompt = diffusion_of(pipeline, "cross-attention that is watched here"), request.prompts[0]
    length = _context_length(pipeline, request)
    found = groups(pipeline.model.conditioner, prompt, length)
    _, height, width = pipeline.model.latent_shape(request.height, request.width)
    maps = WordMaps(found, (height, width))
    with recorded(prior.network, maps.add) as layers:
        moments, image = watched(pipeline, request, maps.next_step)
    maps.steps()  # raises where nothing was attended to
    return Attended(prompt, image, moments, maps, layers)


def _context_length(pipeline: Pipeline, request: Request) -> int:
    import torch

    conditioner = pipeline.model.conditioner
    with torch.inference_mode():
        told = conditioner.from_prompt(request.prompts[0], (request.height, request.width))
        context = conditioner(conditioner.prepare([told]).to(pipeline.device)).context
    if context is None:
        raise InputError(f"model: {pipeline.name} is told no words that it could attend to ({type(conditioner).__name__}).")
    return int(context.shape[1])


def figure(found: Attended, view: str, words: Sequence[int]) -> Figure:
    """The picture under the maps of some groups: `view` is words, steps, layers or heads."""
    match view:
        case "words":
            return _by_words(found, words)
        case "steps":
            return _by_steps(found, words)
        case "layers":
            return _by_layers(found, words)
    assert view == "heads", view
    return _by_heads(found, max(words, key=lambda word: found.shares()[word][1]))


def _by_words(found: Attended, words: Sequence[int]) -> Figure:
    mean, shares = found.maps.mean(), found.shares()
    cells = [(found.image, "")]
    cells += [(_own(found.image, mean[word]), f"{shares[word][0]} {shares[word][1]:.1%}") for word in words]
    rows = [Row("", [image for image, _ in part], [caption for _, caption in part]) for part in _lines(cells)]
    return sheet(rows, title=found.prompt, side=100, notes=[NOTE]).figure


def _by_steps(found: Attended, words: Sequence[int]) -> Figure:
    maps, shares = found.maps.steps(), found.maps.shares(found.maps.steps())
    shown = evenly(len(maps), COLUMNS)
    rows = []
    for word in words:
        low, high = float(maps[:, word].min()), float(maps[:, word].max())
        pictures = [overlay(found.image, maps[step, word], high, low) for step in shown]
        rows.append(Row(found.maps.groups[word].name, pictures, [f"{float(shares[step, word]):.1%}" for step in shown]))
    heads = [f"t = {found.moments[step].t:.2f}" for step in shown]
    return sheet(rows, heads, found.prompt, notes=[NOTE_STEPS]).figure


def _by_layers(found: Attended, words: Sequence[int]) -> Figure:
    maps, shares = found.maps.layers(), found.maps.shares(found.maps.layers())
    shown = evenly(len(maps), MOST_LAYERS)
    rows = []
    for word in words:
        pictures = [_own(found.image, maps[layer, word]) for layer in shown]
        rows.append(Row(found.maps.groups[word].name, pictures, [f"{float(shares[layer, word]):.1%}" for layer in shown]))
    heads = [_layer_name(found, layer) for layer in shown]
    return sheet(rows, heads, found.prompt, notes=[NOTE]).figure


def _by_heads(found: Attended, word: int) -> Figure:
    rows = []
    for layer in range(len(found.layers)):
        maps = found.maps.heads(layer)  # (H, G, h, w)
        shares = found.maps.shares(maps)
        pictures = [_own(found.image, one[word]) for one in maps]
        rows.append(Row(_layer_name(found, layer), pictures, [f"{float(share[word]):.1%}" for share in shares]))
    heads = [f"head {head + 1}" for head in range(max(len(row.pictures) for row in rows))]
    title = f"{found.prompt}: {found.maps.groups[word].name}"
    return sheet(rows, heads, title, notes=[NOTE]).figure


def film_frames(pipeline: Pipeline, found: Attended, words: Sequence[int]) -> list[Image]:
    """A frame a step: the estimate of the clean picture, and the words' maps over it; at the end the picture and the mean."""
    maps, mean = found.maps.steps(), found.maps.mean()
    ranges = {word: (float(maps[:, word].max()), float(maps[:, word].min())) for word in words}
    count, frames = len(maps), []
    width = len(str(count))
    names = ["", *(found.maps.groups[word].name for word in words)]

    def frame(image: Image, values: Tensor, note: str) -> Image:
        cells = [image, *(overlay(image, values[word], *ranges[word]) for word in words)]
        named = _lines(list(zip(cells, names, strict=True)))
        rows = [Row("", [cell for cell, _ in part], [name for _, name in part]) for part in named]
        return sheet(rows, title=found.prompt, notes=[note]).figure.image(FILM_SCALE)

    for step in sorted(kept_steps(count)):
        moment = found.moments[step - 1]
        (image,) = decoded(pipeline, moment.z_0)
        frames.append(frame(image, maps[step - 1], f"step {step:{width}} of {count}, t = {moment.t:.3f}"))
    return [*frames, frame(found.image, mean, f"{'mean of all':<{len(f'step {count} of {count}, t = 0.000')}}")]


def _lines(cells: Sequence[tuple[Image, str]]) -> list[Sequence[tuple[Image, str]]]:
    """Cells in lines of about one length, at most `LONGEST` each."""
    columns = math.ceil(len(cells) / math.ceil(len(cells) / LONGEST))
    return [cells[start : start + columns] for start in range(0, len(cells), columns)]


def _own(image: Image, values: Tensor) -> Image:
    return overlay(image, values, float(values.max()), float(values.min()))


def _layer_name(found: Attended, layer: int) -> str:
    h, w = found.maps.by_layer[layer].shape[-2:]
    return f"{layer + 1}: {h} x {w}"
