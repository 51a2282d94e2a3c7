"""Pictures between two: of two seeds, along the arc of their noise; of two pictures, along the line of their latents.

z_T(w) = slerp(eps_a, eps_b; w), sampled                               (Song et al. 2020, arXiv 2010.02502, Sec. 5.3)
z_0(w) = (1 - w) z_a + w z_b, decoded; or noised to t by one noise and sampled from there
                                                                       (Ho, Jain & Abbeel 2020, arXiv 2006.11239, Sec. 4.4)
"""

from __future__ import annotations

import torch
from PIL.Image import Image
from torch import Tensor

from sfumato.errors import InputError
from sfumato.explain.latents import BetweenNoise
from sfumato.generation.engine import NotFiniteError
from sfumato.generation.pipeline import Pipeline
from sfumato.generation.pixels import to_pictures
from sfumato.generation.request import Request
from sfumato.generation.tiling import decode
from sfumato.latent import Codes
from sfumato.priors.diffusion import Start
from sfumato.priors.regression import RegressionPrior


def weights(count: int) -> list[float]:
    """`count` weights from 0 to 1. Raises `InputError` below 2."""
    if not 2 <= count <= 64:
        raise InputError(f"count: got {count}, expected from 2 (the ends) to 64.")
    return [index / (count - 1) for index in range(count)]


@torch.inference_mode()
def between_seeds(pipeline: Pipeline, request: Request, first: int, second: int, count: int) -> list[Image]:
    """`count` pictures of the request's prompt from seed `first` to seed `second`, whose own pictures are the ends.

    Raises `InputError` for models that draw from no noise of one shape: of codes, and regressions.
    """
    model = pipeline.model
    if isinstance(model.prior.latent, Codes) or isinstance(model.prior, RegressionPrior):
        raise InputError(f"seeds: {pipeline.name} draws no noise that could be interpolated; try --images.")
    conditioner, size = model.conditioner, (request.height, request.width)
    told = conditioner.from_prompt(request.prompts[0], size)
    prepared = conditioner.prepare([told]).to(pipeline.device)
    negative = None
    if request.negative is not None and request.guidance != 1.0:
        negative = conditioner.prepare([request.negative]).to(pipeline.device)
    twins = conditioner.twins(prepared, request.guidance, negative)
    shape = (1, *model.latent_shape(*size))
    found = []
    for weight in weights(count):
        z = model.prior.sample(shape, twins, pipeline.settings(request), BetweenNoise(first, second, weight))
        if not bool(torch.isfinite(z).all()):
            raise NotFiniteError(f"the picture at {weight:.2f} became NaN or infinite; try a lower guidance or more steps.")
        found += to_pictures(decode(model.first_stage, z, pipeline.tiling), request.background)
    return found


def line(first: Tensor, second: Tensor, count: int) -> Tensor:
    """Latents (1, ...) twice -> (count, ...) on the line between them."""
    return torch.cat([(1 - weight) * first + weight * second for weight in weights(count)])


@torch.inference_mode()
def decoded(pipeline: Pipeline, z: Tensor) -> list[Image]:
    """Latents (N, ...) as pictures, one by one."""
    return [image for one in z for image in to_pictures(decode(pipeline.model.first_stage, one[None], pipeline.tiling))]


def redrawn(pipeline: Pipeline, request: Request, z: Tensor, strength: float) -> list[Image]:
    """Each of latents (N, ...) noised by the request's one noise to `strength` of the steps, and sampled from there."""
    return [made.image for one in z for made in pipeline.stream(request, start=Start(one[None], strength))]
