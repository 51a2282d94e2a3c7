"""sfumato: latent diffusion models (Rombach et al. 2021, arXiv 2112.10752), trained and sampled.

    import sfumato
    pictures = sfumato.load("emoji").generate(["a red dragon, 3D style"], num=4, seed=7)

Importing this package is cheap: PyTorch comes with the first name that needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sfumato.generation.pipeline import Pipeline as Pipeline
    from sfumato.generation.pipeline import load as load
    from sfumato.model import LatentModel as LatentModel

    __version__: str

__all__ = ["LatentModel", "Pipeline", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """Import on first use; each name is written out here, so that readers and tools can follow it."""
    value: Any
    match name:
        case "load":
            from sfumato.generation.pipeline import load as value
        case "Pipeline":
            from sfumato.generation.pipeline import Pipeline as value
        case "LatentModel":
            from sfumato.model import LatentModel as value
        case "__version__":
            value = _version()
        case _:
            raise AttributeError(f"module 'sfumato' has no attribute {name!r}")
    globals()[name] = value
    return value


def _version() -> str:
    """The installed version, "unknown" for sources that were put on the path uninstalled."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("sfumato")
    except PackageNotFoundError:
        return "unknown"


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
