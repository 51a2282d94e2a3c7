"""Named runs as plain functions that return a typed config."""

from __future__ import annotations

from collections.abc import Callable

from sfumato.recipes import emoji_tasks, tasks
from sfumato.recipes.emoji import emoji, emoji_f4, emoji_unet
from sfumato.recipes.families import FAMILIES, tiny_family
from sfumato.recipes.folder import folder, tiny
from sfumato.recipes.paper import ldm_f4, ldm_f8
from sfumato.recipes.quantized import vq_tiny
from sfumato.recipes.scenes import scenes, scenes_layout, scenes_semantic
from sfumato.training.config import RunConfig

RECIPES: dict[str, Callable[[], RunConfig]] = {
    "tiny": tiny,
    "folder": folder,
    "unconditional": tasks.unconditional,
    "frozen-text": tasks.frozen_text,
    "class": tasks.class_conditional,
    "inpaint": tasks.inpaint,
    "inpaint-pictures": tasks.inpaint_pictures,
    "upscale": tasks.upscale,
    "semantic": tasks.semantic,
    "layout": tasks.layout,
    "retrieval": tasks.retrieval,
    "unconditional-tiny": tasks.unconditional_tiny,
    "frozen-text-tiny": tasks.frozen_text_tiny,
    "class-tiny": tasks.class_tiny,
    "inpaint-tiny": tasks.inpaint_tiny,
    "upscale-tiny": tasks.upscale_tiny,
    "semantic-tiny": tasks.semantic_tiny,
    "layout-tiny": tasks.layout_tiny,
    "retrieval-tiny": tasks.retrieval_tiny,
    "vq-tiny": vq_tiny,
    "emoji": emoji,
    "emoji-unet": emoji_unet,
    "emoji-f4": emoji_f4,
    "emoji-inpaint": emoji_tasks.emoji_inpaint,
    "emoji-inpaint-latent": emoji_tasks.emoji_inpaint_latent,
    "emoji-inpaint-pixel": emoji_tasks.emoji_inpaint_pixel,
    "emoji-upscale": emoji_tasks.emoji_upscale,
    "emoji-upscale-regression": emoji_tasks.emoji_upscale_regression,
    "emoji-class": emoji_tasks.emoji_class,
    "emoji-style": emoji_tasks.emoji_style,
    "emoji-retrieval": emoji_tasks.emoji_retrieval,
    "scenes": scenes,
    "scenes-layout": scenes_layout,
    "scenes-semantic": scenes_semantic,
    "ldm-f4": ldm_f4,
    "ldm-f8": ldm_f8,
    **{f"family-{name}": recipe for name, recipe in FAMILIES.items()},
    **{f"family-{name}-tiny": tiny_family(name) for name in FAMILIES},
}
