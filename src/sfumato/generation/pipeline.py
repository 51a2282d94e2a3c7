"""`load(...)` -> `Pipeline`: prompts in, pictures out; what Python users, the command line and servers share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from sfumato.conditioners.none import Unconditional
from sfumato.diffusion.guide import Guide, Score
from sfumato.errors import InputError
from sfumato.generation.device import find_device
from sfumato.generation.engine import Made, NotFiniteError, OnStep, run
from sfumato.generation.guides import small_picture
from sfumato.generation.known import MARGIN, known_part
from sfumato.generation.limits import AUTO, WHITE, shorten
from sfumato.generation.loading import AVERAGES, Place, Published, load_place
from sfumato.generation.metadata import Parameters
from sfumato.generation.pixels import WITH_ALPHA, from_picture
from sfumato.generation.precision import HALVES
from sfumato.generation.request import BATCH_SIZE, Draft, Picture, Request, Scales
from sfumato.generation.settings import check_asked, has_sampler, settings_of_request
from sfumato.generation.tasks.methods import TaskMethods
from sfumato.generation.tiling import TILING, Tiling, encode
from sfumato.io.pretrained import LoadedModel
from sfumato.latent import Codes, Grid
from sfumato.model import LatentModel
from sfumato.priors.diffusion import DiffusionPrior, DiffusionSettings, Start
from sfumato.priors.flow import FlowPrior
from sfumato.priors.regression import RegressionPrior
from sfumato.samplers.known import Known

if TYPE_CHECKING:
    from sfumato.interop.cards import Card
    from sfumato.interop.merge import Scale


class Pipeline(TaskMethods):
    """A loaded model on a device. `model` is the `LatentModel`, `name` and `hash` are written into pictures.

    `tiling` says from which size on pictures are decoded in tiles (`sfumato.generation.tiling`); None never.
    """

    def __init__(self, loaded: LoadedModel, device: torch.device, tiling: Tiling | None = TILING):
        self.loaded = loaded
        self.tiling = tiling
        self.device = device
        self.model: LatentModel = loaded.model
        self.name = loaded.name
        self.hash = loaded.hash

    @property
    def needs_prompt(self) -> bool:
        """Whether pictures are made from a prompt (a text, a class name); else there is nothing to say."""
        return not isinstance(self.model.conditioner, Unconditional)

    @property
    def dtype(self) -> torch.dtype:
        """The type that the prior runs in."""
        return next((p.dtype for p in self.model.prior.parameters()), torch.float32)

    @property
    def multiple(self) -> int:
        """A picture's sides are multiples of this many pixels: the first stage's factor times the prior network's own."""
        latent, prior = self.model.space.latent, self.model.prior
        if isinstance(latent, Codes):
            return max(latent.factors)
        if not isinstance(latent, Grid):
            return 1  # a generator's one size is checked when it draws
        return latent.factor * (
            prior.config.network.factor if isinstance(prior, DiffusionPrior | RegressionPrior | FlowPrior) else 1
        )

    @property
    def draws_transparency(self) -> bool:
        """Whether pictures have alpha, so that they can be laid on any background."""
        return self.model.first_stage.channels == WITH_ALPHA

    def request(self, draft: Draft) -> Request:
        """`draft` with this model's defaults. Raises `InputError` when it does not fit the model."""
        if draft.background != WHITE and not self.draws_transparency:
            raise InputError(
                f"background: got {draft.background!r}, but the model {shorten(self.name)} draws no transparency; "
                "leave it white (--background white), or take a model whose pictures have four channels."
            )
        if not draft.prompts:  # a model that needs more than a prompt says what, rather than that it got none
            self.model.conditioner.from_prompt("", self.model.image_size)
        check_asked(self.model.prior, draft, shorten(self.name))
        defaults = self.loaded.defaults
        return draft.complete(
            steps=defaults.steps,
            guidance=defaults.guidance,
            sampler=defaults.sampler,
            image_size=self.model.image_size,
            multiple=self.multiple,
            needs_prompt=self.needs_prompt,
        )

    def settings(self, request: Request) -> Any:
        """The prior's sampling settings for a request; the model's defaults give what a request cannot say."""
        return settings_of_request(self.model.prior, self.loaded.defaults, request)

    def stream(
        self,
        request: Request,
        on_step: OnStep | None = None,
        start: Start | None = None,
        inputs: Any = None,
        known: Known | None = None,
        guide: Guide | None = None,
    ) -> Iterator[Made]:
        """The request's pictures in order, each as soon as it is done, with its parameters in `image.info`.

        start: a latent to begin from in place of pure noise (`start_from`). inputs: as in `generate`. known: the part of the
        latent that stays (`known_from`). guide: a score that moves every estimate (`guide_from`).
        """
        settings = self.settings(request)
        if isinstance(settings, DiffusionSettings):
            settings = replace(settings, start=start, known=known, guide=guide)
        elif not (start is None and known is None and guide is None):
            raise InputError(
                f"the model {shorten(self.name)} is no diffusion model: it begins from no picture and follows none."
            )
        try:
            for made in run(self.model, request, settings, self.device, on_step, self.tiling, inputs):
                made.image.info.update(self.parameters(request, made.picture).to_info())
                yield made
        except NotFiniteError as error:
            if self.dtype not in HALVES:
                raise
            name = str(self.dtype).removeprefix("torch.")
            raise NotFiniteError(f"in {name}, {error} Or run it in fp32 (dtype float32).") from None

    @property
    def channels(self) -> int:
        """Of the pictures that the first stage encodes: 1 grey, 3 RGB, 4 with transparency."""
        return self.model.encoder.channels

    def start_from(self, image: Image.Image, strength: float, request: Request) -> Start:
        """`image`, resized to the request's size and encoded, as where to begin; `strength` is the share of the steps."""
        return self.start_at(from_picture(image, self.channels, (request.height, request.width)), strength)

    def start_at(self, x: Tensor, strength: float) -> Start:
        """A picture (1, C, H, W) in [-1, 1], encoded, as where to begin; `strength` is the share of the steps."""
        return Start(self.encoded(x), strength)

    @torch.inference_mode()
    def encoded(self, x: Tensor) -> Tensor:
        """Pictures (B, C, H, W) in [-1, 1] -> their most likely latents in unit scale, in tiles where they are large."""
        return encode(self.model.encoder, x.to(self.device), self.tiling).mean

    def known_from(
        self, image: Image.Image, mask: Image.Image, request: Request, resampling: int = 1, jump: int = 1, margin: int = MARGIN
    ) -> Known:
        """What stays of `image` where `mask` (of its size) is black, for a model that knows nothing of masks; see `known_part`.

        resampling: how often every `jump` steps are walked again so that the new part fits the old one, each time at the price
        of those steps.
        """
        return known_part(
            self.model.encoder,
            image,
            mask,
            (request.height, request.width),
            resampling=resampling,
            jump=jump,
            margin=margin,
            device=self.device,
            tiling=self.tiling,
        )

    def guide_from(self, guide: Image.Image | Score | Guide, request: Request, scale: float = 1.0) -> Guide:
        """A small picture, or a score `(z_0, t) -> (B,)` of latents in unit scale, as what moves every estimate.

        scale: 1 is the score as it is. Needs a diffusion prior, and costs a backward pass a step.
        """
        if isinstance(guide, Guide):
            return guide
        prior = self.model.prior
        if not isinstance(prior, DiffusionPrior):
            raise InputError("guide: this model is no diffusion model, and a score can guide no other.")
        if not isinstance(guide, Image.Image):
            return Guide(guide, scale)
        size = (request.height, request.width)
        score = small_picture(guide, self.model.first_stage, prior.denoiser.schedule, size, self.device)
        return Guide(score, scale)

    def parameters(self, request: Request, picture: Picture) -> Parameters:
        """What a picture's file says about how it was made."""
        stepped, settings = has_sampler(self.model.prior), self.settings(request)
        temperature = getattr(settings, "temperature", 1.0)
        return Parameters(
            prompt=picture.prompt,
            negative=request.negative,
            seed=picture.seed,
            steps=request.steps if stepped else None,
            guidance=dict(request.guidance) if isinstance(request.guidance, Mapping) else request.guidance,
            sampler=request.sampler if stepped else None,
            height=request.height,
            width=request.width,
            model=self.name,
            model_hash=self.hash,
            background=request.background,
            temperature=None if temperature == 1 else temperature,
            top_k=getattr(settings, "top_k", None),
            top_p=getattr(settings, "top_p", None),
        )

    def generate(
        self,
        prompts: str | Sequence[str] = (),
        num: int = 1,
        seed: int | None = None,
        *,
        negative: str | None = None,
        steps: int | None = None,
        guidance: Scales | None = None,
        sampler: str | None = None,
        size: tuple[int, int] | None = None,
        batch_size: int = BATCH_SIZE,
        background: str = WHITE,
        image: Image.Image | None = None,
        strength: float = 0.75,
        inputs: Any = None,
        guide: Image.Image | Score | Guide | None = None,
        guide_scale: float = 1.0,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        on_step: OnStep | None = None,
    ) -> list[Image.Image]:
        """`num` pictures of each prompt, prompt by prompt; picture i has seed `seed + i` (None: by chance).

        steps, guidance (1 is off), sampler, size (height, width) default to the model's own. `guidance` may also be a scale for
        each of some parts of the condition, as `{"text": 3.0, "map": 1.5}`. `background` is what a model that draws
        transparency is laid on: "white", "transparent" (RGBA pictures) or a colour such as "skyblue" or "#ffcc00"; the drawing
        is the same on all. `image`: begin from this picture, noised (SDEdit), and walk the last `strength` of the steps, above
        0 to 1 (nothing of it need stay). `inputs`: what the model is told beside the prompt, such as `{"mask":
        MaskedImage(picture, mask)}` (`sfumato.conditioners`). `guide`: a small picture that the result looks like when shrunk,
        or any differentiable score `(z_0, t) -> (B,)` in nats of latents z_0 (B, C, h, w) in unit scale at times t (B,);
        `guide_scale` times its gradient moves every estimate, without retraining. `temperature` is of priors that are no
        diffusion, `top_k` and `top_p` of those that draw codes. `on_step` is called after each denoising step.
        `image.info["parameters"]` holds the A1111-style text; `sfumato.generation.output.save_picture` writes it to the file.
        Raises `InputError` for a value out of bounds, `MachineError` when memory runs out, `NotFiniteError` when sampling
        diverges.
        """
        height, width = (None, None) if size is None else _pair(size)
        draft = Draft(
            prompts=_prompts(prompts, inputs),
            negative=negative,
            num=num,
            seed=seed,
            steps=steps,
            guidance=guidance,
            sampler=sampler,
            height=height,
            width=width,
            batch_size=batch_size,
            background=background,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
        )
        request = self.request(draft)
        start = None if image is None else self.start_from(image, strength, request)
        moved = None if guide is None else self.guide_from(guide, request, guide_scale)
        return [made.image for made in self.stream(request, on_step, start, inputs, guide=moved)]


