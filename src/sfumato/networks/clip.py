"""CLIP's towers: prompts and pictures -> embeddings of one space. The networks are transformers'; the rest is here.

    text     h_n = layers 1 ... n of E[ids] + P, causal;   pooled = W norm(h_N) at the first end mark
    vision   W norm(h_N) at the class token, of patches of a normalised 224 x 224 picture

Radford et al. 2021 (arXiv 2103.00020); the towers of OpenCLIP (Cherti et al. 2022, arXiv 2212.07143) differ in size and in
the activation. Only this module imports transformers, and only when a tower is built. Names in a state dict are the same
for every release of it: `body.embeddings`, `body.encoder.layers.N`, `body.final_layer_norm`, `projection.weight`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.errors import InputError

if TYPE_CHECKING:
    import types

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
END_ID = 49407
Activation = Literal["quick_gelu", "gelu"]


@dataclass(frozen=True)
class ClipTextConfig:
    """dim, layers, heads: of the tower. projection: width of the shared space, None for a tower without that map.

    skip: layers left out at the end of the context: 0 the last, 1 the penultimate. final_norm: of the context.
    pad: what fills a short prompt, the end mark (transformers' CLIP) or 0 (OpenCLIP). The defaults are Stable Diffusion 1's.
    """

    dim: int = 768
    layers: int = 12
    heads: int = 12
    activation: Activation = "quick_gelu"
    projection: int | None = None
    skip: int = 0
    final_norm: bool = True
    pad: Literal["end", "zero"] = "end"
    vocabulary: int = 49408
    length: int = 77

    def __post_init__(self) -> None:
        _positive(self, "CLIP text tower", ("dim", "layers", "heads", "vocabulary", "length"))
        if not 0 <= self.skip < self.layers:
            raise InputError(f"CLIP text tower: skip {self.skip} of {self.layers} layers; expected 0 to {self.layers - 1}.")
        if self.vocabulary <= END_ID:
            raise InputError(f"CLIP text tower: vocabulary {self.vocabulary}; expected {END_ID + 1} or more.")


@dataclass(frozen=True)
class ClipVisionConfig:
    """dim, layers, heads, hidden: of the tower (`hidden` is the feed-forward's). The defaults are OpenCLIP ViT-H/14's."""

    dim: int = 1280
    layers: int = 32
    heads: int = 16
    hidden: int = 5120
    activation: Activation = "gelu"
    projection: int = 1024
    patch: int = 14
    size: int = 224

    def __post_init__(self) -> None:
        _positive(self, "CLIP vision tower", ("dim", "layers", "heads", "hidden", "projection", "patch", "size"))
        if self.size % self.patch:
            raise InputError(f"CLIP vision tower: size {self.size} is no multiple of patch {self.patch}.")


@dataclass(frozen=True)
class TextFeatures:
    """context (B, L, dim); pooled (B, projection), or None for a tower without a projection."""

    context: Tensor
    pooled: Tensor | None


class ClipText(nn.Module):
    """A text tower. Frozen, as in every published model."""

    def __init__(self, config: ClipTextConfig):
        super().__init__()
        self.config = config
        c = config
        published = transformers().CLIPTextConfig(
            vocab_size=c.vocabulary,
            hidden_size=c.dim,
            intermediate_size=4 * c.dim,
            num_hidden_layers=c.layers,
            num_attention_heads=c.heads,
            hidden_act=c.activation,
            max_position_embeddings=c.length,
            projection_dim=c.projection or c.dim,
            eos_token_id=END_ID,
        )
        self.body = _body(transformers().CLIPTextModel(published), "text_model")
        self.projection = nn.Linear(c.dim, c.projection, bias=False) if c.projection else None
        self.requires_grad_(False)

    def forward(self, ids: Tensor) -> TextFeatures:
        """(B, L) int64 ids, each row with an end mark -> features."""
        skip, norm = self.config.skip, self.body.final_layer_norm
        out = self.body(input_ids=ids, output_hidden_states=skip > 0)
        last = out.last_hidden_state  # (B, L, D), normed
        if skip:
            context = out.hidden_states[-1 - skip]
            context = norm(context) if self.config.final_norm else context
        else:
            assert self.config.final_norm, "the last layer without its norm is no published context"
            context = last
        if self.projection is None:
            return TextFeatures(context, None)
        end = (ids == END_ID).int().argmax(1)  # the first one
        return TextFeatures(context, self.projection(last[torch.arange(len(ids), device=ids.device), end]))


class ClipVision(nn.Module):
    """A vision tower. Frozen, as in every published model."""

    def __init__(self, config: ClipVisionConfig):
        super().__init__()
        self.config = config
        c = config
        published = transformers().CLIPVisionConfig(
            hidden_size=c.dim,
            intermediate_size=c.hidden,
            projection_dim=c.projection,
            num_hidden_layers=c.layers,
            num_attention_heads=c.heads,
            image_size=c.size,
            patch_size=c.patch,
            hidden_act=c.activation,
        )
        self.body = _body(transformers().CLIPVisionModel(published), "vision_model")
        self.projection = nn.Linear(c.dim, c.projection, bias=False)
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, size, size) from `clip_pixels` -> (B, projection)."""
        return self.projection(self.body(pixel_values=x).pooler_output)


def number_positions(model: nn.Module) -> None:
    """Give the towers in a model that was built on the meta device the one table that no state dict has: 0, 1, 2, ..."""
    for tower in model.modules():
        if isinstance(tower, ClipText | ClipVision):
            places = tower.body.embeddings.position_ids.shape[-1]
            tower.body.embeddings.register_buffer("position_ids", torch.arange(places)[None], persistent=False)


def clip_pixels(x: Tensor, size: int) -> Tensor:
    """(B, 3, H, W) pixels in [-1, 1] -> (B, 3, size, size), normalised as CLIP's training was.

    Bicubic with aligned corners, after a Gaussian blur of standard deviation (factor - 1) / 2 where the picture shrinks, as
    the released unCLIP models resize.
    """
    factors = (x.shape[2] / size, x.shape[3] / size)
    if max(factors) > 1:
        x = _blur(x, (max((factors[0] - 1) / 2, 0.001), max((factors[1] - 1) / 2, 0.001)))
    x = F.interpolate(x, size=(size, size), mode="bicubic", align_corners=True)
    mean, std = (torch.tensor(v, device=x.device, dtype=x.dtype)[:, None, None] for v in (MEAN, STD))
    return ((x + 1) / 2 - mean) / std


def _blur(x: Tensor, sigmas: tuple[float, float]) -> Tensor:
    """A separable Gaussian over rows and columns, cut at 2 sigma, mirrored at the border."""
    channels = x.shape[1]
    for axis, sigma in ((2, sigmas[0]), (3, sigmas[1])):
        width = int(max(4 * sigma, 3))
        width += 1 - width % 2
        place = torch.arange(width, device=x.device, dtype=x.dtype) - width // 2
        kernel = torch.softmax(-place.square() / (2 * sigma**2), 0)
        shape = (width, 1) if axis == 2 else (1, width)
        edge = (0, 0, width // 2, width // 2) if axis == 2 else (width // 2, width // 2, 0, 0)
        weight = kernel.view(1, 1, *shape).expand(channels, 1, *shape)
        x = F.conv2d(F.pad(x, edge, mode="reflect"), weight, groups=channels)
    return x


def transformers() -> types.ModuleType:
    """The package. Raises `InputError` where it is not installed."""
    try:
        import transformers as package
    except ImportError:
        raise InputError("CLIP's towers need transformers; install it with `pip install 'sfumato[published]'`.") from None
    return package


def _body(model: Any, inner: str) -> Any:
    """Releases before 5 keep the tower one level further in; its own names are the same in both."""
    return getattr(model, inner, model)


def _positive(config: Any, what: str, names: tuple[str, ...]) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise InputError(f"{what} {name} is {getattr(config, name)}: expected 1 or more.")
    if config.dim % config.heads:
        raise InputError(f"{what}: heads {config.heads} does not divide dim {config.dim}.")
