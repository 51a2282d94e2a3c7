"""Tensors without weights that fine-tuners add to a file to say what it is; that they are there counts, not what they hold.

    v_pred      the prediction is v
    ztsnr       the schedule is rescaled to zero terminal SNR (Lin et al. 2023, arXiv 2305.08891), under which eps is undefined

Others mean another formula than any here, and a file that has one is refused by name.
"""

from __future__ import annotations

from collections.abc import Iterable

from sfumato.errors import InputError

V, ZERO_SNR = "v_pred", "ztsnr"
MARKERS = (V, ZERO_SNR)
FOREIGN = {
    "edm_vpred.sigma_max": "v prediction over EDM's continuous noise levels",
    "edm_vpred.sigma_min": "v prediction over EDM's continuous noise levels",
    "edm_mean": "EDM's preconditioning of latents with a mean and deviation of their own",
    "edm_std": "EDM's preconditioning of latents with a mean and deviation of their own",
}


def found_in(names: Iterable[str]) -> tuple[str, ...]:
    """The markers of ours among a file's names."""
    there = set(names)
    return tuple(marker for marker in MARKERS if marker in there)


def foreign(names: Iterable[str]) -> str | None:
    """What a marker of a formula that is not here means, in a few words; None without one."""
    return next((f"the marker {name} ({FOREIGN[name]})" for name in sorted(names) if name in FOREIGN), None)


def check_markers(names: Iterable[str], what: str) -> None:
    """Raises `InputError` for a file with a foreign marker."""
    said = foreign(names)
    if said is not None:
        raise InputError(f"{what} has {said}, which has no form here; expected eps or v prediction on the published schedule.")