def load(
    name_or_path: str | Path = "emoji",
    device: str | torch.device = "auto",
    *,
    card: str | Card | None = None,
    weights: str = AVERAGES,
    vocabulary: str | Path | None = None,
    loras: Sequence[tuple[str | Path, Scale]] = (),
    dtype: str | torch.dtype = AUTO,
    verify: bool = False,
) -> Pipeline:
    """A shipped model by its name, a model directory, or one that others published, ready on `device`.

    name_or_path: besides names and directories, a checkpoint (`.ckpt`, `.safetensors`), a diffusers folder, or `owner/name` on
    the hub, with `@revision` or `:file` after it or not. device: auto, cpu, cuda or mps. dtype: float32, float16 or bfloat16,
    in which the networks run; auto is fp32, and fp16 for published models on CUDA. loras: LoRA files with their scales (1 as
    trained; a pair for U-Net and text encoders), whose sum is added to the weights, of a model directory too where its networks
    are the published ones. The rest is for published models: `card`, which of them it is, where the file leaves that open;
    `weights`, "ema" for the averages where there are any, or "raw"; `vocabulary`, BERT's vocab.txt for models that read words
    with it; `verify`, hash the files even when their hashes are remembered (a model directory's always are compared with its
    manifest). Raises `InputError` when there is no such model or device, or a file is damaged.
    """
    where = find_device(device)
    given = Published(card, weights, None if vocabulary is None else Path(vocabulary), verify)
    return Pipeline(load_place(Place.of(name_or_path), name_or_path, where, given, loras, dtype), where)


def _prompts(prompts: str | Sequence[str], inputs: Any) -> tuple[str, ...]:
    if inputs is not None and not prompts:
        return ("",)  # a map, a mask or a layout may say it all
    return (prompts,) if isinstance(prompts, str) else prompts  # type: ignore[return-value]  # checked by Draft


def _pair(size: object) -> tuple[int, int]:
    if not isinstance(size, tuple | list) or len(size) != 2:
        raise InputError("size: expected (height, width) in pixels, such as (128, 128).")
    return size[0], size[1]
