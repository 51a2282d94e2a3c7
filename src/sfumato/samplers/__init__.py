"""Samplers: from noise to x_0 by a schedule, a plan of times, a noise source and estimates of x_0."""

from sfumato.samplers.base import Sampler, Stepper, run
from sfumato.samplers.ddim import DDIM, Euler, EulerAncestral
from sfumato.samplers.ddpm import DDPM, Variance
from sfumato.samplers.dpm import DPMSolverPP2M
from sfumato.samplers.heun import Heun

SAMPLERS: dict[str, Sampler] = {
    "ddpm": DDPM(),
    "ddim": DDIM(),
    "euler": Euler(),
    "heun": Heun(),
    "euler_a": EulerAncestral(),
    "dpmpp_2m": DPMSolverPP2M(),
    "dpmpp_2m_sde": DPMSolverPP2M(stochastic=True),
}
"""The samplers that a user can name, in their usual settings."""

DISPLAY_NAMES: dict[str, str] = {
    "ddpm": "DDPM",
    "ddim": "DDIM",
    "euler": "Euler",
    "heun": "Heun",
    "euler_a": "Euler a",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_2m_sde": "DPM++ 2M SDE",
}
"""What A1111-style tools call them in a picture's metadata."""

__all__ = [
    "DDIM",
    "DDPM",
    "DISPLAY_NAMES",
    "SAMPLERS",
    "DPMSolverPP2M",
    "Euler",
    "EulerAncestral",
    "Heun",
    "Sampler",
    "Stepper",
    "Variance",
    "run",
]
