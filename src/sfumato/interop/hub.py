"""A published model by its name on the hub: `owner/name`, `owner/name@revision`, `owner/name@revision:file`.

A revision is resolved to its commit, whose files (`hub_files`) lie in the hub's cache as huggingface_hub keeps them:

    CACHE/models--OWNER--NAME/refs/REVISION                 the commit
                             /snapshots/COMMIT/FILE         a link into blobs/

Without a network the cache answers. Files are fetched and read as data; nothing that a repository holds is run or imported.
"""

from __future__ import annotations

import errno
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sfumato.errors import InputError, MachineError
from sfumato.interop.folders import CLASSES, MAX_JSON, MODEL_INDEX, Part
from sfumato.interop.hub_files import Choice, choose

TIMEOUT = 10.0
_REPOSITORY = re.compile(
    r"([A-Za-z0-9][\w.\-]{0,95})/(\w[\w.\-]{0,95})(?:@(\w[\w./\-]{0,200}))?(?::(\w[\w./\-+ ()]{0,250}))?", re.ASCII
)
_WITHOUT_WEIGHTS = (Part.tokenizer, Part.scheduler, Part.processor, Part.ignored)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Repository:
    """revision: a branch, a tag or a commit. file: a single one of its files, or None for what the repository is."""

    owner: str
    name: str
    revision: str = "main"
    file: str | None = None

    @property
    def id(self) -> str:
        """owner/name."""
        return f"{self.owner}/{self.name}"


@dataclass(frozen=True)
class Snapshot:
    """Files of one commit on this machine. `path`: the folder or the file to open. `from_cache`: no network was used."""

    repository: Repository
    commit: str
    path: Path
    files: tuple[str, ...]
    from_cache: bool

    @property
    def pinned(self) -> str:
        """What names these very files again: owner/name@commit[:file]."""
        return f"{self.repository.id}@{self.commit}" + (f":{self.repository.file}" if self.repository.file else "")


@dataclass(frozen=True)
class Listing:
    """A revision as the hub has it: its commit and the names of its files."""

    commit: str
    names: tuple[str, ...]


class Hub(Protocol):
    """The hub, as far as it is needed."""

    def listing(self, repository: Repository) -> Listing:
        """What the revision is."""

    def fetch(self, repository: Repository, commit: str, name: str, cache: Path) -> None:
        """Put one file into the cache, if it is not there."""


class HuggingFace:
    """The hub through huggingface_hub. `endpoint`: another address of it."""

    def __init__(self, endpoint: str | None = None):
        self._hub, self.endpoint = _package(), endpoint

    def listing(self, repository: Repository) -> Listing:
        """As `Hub`."""
        api = self._hub.HfApi(endpoint=self.endpoint)
        found = api.model_info(repository.id, revision=repository.revision, timeout=TIMEOUT)
        return Listing(str(found.sha), tuple(file.rfilename for file in found.siblings or ()))

    def fetch(self, repository: Repository, commit: str, name: str, cache: Path) -> None:
        """As `Hub`."""
        self._hub.hf_hub_download(
            repository.id, name, revision=commit, cache_dir=cache, endpoint=self.endpoint, etag_timeout=TIMEOUT
        )


def is_repository(text: str) -> bool:
    """Whether `text` names a repository and no file or folder here."""
    return _REPOSITORY.fullmatch(text) is not None and not Path(text).exists()


def repository(text: str) -> Repository:
    """owner/name[@revision][:file]. Raises `InputError` for anything else."""
    match = _REPOSITORY.fullmatch(text)
    if match is None or any(".." in part or part.endswith("/") for part in match.groups() if part):
        raise InputError(f"{text[:200]!r} is no repository: expected owner/name, with @revision or :file after it or not.")
    owner, name, revision, file = match.groups()
    return Repository(owner, name, revision or "main", file)


def from_hub(
    source: Repository,
    *,
    variant: str | None = None,
    offline: bool = False,
    cache: Path | None = None,
    hub: Hub | None = None,
) -> Snapshot:
    """The files of `source`, from the hub, else from its cache (with `offline` from there at once).

    `variant`: which weights of a diffusers folder. `cache`: the hub's own by default. Raises `InputError`, one line, where
    neither has them, saying how to get them; `MachineError` for a full disk.
    """
    cache = (cache if cache is not None else Path(_package().constants.HF_HUB_CACHE)).expanduser().absolute()
    cause = "it was to be read offline"
    if not offline:
        hub = hub if hub is not None else HuggingFace()
        try:
            listing = hub.listing(source)
        except Exception as error:  # the client's own, its network library's, the system's: told apart by name below
            cause = _cause(error)
        else:
            return _fetched(source, listing, variant, cache, hub)
    commit, folder = _cached(source, cache)
    names = _files(folder) if folder else []
    command = f"hf download {source.id} --revision {source.revision}"
    if not folder or not names:
        raise InputError(
            f"{_said(source)} is not in the hub's cache and was not fetched ({cause}); where there is a network run "
            f"`{command}` (earlier huggingface-cli), or give the path of a file or folder."
            if cause not in _ANSWERS.values()
            else f"{_said(source)} was not fetched ({cause}), and it is not in the hub's cache; check its name on the hub."
        )
    choice = choose(names, source.id, variant=variant, file=source.file)
    lacking = _lacking(folder, choice)
    if lacking:
        raise InputError(
            f"the hub's cache has {_said(source)} without the weights of {', '.join(lacking)}, and the rest was not fetched "
            f"({cause}); where there is a network run `{command}`."
        )
    return _snapshot(source, commit, folder, choice, True)


