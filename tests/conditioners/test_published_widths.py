"""Every published model's conditioner, full size on the meta device, fills the slots that its denoiser's yaml asks for."""

import pytest
import torch

from sfumato.build import build_conditioner
from sfumato.conditioners import published, wordpiece
from sfumato.conditioners.base import Conditioner
from sfumato.conditioners.depth import DepthMap
from sfumato.conditioners.image_embedding import EmbeddedImage
from sfumato.conditioners.layout import Box
from sfumato.conditioners.low_resolution import NoisedImage, SmallImage
from sfumato.conditioners.masked import MaskedImage
from sfumato.conditioners.sizes import Sizes

WORDS = [*wordpiece.MARKS, "cat", *(f"[unused{i}]" for i in range(30522 - 6))]  # as many as bert-base-uncased has
JSON = wordpiece.bert_tokenizer(WORDS).to_str()
RGB, SMALL = torch.zeros(3, 64, 64), torch.zeros(3, 16, 16)
MASK = MaskedImage(RGB, torch.ones(64, 64))
TEXT_H, TEXT_L, TEXT_G = 354.03, 123.06, 694.66  # parameters of the text towers, in millions

# name: (input, latent channels, (tokens, context), concat, vector, parameters in millions)
MODELS = {
    "CIN256": ("5", 4, (1, 512), None, None, 0.512),
    "CIN256_V2": ("5", 3, (1, 512), None, None, 0.5125),
    "TXT2IMG_1P4B": ("cat", 4, (77, 1280), None, None, 581.99),
    "TEXT2IMG256": ("cat", 3, (77, 640), None, None, 186.15),
    "LAYOUT2IMG": ((Box(1, 0, 0, 1, 1),), 3, (92, 512), None, None, 58.86),
    "SEMANTIC_SYNTHESIS": (torch.zeros(64, 64, dtype=torch.int64), 3, None, 6 - 3, None, 0.000546),
    "BSR_SR": (SmallImage(SMALL), 3, None, 6 - 3, None, 0.0),
    "INPAINTING_BIG": (MASK, 3, None, 7 - 3, None, 0.0),
    "RDM768_TEXT": ("cat", 16, (1, 768), None, None, TEXT_L + 0.59),
    "RDM768": ({"text": "cat", "neighbours": torch.ones(10, 768)}, 16, (11, 768), None, None, TEXT_L + 0.59),
    "SD1": ("cat", 4, (77, 768), None, None, TEXT_L),
    "SD1_INPAINTING": ({"text": "cat", "mask": MASK}, 4, (77, 768), 9 - 4, None, TEXT_L),
    "INSTRUCT_PIX2PIX": ({"text": "cat", "picture": RGB}, 4, (77, 768), 8 - 4, None, TEXT_L),
    "SD2": ("cat", 4, (77, 1024), None, None, TEXT_H),
    "SD2_INPAINTING": ({"text": "cat", "mask": MASK}, 4, (77, 1024), 9 - 4, None, TEXT_H),
    "SD2_DEPTH": ({"text": "cat", "depth": DepthMap(torch.rand(9, 9), (8, 8))}, 4, (77, 1024), 5 - 4, None, TEXT_H),
    "SD2_X4_UPSCALER": ({"text": "cat", "small": NoisedImage(SMALL, SMALL)}, 4, (77, 1024), 7 - 4, "levels", TEXT_H),
    "SD2_UNCLIP_H": (
        {"text": "cat", "image": EmbeddedImage(RGB, torch.zeros(1024))}, 4, (77, 1024), None, 2048, TEXT_H + 632.08
    ),
    "SD2_UNCLIP_L": (
        {"text": "cat", "image": EmbeddedImage(RGB, torch.zeros(768))}, 4, (77, 1024), None, 1536, TEXT_H + 303.97
    ),
    "SDXL_BASE": ({"text": "cat", "sizes": Sizes((1024, 1024))}, 4, (77, 2048), None, 2816, TEXT_L + TEXT_G),
    "SDXL_REFINER": ({"text": "cat", "sizes": Sizes((1024, 1024))}, 4, (77, 1280), None, 2560, TEXT_G),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_slots_and_counts(name):
    given, channels, context, concat, vector, millions = MODELS[name]

    def encode(x: torch.Tensor) -> torch.Tensor:
        return x.new_zeros(len(x), channels, x.shape[2] // 8, x.shape[3] // 8)

    with torch.device("meta"):
        conditioner = build_conditioner(getattr(published, name), JSON, encode)
    assert isinstance(conditioner, Conditioner)
    assert sum(p.numel() for p in conditioner.parameters()) / 1e6 == pytest.approx(millions, abs=0.0101)
    cond = conditioner(conditioner.prepare([given]).to("meta"))
    assert (None if cond.context is None else tuple(cond.context.shape[1:])) == context
    assert (None if cond.concat is None else cond.concat.shape[1]) == concat
    if vector == "levels":
        assert cond.vector is not None
        assert cond.vector.shape == (1,)
        assert not cond.vector.is_floating_point()
    else:
        assert (None if cond.vector is None else cond.vector.shape[1]) == vector
    assert cond.mask is None
