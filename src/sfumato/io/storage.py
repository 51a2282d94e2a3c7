"""How a model's weights lie on disk. In use they are fp32 whatever the file holds."""

from __future__ import annotations

import enum


class Storage(enum.Enum):
    """Bytes a weight: fp32 has 4, fp16 has 2, int8 has 1 and a scale a row (`sfumato.io.quantize`)."""

    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"
