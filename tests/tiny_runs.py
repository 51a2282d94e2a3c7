"""Folders of small pictures, runs of a few steps, and both training tasks small enough for a test."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from sfumato.cli.train import read_config
from sfumato.conditioners.text import TextConfig, TextEncoder
from sfumato.conditioners.tokens import learn_tokenizer
from sfumato.first_stages.kl import KLConfig, KLFirstStage
from sfumato.latent import Grid
from sfumato.networks.conv_autoencoder import AutoencoderConfig
from sfumato.networks.unet import UNetConfig
from sfumato.priors.diffusion import DiffusionConfig, DiffusionPrior
from sfumato.training.conditions import Stored
from sfumato.training.config import FirstStageLossConfig, OptimConfig, RunConfig
from sfumato.training.latents import LatentSource, Moments
from sfumato.training.loop import Trainer
from sfumato.training.pixels import PixelSource
from sfumato.training.progress import Reporter
from sfumato.training.signals import StopFlag
from sfumato.training.tasks.autoencoder import AutoencoderTask
from sfumato.training.tasks.base import Task
from sfumato.training.tasks.diffusion import DiffusionTask

CPU = torch.device("cpu")
COLOURS = {"red": (220, 30, 30), "green": (20, 180, 60), "blue": (40, 60, 220), "yellow": (240, 220, 40)}
SHAPES = ("square", "disc", "stripe")

SMALL = (
    "data.size=16",
    "first_stage.model.network.channels=8",
    "first_stage.model.network.multipliers=[1,2]",
    "first_stage.loss.gan_start=5",
    "first_stage.loss.discriminator_channels=8",
    "first_stage.loss.discriminator_layers=1",
    "first_stage.train.steps=10",
    "first_stage.train.batch_size=4",
    "first_stage.train.checkpoint_every=4",
    "first_stage.train.log_every=2",
    "prior.model.network.channels=16",
    "prior.model.network.multipliers=[1,1]",
    "prior.model.network.head_channels=8",
    "prior.conditioner.dim=16",
    "prior.conditioner.head_channels=8",
    "prior.train.steps=10",
    "prior.train.batch_size=4",
    "prior.train.checkpoint_every=4",
    "prior.train.log_every=2",
    "sampling.steps=2",
)
"""What makes the recipe `tiny` a matter of a second: the same parts, 16 px, ten steps a stage."""


def small_config(*changes: str) -> RunConfig:
    """The recipe `tiny`, made smaller, with `changes`."""
    return read_config("tiny", [*SMALL, *changes])


def picture(index: int, side: int = 20) -> tuple[np.ndarray, str]:
    """A shape of one colour on white, (side, side, 3) uint8, and its caption. No two of the first hundreds are equal."""
    colour, shape = list(COLOURS)[index % 4], SHAPES[index % 3]
    page = np.full((side, side, 3), 255, np.uint8)
    y, x = np.mgrid[:side, :side] - side / 2 + (index % 5 - 2)
    inside = {
        "square": (abs(x) < 5) & (abs(y) < 5),
        "disc": x**2 + y**2 < 36,
        "stripe": abs(x + y) < 4,
    }[shape]
    page[inside] = COLOURS[colour]
    page[0, 0] = (index % 256, index // 256, 0)
    return page, f"a {colour} {shape}"


def transparent(page: np.ndarray) -> np.ndarray:
    """The shape alone, soft towards its bottom: (side, side, 4) uint8, straight RGBA."""
    ink = (page != 255).any(-1, keepdims=True)
    fading = np.linspace(255, 120, len(page)).astype(np.uint8).reshape(-1, 1, 1)
    return np.concatenate([page * ink, fading * ink], axis=-1).astype(np.uint8)


def write_folder(directory: Path, count: int = 24, kind: str = "text", clear: bool = False) -> Path:
    """`count` PNG files: with captions beside them (text), in subfolders by colour (class), or alone (none).

    `clear`: without their white background.
    """
    for index in range(count):
        page, caption = picture(index)
        folder = directory / caption.split()[1] if kind == "class" else directory
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(transparent(page) if clear else page).save(folder / f"{index:03d}.png")
        if kind == "text":
            (folder / f"{index:03d}.txt").write_text(caption)
    return directory


def awaken(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter a random value, so that no layer sleeps at its zero initial value."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=rng)
            fan_in = max(parameter[0].numel() if parameter.ndim > 1 else 1, 1)
            parameter.copy_(noise / fan_in**0.5 if parameter.ndim > 1 else parameter + 0.1 * noise)
    return module


def small_first_stage(seed: int = 0, channels: int = 3) -> KLFirstStage:
    """Pictures of `channels`, factor 2, two latent channels."""
    torch.manual_seed(seed)
    network = AutoencoderConfig(
        channels, channels=8, multipliers=(1, 2), num_res_blocks=1, mid_attention=True, latent_channels=2
    )
    return KLFirstStage(KLConfig(network))


def all_pixels(count: int = 11, side: int = 16) -> Tensor:
    """(count, 3, side, side) uint8."""
    return torch.stack([torch.from_numpy(picture(i, side)[0]).movedim(2, 0) for i in range(count)])


def autoencoder_task(seed: int = 0, device: torch.device = CPU, **loss: Any) -> AutoencoderTask:
    """Stage 1 on eleven pictures, without the perceptual network unless asked for."""
    first = small_first_stage(seed).to(device)
    options: dict[str, Any] = {
        "perceptual": "none", "gan_start": 3, "discriminator_channels": 4, "discriminator_layers": 1,
    } | loss  # fmt: skip
    pixels = all_pixels()
    source = PixelSource(list(pixels), pixels, device, 0)  # type: ignore[arg-type]  # resident: only the length is asked for
    return AutoencoderTask(first, FirstStageLossConfig(**options), source, device)


def diffusion_task(seed: int = 0, dropout: float = 0.2, inside: float = 0.0, device: torch.device = CPU) -> DiffusionTask:
    """Stage 2, text-conditioned, on eleven made-up latents with two captions each. `inside`: dropout in the networks."""
    torch.manual_seed(seed)
    tokenizer = learn_tokenizer(["a red square", "a blue disc"], 300)
    text = TextConfig(dim=16, depth=1, heads=2, head_channels=8, length=8, vocabulary=300, dropout=inside)
    conditioner = TextEncoder(text, tokenizer)
    network = UNetConfig(
        2,
        2,
        channels=16,
        multipliers=(1, 1),
        num_res_blocks=1,
        attention_factors=(2,),
        head_channels=8,
        context_dim=16,
        dropout=inside,
    )
    prior = DiffusionPrior(DiffusionConfig(network), Grid(2, 2))
    rng = torch.Generator().manual_seed(5)
    moments = Moments(
        torch.randn(11, 2, 8, 8, generator=rng).half(), (torch.randn(11, 2, 8, 8, generator=rng) * 0.1 - 3).half()
    )
    prepared = conditioner.prepare([text for i in range(11) for text in (picture(i)[1], f"number {i}")]).unflatten(0, (11, 2))
    scale = (torch.zeros(2), torch.ones(2))
    source = LatentSource(moments, None, scale, Stored(prepared, torch.full((11,), 2), device), device, 0)
    return DiffusionTask(prior.to(device), conditioner.to(device), source, dropout)


def small_optim(**changes: Any) -> OptimConfig:
    """Eight steps of four pictures: 11 pictures end an epoch within steps 2, 5 and 8."""
    options: dict[str, Any] = {
        "steps": 8, "batch_size": 4, "learning_rate": 2e-3, "warmup_steps": 3, "decay": "cosine", "ema_decay": 0.9,
        "checkpoint_every": 1000, "sample_every": 1000, "log_every": 1,
    } | changes  # fmt: skip
    return OptimConfig(**options)


class Recorder(Reporter):
    """Keeps what it is told."""

    def __init__(self, directory: Path):
        super().__init__(directory, "test", quiet=True)
        self.rows: list[dict[str, float]] = []
        self.warnings: list[str] = []

    def step(self, stage: str, step: int, total: int, images: int, values: Mapping[str, float], log: bool) -> None:
        self.rows.append({"step": step, **values})

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def trainer(task: Task, directory: Path, config: OptimConfig | None = None, seed: int = 0) -> Trainer:
    """A trainer with a `Recorder`."""
    return Trainer(task, config or small_optim(), directory, CPU, seed, Recorder(directory))


def differences(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> list[str]:
    """Names of tensors that are not equal bit for bit."""
    names = sorted(a.keys() | b.keys())
    return [n for n in names if n not in a or n not in b or a[n].dtype != b[n].dtype or not torch.equal(a[n], b[n])]


def run(trainer: Trainer) -> Trainer:
    """Resume, and train to the end."""
    trainer.resume()
    assert trainer.run(StopFlag()).finished
    return trainer
