"""Every class that the `model` section of a released yaml names, as words to compare with. None is ever imported.

Collected from the yaml files of CompVis/latent-diffusion, CompVis/stable-diffusion, CompVis/taming-transformers,
Stability-AI/stablediffusion and Stability-AI/generative-models; fine-tuners' variants of the same classes are added.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_NAMES: Mapping[str, str] = {
    "ldm.lr_scheduler": "LambdaLinearScheduler LambdaWarmUpCosineScheduler LambdaWarmUpCosineScheduler2",
    "ldm.models.autoencoder": "AutoencoderKL VQModel VQModelInterface IdentityFirstStage",
    "ldm.models.diffusion.ddpm": (
        "DDPM LatentDiffusion LatentInpaintDiffusion LatentUpscaleDiffusion LatentUpscaleFinetuneDiffusion "
        "LatentFinetuneDiffusion LatentDepth2ImageDiffusion ImageEmbeddingConditionedLatentDiffusion"
    ),
    "ldm.models.diffusion.ddpm_edit": "LatentDiffusion",
    "ldm.modules.diffusionmodules.openaimodel": "UNetModel EncoderUNetModel",
    "ldm.modules.diffusionmodules.upscaling": "ImageConcatWithNoiseAugmentation",
    "ldm.modules.encoders.modules": (
        "BERTEmbedder BERTTokenizer TransformerEmbedder ClassEmbedder SpatialRescaler IdentityEncoder FrozenT5Embedder "
        "FrozenCLIPEmbedder FrozenCLIPTextEmbedder FrozenClipImageEmbedder FrozenCLIPImageEmbedder ClipImageEmbedder "
        "FrozenOpenCLIPEmbedder FrozenOpenCLIPImageEmbedder FrozenCLIPT5Encoder CLIPEmbeddingNoiseAugmentation"
    ),
    "ldm.modules.losses": "LPIPSWithDiscriminator",
    "ldm.modules.losses.contperceptual": "DummyLoss LPIPSWithDiscriminator",
    "ldm.modules.losses.vqperceptual": "VQLPIPSWithDiscriminator",
    "ldm.modules.midas.api": "MiDaSInference",
    "sgm.lr_scheduler": "LambdaLinearScheduler",
    "sgm.models.autoencoder": (
        "AutoencoderKL AutoencoderKLInferenceWrapper AutoencoderKLModeOnly AutoencodingEngine AutoencodingEngineLegacy "
        "IdentityFirstStage VQModelInterface"
    ),
    "sgm.models.diffusion": "DiffusionEngine",
    "sgm.modules": "GeneralConditioner",
    "sgm.modules.autoencoding.losses": "GeneralLPIPSWithDiscriminator",
    "sgm.modules.autoencoding.regularizers": "DiagonalGaussianRegularizer",
    "sgm.modules.autoencoding.temporal_ae": "VideoDecoder",
    "sgm.modules.diffusionmodules.denoiser": "Denoiser DiscreteDenoiser",
    "sgm.modules.diffusionmodules.denoiser_scaling": "EDMScaling EpsScaling VScaling VScalingWithEDMcNoise",
    "sgm.modules.diffusionmodules.denoiser_weighting": "EDMWeighting EpsWeighting UnitWeighting VWeighting",
    "sgm.modules.diffusionmodules.discretizer": "EDMDiscretization LegacyDDPMDiscretization",
    "sgm.modules.diffusionmodules.guiders": (
        "IdentityGuider LinearPredictionGuider SpatiotemporalPredictionGuider TrianglePredictionGuider VanillaCFG"
    ),
    "sgm.modules.diffusionmodules.loss": "StandardDiffusionLoss",
    "sgm.modules.diffusionmodules.loss_weighting": "EDMWeighting EpsWeighting UnitWeighting VWeighting",
    "sgm.modules.diffusionmodules.model": "Decoder Encoder",
    "sgm.modules.diffusionmodules.openaimodel": "UNetModel",
    "sgm.modules.diffusionmodules.sampling": "DPMPP2MSampler EulerAncestralSampler EulerEDMSampler HeunEDMSampler",
    "sgm.modules.diffusionmodules.sigma_sampling": "DiscreteSampling EDMSampling ZeroSampler",
    "sgm.modules.diffusionmodules.video_model": "SpatialUNetModelWithTime VideoUNet",
    "sgm.modules.encoders.modules": (
        "ClassEmbedder ConcatTimestepEmbedderND FrozenCLIPEmbedder FrozenOpenCLIPEmbedder FrozenOpenCLIPEmbedder2 "
        "FrozenOpenCLIPImageEmbedder FrozenOpenCLIPImagePredictionEmbedder SpatialRescaler VideoPredictionEmbedderWithEncoder"
    ),
    "taming.models.cond_transformer": "Net2NetTransformer",
    "taming.models.dummy_cond_stage": "DummyCondStage",
    "taming.models.vqgan": "EMAVQ GumbelVQ VQModel VQNoDiscModel VQSegmentationModel",
    "taming.modules.losses": "DummyLoss",
    "taming.modules.losses.segmentation": "BCELossWithQuant",
    "taming.modules.losses.vqperceptual": "DummyLoss VQLPIPSWithDiscriminator",
    "taming.modules.misc.coord": "CoordStage",
    "taming.modules.transformer.mingpt": "GPT",
    "torch.nn": "Identity",
}

TARGETS: Final = frozenset(f"{module}.{name}" for module, names in _NAMES.items() for name in names.split())
