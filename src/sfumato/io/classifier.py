"""A latent classifier is a directory: classifier.json, model.safetensors and a manifest of hashes.

Latents belong to a first stage: `latents` is the hash of the weights of the model whose latents it was trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sfumato.config import from_dict, to_dict
from sfumato.errors import InputError
from sfumato.io.files import check_manifest, new_directory, read_table, write_json
from sfumato.io.pretrained import WEIGHTS
from sfumato.io.weights import load_strictly, read_weights, save_weights
from sfumato.networks.classifier import ClassifierConfig, LatentClassifier

CLASSIFIER = "classifier.json"
FORMAT = 1


@dataclass(frozen=True)
class LoadedClassifier:
    """The network, and whose latents it reads: ten hex digits of a model's hash, empty where that was not said."""

    network: LatentClassifier
    latents: str


def save_classifier(directory: Path, network: LatentClassifier, latents: str = "") -> None:
    """Write a classifier, whole or not at all, in fp32. latents: `Pipeline.hash` of the model whose latents it reads."""
    with new_directory(directory) as folder:
        save_weights(folder / WEIGHTS, network.state_dict())
        write_json(folder / CLASSIFIER, {"format": FORMAT, "latents": latents, "network": to_dict(network.config)})


def load_classifier(directory: Path, device: torch.device | str = "cpu") -> LoadedClassifier:
    """Read a classifier onto `device`, frozen. Raises `InputError` when it is none, or damaged."""
    if not (directory / CLASSIFIER).is_file():
        raise InputError(f"{directory} holds no {CLASSIFIER}; expected a folder of `sfumato train-classifier`.")
    check_manifest(directory)
    data: dict[str, Any] = read_table(directory / CLASSIFIER)
    if data.get("format") != FORMAT:
        raise InputError(f"{directory / CLASSIFIER} has format {data.get('format')!r}; this release reads format {FORMAT}.")
    network = LatentClassifier(from_dict(ClassifierConfig, data.get("network"), "network"))
    load_strictly(network, read_weights(directory / WEIGHTS), str(directory / WEIGHTS))
    return LoadedClassifier(network.requires_grad_(False).eval().to(device), str(data.get("latents", "")))
