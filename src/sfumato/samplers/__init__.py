"""Samplers: from noise to x_0 by a schedule, a plan of times, a noise source and estimates of x_0."""

from sfumato.diffusion.forward import Learned, Variance
from sfumato.samplers.base import Sampler, Stepper, run
from sfumato.samplers.ddim import DDIM, Euler, EulerAncestral
from sfumato.samplers.ddpm import DDPM
from sfumato.samplers.dpm import DPMSolverPP2M
from sfumato.samplers.dpm_sde import DPMSolverPPSDE
from sfumato.samplers.heun import Heun
from sfumato.samplers.plms import LMS, PLMS, PLMSStart
from sfumato.samplers.unipc import BH, UniPC

SAMPLERS: dict[str, Sampler] = {
    "ddpm": DDPM(),
    "ddim": DDIM(),
    "euler": Euler(),
    "heun": Heun(),
    "euler_a": EulerAncestral(),
    "dpmpp_2m": DPMSolverPP2M(),
    "dpmpp_2m_sde": DPMSolverPP2M(stochastic=True),
    "dpmpp_sde": DPMSolverPPSDE(),
    "plms": PLMS(),
    "lms": LMS(),
    "unipc": UniPC(),
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
    "dpmpp_sde": "DPM++ SDE",
    "plms": "PLMS",
    "lms": "LMS",
    "unipc": "UniPC",
}
"""What A1111-style tools call them in a picture's metadata."""

__all__ = [
    "BH",
    "DDIM",
    "DDPM",
    "DISPLAY_NAMES",
    "LMS",
    "PLMS",
    "SAMPLERS",
    "DPMSolverPP2M",
    "DPMSolverPPSDE",
    "Euler",
    "EulerAncestral",
    "Heun",
    "Learned",
    "PLMSStart",
    "Sampler",
    "Stepper",
    "UniPC",
    "Variance",
    "run",
]
