"""The tasks of the paper over plain folders: each is a conditioner, over the first stage and the denoiser of `folder`.

The first stage is trained by the run, or is that of another model (`--first-stage MODEL|RUN`), as all tasks can share one.
Every `-tiny` variant runs in seconds on a CPU, to see that everything works.
"""

from __future__ import annotations

import dataclasses

from sfumato.build import TrainedConditionerConfig, TrainedPartConfig
from sfumato.conditioners.compose import TEXT, CompositeConfig, Part
from sfumato.conditioners.frozen_text import FrozenTextConfig
from sfumato.conditioners.label import LabelConfig
from sfumato.conditioners.layout import LayoutConfig
from sfumato.conditioners.low_resolution import LowResolutionConfig
from sfumato.conditioners.masked import MaskedImageConfig
from sfumato.conditioners.none import NoneConfig
from sfumato.conditioners.retrieved import RetrievedConfig
from sfumato.conditioners.segmentation import SegmentationConfig
from sfumato.conditioners.text import TextConfig
from sfumato.recipes.folder import folder, tiny
from sfumato.training.config import RunConfig

ANY_CLASSES = ("any", "other")  # the data's own take their place


def unconditional() -> RunConfig:
    """p(x): pictures alone.

    Command: `sfumato train unconditional --data DIR --out RUN`. Hardware: one GPU of 12 GB or more. Mirrors the rows of
    CelebA-HQ, FFHQ and LSUN (table 12).
    """
    return _task("unconditional", folder(), NoneConfig())


def unconditional_tiny() -> RunConfig:
    """`unconditional` in seconds. Command: `sfumato train unconditional-tiny --data DIR --out RUN`. Hardware: any."""
    return _task("unconditional-tiny", _quick(), NoneConfig())


def frozen_text() -> RunConfig:
    """Captions read by an encoder that others trained (CLIP, T5, BERT), which stays as it is.

    Command: `sfumato train frozen-text --data DIR --out RUN --set prior.conditioner.source=ENCODER` with ENCODER a transformers
    folder or owner/name on the hub. Hardware: one GPU of 12 GB or more beside the encoder.
    """
    return _task("frozen-text", folder(), FrozenTextConfig())


def frozen_text_tiny() -> RunConfig:
    """`frozen-text` in seconds.

    Command: `sfumato train frozen-text-tiny --data DIR --out RUN --set prior.conditioner.source=ENCODER`. Hardware: any.
    """
    return _task("frozen-text-tiny", _quick(), FrozenTextConfig(length=16))


def class_conditional() -> RunConfig:
    """One subfolder a class, or the metadata field that `--set data.label=FIELD` names.

    Command: `sfumato train class --data DIR --out RUN`. Hardware: one GPU of 12 GB or more. Mirrors the
    ImageNet rows (table 13).
    """
    return _task("class", folder(), LabelConfig(ANY_CLASSES, dim=256))


def class_tiny() -> RunConfig:
    """`class` in seconds. Command: `sfumato train class-tiny --data DIR --out RUN`. Hardware: any."""
    return _task("class-tiny", _quick(), LabelConfig(ANY_CLASSES, dim=32))


def inpaint() -> RunConfig:
    """Masks drawn at every step beside the masked picture's latents; captions guide where there are any.

    Command: `sfumato train inpaint --data DIR --out RUN`. Hardware: one GPU of 12 GB or more. Mirrors section 4.5 (table 15).
    Without captions: `sfumato train inpaint-pictures`.
    """
    return _task("inpaint", folder(), _with_text(TextConfig(dim=256, depth=4, heads=4, length=64, vocabulary=4096)))


def inpaint_pictures() -> RunConfig:
    """`inpaint` for pictures without captions.

    Command: `sfumato train inpaint-pictures --data DIR --out RUN`. Hardware: one GPU of 12 GB or more.
    """
    return _task("inpaint-pictures", folder(), MaskedImageConfig(convention="paper"))


def inpaint_tiny() -> RunConfig:
    """`inpaint-pictures` in seconds. Command: `sfumato train inpaint-tiny --data DIR --out RUN`. Hardware: any."""
    return _task("inpaint-tiny", _quick(), MaskedImageConfig(convention="paper"))