def _fetched(source: Repository, listing: Listing, variant: str | None, cache: Path, hub: Hub) -> Snapshot:
    if not _COMMIT.fullmatch(listing.commit):
        raise InputError(f"the hub says that {_said(source)} is {listing.commit[:60]!r}; expected a commit of 40 hexadecimals.")
    choice = choose(listing.names, source.id, variant=variant, file=source.file)
    folder = _home(source, cache) / "snapshots" / listing.commit
    for name in choice.files:
        try:
            hub.fetch(source, listing.commit, name, cache)
        except Exception as error:  # as above
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
                raise MachineError(f"cannot write {name} of {source.id} to {cache} ({error.strerror}).") from None
            raise InputError(f"{name} of {_said(source)} was not fetched ({_cause(error)}); try again.") from None
        if not (folder / name).is_file():
            raise InputError(f"{name} of {_said(source)} did not come to {folder}; update huggingface_hub.")
    if not _COMMIT.fullmatch(source.revision):  # so that the revision is found without a network
        ref = _home(source, cache) / "refs" / source.revision
        ref.parent.mkdir(parents=True, exist_ok=True)
        ref.write_text(listing.commit, encoding="utf-8")
    return _snapshot(source, listing.commit, folder, choice, False)


def _snapshot(source: Repository, commit: str, folder: Path, choice: Choice, from_cache: bool) -> Snapshot:
    path = folder if choice.main is None else folder / choice.main
    return Snapshot(source, commit, path, choice.files, from_cache)


def _home(source: Repository, cache: Path) -> Path:
    return cache / f"models--{source.owner}--{source.name}"


def _cached(source: Repository, cache: Path) -> tuple[str, Path | None]:
    """(commit, its folder in the cache or None)."""
    home = _home(source, cache)
    commit = source.revision
    if not _COMMIT.fullmatch(commit):
        try:
            commit = (home / "refs" / source.revision).read_text(encoding="utf-8")[:60].strip()
        except (OSError, UnicodeDecodeError):
            return "", None
    folder = home / "snapshots" / commit
    return commit, folder if _COMMIT.fullmatch(commit) and folder.is_dir() else None


def _files(folder: Path) -> list[str]:
    """What a snapshot holds; links to blobs that are gone are left out."""
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


def _lacking(folder: Path, choice: Choice) -> list[str]:
    """Components of a pipeline that have weights, and none in the cache. An odd table is for the folder's reader."""
    table = folder / MODEL_INDEX
    if choice.main is not None or MODEL_INDEX not in choice.files or table.stat().st_size > MAX_JSON:
        return []
    try:
        data = json.loads(table.read_bytes())
    except (ValueError, RecursionError):
        return []
    loaded = {name for (_, name), part in CLASSES.items() if part not in _WITHOUT_WEIGHTS}
    parts = data.items() if isinstance(data, dict) else ()
    wanted = [name for name, value in parts if isinstance(value, list) and len(value) == 2 and str(value[1]) in loaded]
    there = {name.split("/")[0] for name in choice.files if name.endswith((".safetensors", ".bin"))}
    return [name[:60] for name in wanted if name not in there]


def _said(source: Repository) -> str:
    return f"{source.id}@{source.revision}"


_ANSWERS = {
    "GatedRepoError": "its terms are to be accepted on its page, then `hf auth login`",
    "RepositoryNotFoundError": "the hub has no such repository, or it is private: `hf auth login`",
    "RevisionNotFoundError": "the hub has no such revision",
    "DisabledRepoError": "the hub has disabled it",
}
"""What the hub itself answers, by the name of the client's error."""


def _cause(error: Exception) -> str:
    """What went wrong, in a few words. Errors are known by name: they differ with the release of the client."""
    kinds = [kind.__name__ for kind in type(error).__mro__]
    if "OfflineModeIsEnabled" in kinds:
        return "HF_HUB_OFFLINE is set"
    answer = next((_ANSWERS[kind] for kind in kinds if kind in _ANSWERS), None)
    if answer is not None:
        return answer
    text = " ".join(str(error).split())[:150]
    return f"no answer from the hub: {type(error).__name__}{': ' + text if text else ''}"


def _package():  # type: ignore[no-untyped-def]  # a module, whose types differ with its release
    try:
        import huggingface_hub
        import huggingface_hub.constants  # the package loads its parts only when they are imported
    except ImportError:
        raise InputError(
            "no such file or folder here, and models by their name on the hub need huggingface_hub; install it with "
            "`pip install 'sfumato[hub]'`."
        ) from None
    return huggingface_hub
