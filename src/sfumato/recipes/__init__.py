"""Named runs as plain functions that return a typed config."""

from __future__ import annotations

from collections.abc import Callable

from sfumato.recipes.emoji import emoji, emoji_f4, emoji_unet
from sfumato.recipes.folder import folder, tiny
from sfumato.recipes.paper import ldm_f4, ldm_f8
from sfumato.training.config import RunConfig

RECIPES: dict[str, Callable[[], RunConfig]] = {
    "tiny": tiny,
    "folder": folder,
    "emoji": emoji,
    "emoji-unet": emoji_unet,
    "emoji-f4": emoji_f4,
    "ldm-f4": ldm_f4,
    "ldm-f8": ldm_f8,
}
