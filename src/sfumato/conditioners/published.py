"""The conditioners of the published models, as configs: what each of them tells its denoiser.

    model                             context        concat                      vector
    celebahq, ffhq, lsun_*            -              -                           -          (`NoneConfig`)
    cin256, cin256-v2                 1 x 512        -                           -
    txt2img-1p4B                      77 x 1280      -                           -
    text2img256                       77 x 640       -                           -
    layout2img-openimages256          92 x 512       -                           -
    semantic_synthesis256, 512        -              3                           -
    bsr_sr                            -              3, RGB                      -
    inpainting_big                    -              3 + 1, latents and mask     -
    rdm768                            (1 + k) x 768  -                           -
    stable diffusion 1                77 x 768       (inpainting: 1 + 4)         -
    instruct-pix2pix                  77 x 768       4, latents of the picture   -
    stable diffusion 2                77 x 1024      (inpainting: 1 + 4)         -
      depth                           77 x 1024      1                           -
      x4 upscaler                     77 x 1024      3, RGB with noise           the noise level, a whole number
      unclip-h, unclip-l              77 x 1024      -                           2048, 1536
    sdxl base, refiner                77 x 2048,     -                           2816, 2560
                                      77 x 1280

Rombach et al. 2021 (arXiv 2112.10752) and the yaml files of its releases, of Stable Diffusion 1 and 2 and of SDXL.
"""

from __future__ import annotations

from sfumato.conditioners import clip_text, image_embedding
from sfumato.conditioners.bert import BertConfig
from sfumato.conditioners.class_embedder import ClassEmbedderConfig
from sfumato.conditioners.compose import CompositeConfig, Part, PartConfig
from sfumato.conditioners.depth import DepthConfig
from sfumato.conditioners.image_embedding import ImageEmbeddingConfig
from sfumato.conditioners.layout import LayoutConfig
from sfumato.conditioners.low_resolution import LowResolutionConfig, NoisedLowResolutionConfig
from sfumato.conditioners.masked import MaskedImageConfig
from sfumato.conditioners.neighbours import NeighboursConfig
from sfumato.conditioners.picture_latent import PictureLatentConfig
from sfumato.conditioners.segmentation import SegmentationConfig
from sfumato.conditioners.sizes import SizesConfig

CIN256 = ClassEmbedderConfig()
CIN256_V2 = ClassEmbedderConfig(null_class=True)
TXT2IMG_1P4B = BertConfig()
TEXT2IMG256 = BertConfig(dim=640)
LAYOUT2IMG = LayoutConfig()
SEMANTIC_SYNTHESIS = SegmentationConfig()
BSR_SR = LowResolutionConfig()
INPAINTING_BIG = MaskedImageConfig(convention="paper")
RDM768_TEXT = clip_text.RDM


def with_text(text: PartConfig, name: str, other: PartConfig) -> CompositeConfig:
    """Two parts: `text`, and `other` called `name`."""
    return CompositeConfig((Part("text", text), Part(name, other)))


RDM768 = with_text(RDM768_TEXT, "neighbours", NeighboursConfig())
SD1, SD2 = clip_text.SD1, clip_text.SD2
SD1_INPAINTING = with_text(SD1, "mask", MaskedImageConfig())
INSTRUCT_PIX2PIX = with_text(SD1, "picture", PictureLatentConfig())
SD2_INPAINTING = with_text(SD2, "mask", MaskedImageConfig())
SD2_DEPTH = with_text(SD2, "depth", DepthConfig())
SD2_X4_UPSCALER = with_text(SD2, "small", NoisedLowResolutionConfig())
SD2_UNCLIP_H = with_text(SD2, "image", ImageEmbeddingConfig(image_embedding.VIT_H))
SD2_UNCLIP_L = with_text(SD2, "image", ImageEmbeddingConfig(image_embedding.VIT_L))
SDXL_BASE = with_text(clip_text.SDXL_BASE, "sizes", SizesConfig())
SDXL_REFINER = with_text(clip_text.SDXL_REFINER, "sizes", SizesConfig(last="score"))
