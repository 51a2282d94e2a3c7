"""Runs over a VQ first stage."""

from __future__ import annotations

import dataclasses

from sfumato.first_stages.vq import VQConfig
from sfumato.networks.conv_autoencoder import AutoencoderConfig
from sfumato.recipes.folder import tiny
from sfumato.training.config import RunConfig


def vq_tiny() -> RunConfig:
    """`tiny` over a VQ first stage of 64 codes, moving averages of which unused ones are drawn anew.

    Command: `sfumato train vq-tiny --data DIR --out RUN`. Hardware: any. Mirrors no row of the paper: the codebook of VQ-VAE
    (van den Oord et al. 2017, arXiv 1711.00937, App. A.1).
    """
    base = tiny()
    network = AutoencoderConfig(channels=16, multipliers=(1, 2, 2), num_res_blocks=1, mid_attention=False, double_moments=False)
    loss = dataclasses.replace(base.first_stage.loss, codebook_decay=0.99, codebook_revive=0.1)
    first = dataclasses.replace(base.first_stage, model=VQConfig(network, codebook_size=64), loss=loss)
    return dataclasses.replace(base, name="vq-tiny", first_stage=first)