def upscale() -> RunConfig:
    """x4 super-resolution of bicubically shrunken pictures; `--set prior.conditioner.degradation=blind` for real small ones.

    Command: `sfumato train upscale --data DIR --out RUN`. Hardware: one GPU of 12 GB or more. Mirrors section 4.4 (table 14).
    x2 or x8: `--set prior.conditioner.factor=2`.
    """
    return _task("upscale", folder(), LowResolutionConfig())


def upscale_tiny() -> RunConfig:
    """`upscale` in seconds. Command: `sfumato train upscale-tiny --data DIR --out RUN`. Hardware: any."""
    return _task("upscale-tiny", _quick(), LowResolutionConfig())


def semantic() -> RunConfig:
    """Class maps as index PNGs: `images/` and `maps/` with the same names.

    Command: `sfumato train semantic --data DIR --out RUN`. Hardware: one GPU of 12 GB or more. Mirrors section 4.3.2.
    """
    return _task("semantic", folder(), SegmentationConfig(channels=16))


def semantic_tiny() -> RunConfig:
    """`semantic` in seconds. Command: `sfumato train semantic-tiny --data DIR --out RUN`. Hardware: any."""
    return _task("semantic-tiny", _quick(), SegmentationConfig(channels=4))


def layout() -> RunConfig:
    """Boxes with labels, from a COCO json in the folder.

    Command: `sfumato train layout --data DIR --out RUN`. Hardware: one GPU of 12 GB or more. Mirrors the
    layout rows (table 17).
    """
    return _task("layout", folder(), LayoutConfig(dim=256, depth=4, heads=4, vocabulary=8192))


def layout_tiny() -> RunConfig:
    """`layout` in seconds. Command: `sfumato train layout-tiny --data DIR --out RUN`. Hardware: any."""
    config = LayoutConfig(dim=32, depth=1, heads=2, head_channels=16, vocabulary=512, num_objects=4)
    return _task("layout-tiny", _quick(), config)


def retrieval() -> RunConfig:
    """Four of each picture's nearest others as context: a picture is never its own neighbour.

    Command: `sfumato train retrieval --data DIR --out RUN`. Hardware: one GPU of 12 GB or more. Mirrors no row of the paper:
    retrieval-augmented diffusion (Blattmann et al. 2022, arXiv 2204.11824).
    """
    return _task("retrieval", folder(), RetrievedConfig(width=256))


def retrieval_tiny() -> RunConfig:
    """`retrieval` in seconds. Command: `sfumato train retrieval-tiny --data DIR --out RUN`. Hardware: any."""
    return _task("retrieval-tiny", _quick(), RetrievedConfig(num=2, width=32))


def _quick() -> RunConfig:
    """`tiny` with a shorter prior: 15 seconds over a first stage that is there."""
    base = tiny()
    train = dataclasses.replace(base.prior.train, steps=120)
    return dataclasses.replace(base, prior=dataclasses.replace(base.prior, train=train))


def _with_text(text: TextConfig) -> CompositeConfig:
    return CompositeConfig((Part(TEXT, text), Part("mask", MaskedImageConfig(convention="paper"))))


def _task(name: str, base: RunConfig, conditioner: TrainedPartConfig | NoneConfig | CompositeConfig) -> RunConfig:
    return with_conditioner(dataclasses.replace(base, name=name), conditioner)


def with_conditioner(base: RunConfig, conditioner: TrainedConditionerConfig) -> RunConfig:
    """The run with another conditioner, which the data does not choose. Guidance is off where nothing can be left out."""
    prior = dataclasses.replace(base.prior, conditioner=conditioner, condition="given")
    guided = isinstance(
        conditioner, TextConfig | FrozenTextConfig | LabelConfig | LayoutConfig | RetrievedConfig | CompositeConfig
    )
    sampling = base.sampling if guided else dataclasses.replace(base.sampling, guidance=1.0)
    return dataclasses.replace(base, prior=prior, sampling=sampling)
