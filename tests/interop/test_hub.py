"""Models by their name on the hub: huggingface_hub's own client against a server on this machine, its cache, and no network."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch
from safetensors.torch import save

from sfumato.errors import InputError, MachineError
from sfumato.interop.checkpoint import open_checkpoint
from sfumato.interop.hub import HuggingFace, Listing, Repository, Snapshot, from_hub, is_repository, repository
from sfumato.interop.hub_files import choose

huggingface_hub = pytest.importorskip("huggingface_hub")
COMMIT, OLDER = "0123456789abcdef0123456789abcdef01234567", "f" * 40
HOME = "models--someone--model"
WEIGHTS = save({"conv_in.weight": torch.ones(2, 2)})
UNET = json.dumps({"_class_name": "UNet2DConditionModel"}).encode()
FOLDER = {
    "model_index.json": json.dumps(
        {
            "_class_name": "StableDiffusionPipeline",
            "unet": ["diffusers", "UNet2DConditionModel"],
            "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        }
    ).encode(),
    "unet/config.json": UNET,
    "unet/diffusion_pytorch_model.safetensors": WEIGHTS,
    "unet/diffusion_pytorch_model.fp16.safetensors": WEIGHTS,
    "unet/diffusion_pytorch_model.bin": b"a pickle",
    "safety_checker/model.safetensors": WEIGHTS,
    "pipeline.py": b"raise SystemExit",
    "unet/modeling.py": b"raise SystemExit",
    "v1-pruned.ckpt": b"a pickle",
    "README.md": b"# A model",
    ".gitattributes": b"",
}
CHOSEN = {"model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors"}


def lay(cache: Path, files: dict[str, bytes], commit: str = COMMIT, ref: str | None = "main") -> Path:
    """A cache as huggingface_hub's documentation draws it: files in blobs by their hash, links to them in snapshots."""
    home = cache / HOME
    for name, data in files.items():
        blob = home / "blobs" / hashlib.sha256(data).hexdigest()
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(data)
        link = home / "snapshots" / commit / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(blob)
    if ref is not None:
        (home / "refs" / ref).parent.mkdir(parents=True, exist_ok=True)
        (home / "refs" / ref).write_text(commit)
    return home / "snapshots" / commit


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """A hub with one repository, and the paths that were asked of it."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self, body: bool) -> None:
            asked.append(f"{self.command} {self.path}")
            head, _, rest = self.path.partition("?")[0].partition("/resolve/")
            commit, _, name = rest.partition("/")
            if head in ("/api/models/someone/model", "/api/models/someone/model/revision/main"):
                siblings = [{"rfilename": name} for name in FOLDER]
                data = json.dumps({"id": "someone/model", "sha": COMMIT, "siblings": siblings}).encode()
            elif commit == COMMIT and name in FOLDER:
                data = FOLDER[name]
            else:
                self.send_response(404)
                self.send_header("X-Error-Code", "RevisionNotFound" if "someone/model" in head else "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Content-Type", "application/json")
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if body:
                self.wfile.write(data)

        def do_GET(self) -> None:
            self.answer(True)

        def do_HEAD(self) -> None:
            self.answer(False)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}", asked
    running.shutdown()
    thread.join()


def test_a_folder_comes_through_the_client(server: tuple[str, list[str]], tmp_path: Path) -> None:
    address, asked = server
    found = from_hub(repository("someone/model"), cache=tmp_path, hub=HuggingFace(address))
    assert (found.commit, found.from_cache) == (COMMIT, False)
    assert found.path == tmp_path / HOME / "snapshots" / COMMIT
    assert found.pinned == f"someone/model@{COMMIT}"
    assert set(found.files) == CHOSEN
    assert {p.relative_to(found.path).as_posix() for p in found.path.rglob("*") if p.is_file()} == CHOSEN
    assert not any(end in line for line in asked for end in (".py", ".bin", "safety_checker", ".ckpt", "fp16"))
    opened = open_checkpoint(found.path)
    assert torch.equal(opened.index["unet/conv_in.weight"].read(), torch.ones(2, 2))

    again = from_hub(repository("someone/model"), cache=tmp_path, offline=True)
    assert (again.commit, again.path, set(again.files)) == (found.commit, found.path, CHOSEN)
    assert again.from_cache
    count = len(asked)
    pinned = from_hub(repository(found.pinned), cache=tmp_path, offline=True)
    assert (pinned.path, len(asked)) == (found.path, count)


def test_the_client_finds_what_was_fetched(server: tuple[str, list[str]], tmp_path: Path) -> None:
    """The cache stays huggingface_hub's: it finds the revision in it."""
    from_hub(repository("someone/model"), cache=tmp_path, hub=HuggingFace(server[0]))
    found = huggingface_hub.try_to_load_from_cache("someone/model", "unet/config.json", cache_dir=tmp_path, revision="main")
    assert isinstance(found, str)
    assert Path(found).read_bytes() == UNET


@pytest.mark.parametrize(
    ("name", "cause"),
    [("someone/other@main", "no such repository|private"), ("someone/model@nowhere", "no such revision")],
)
def test_what_the_hub_does_not_have(name: str, cause: str, server: tuple[str, list[str]], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=cause):
        from_hub(repository(name), cache=tmp_path, hub=HuggingFace(server[0]))


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        (401, "RepoNotFound", "no such repository, or it is private"),
        (403, "GatedRepo", "its terms are to be accepted"),
        (403, "", "no answer from the hub|403"),
        (404, "RevisionNotFound", "no such revision"),
        (410, "", "no answer from the hub|410"),
        (500, "", "no answer from the hub|500"),
        (302, "https://elsewhere.invalid/", "no answer from the hub|not fetched"),
        (200, "<html>", "no answer from the hub|not fetched"),
    ],
)
def test_other_answers_of_the_hub_are_one_line(code: int, kind: str, said: str, tmp_path: Path) -> None:
    """Also a move to another host and a page in place of the answer; then the cache speaks where it has the model."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(code)
            self.send_header("Location" if code == 302 else "X-Error-Code", kind if code != 200 else "")
            body = b"<html>a page</html>"
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=running.serve_forever, daemon=True).start()
    hub = HuggingFace(f"http://127.0.0.1:{running.server_port}")
    try:
        with pytest.raises(InputError, match=said) as caught:
            from_hub(repository("someone/model"), cache=tmp_path / "empty", hub=hub)
        assert "\n" not in str(caught.value)
        folder = lay(tmp_path / "full", FOLDER)
        found = from_hub(repository("someone/model"), cache=tmp_path / "full", hub=hub)
        assert (found.path, found.from_cache) == (folder, True)
    finally:
        running.shutdown()


def test_without_a_network_the_cache_answers(tmp_path: Path) -> None:
    nowhere = HuggingFace("http://127.0.0.1:1")
    lay(tmp_path, {**FOLDER, "unet/config.json": b"{}"}, OLDER, "v1")
    folder = lay(tmp_path, FOLDER)
    found = from_hub(repository("someone/model"), cache=tmp_path, hub=nowhere)
    assert (found.commit, found.path, found.from_cache) == (COMMIT, folder, True)
    assert set(found.files) == CHOSEN
    assert from_hub(repository("someone/model@v1"), cache=tmp_path, hub=nowhere).commit == OLDER
    assert from_hub(repository(f"someone/model@{OLDER}"), cache=tmp_path, hub=nowhere).commit == OLDER
    file = from_hub(repository("someone/model:v1-pruned.ckpt"), cache=tmp_path, hub=nowhere)
    assert file.path == folder / "v1-pruned.ckpt"
    assert file.pinned == f"someone/model@{COMMIT}:v1-pruned.ckpt"


@pytest.mark.parametrize("offline", [False, True])
def test_neither_network_nor_cache(offline: bool, tmp_path: Path) -> None:
    lay(tmp_path, FOLDER)
    for name in ("someone/model@v9", f"someone/model@{OLDER}", "someone/other"):
        with pytest.raises(
            InputError, match=r"not in the hub's cache and was not fetched .*`hf download someone/\w+ --revision"
        ) as caught:
            from_hub(repository(name), cache=tmp_path, offline=offline, hub=HuggingFace("http://127.0.0.1:1"))
        assert "\n" not in str(caught.value)


def test_offline_by_the_client_s_own_switch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HF_HUB_OFFLINE: no address is asked, and the line says why."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    folder = lay(tmp_path, FOLDER)
    assert from_hub(repository("someone/model"), cache=tmp_path).path == folder
    with pytest.raises(InputError, match="HF_HUB_OFFLINE is set"):
        from_hub(repository("someone/other"), cache=tmp_path)


def test_a_link_without_its_blob_is_no_file(tmp_path: Path) -> None:
    folder = lay(tmp_path, {"model.safetensors": WEIGHTS})
    (folder / "model.safetensors").resolve().unlink()
    with pytest.raises(InputError, match="not in the hub's cache"):
        from_hub(repository("someone/model"), cache=tmp_path, offline=True)


def test_part_of_a_model_in_the_cache(tmp_path: Path) -> None:
    """A download that did not finish: the line says which component is not there, and how to get it."""
    lay(tmp_path, {name: FOLDER[name] for name in ("model_index.json", "unet/config.json")})
    with pytest.raises(InputError, match=r"without the weights of unet, .* run `hf download someone/model --revision main`"):
        from_hub(repository("someone/model"), cache=tmp_path, offline=True)
    for table in (b"{", b"[]", b'{"unet": [], "vae": 3, "x": [[]]}'):
        lay(tmp_path, {"model_index.json": table})
        assert from_hub(repository("someone/model"), cache=tmp_path, offline=True).from_cache


@pytest.mark.parametrize("text", ["../escape", "nonsense", f"{'x' * 41}/../.."])
def test_a_reference_to_anything_but_a_commit_is_none(text: str, tmp_path: Path) -> None:
    lay(tmp_path, FOLDER)
    (tmp_path / HOME / "refs" / "main").write_text(text)
    with pytest.raises(InputError, match="not in the hub's cache"):
        from_hub(repository("someone/model"), cache=tmp_path, offline=True)


class Failing:
    """A hub that lists and then fails, or lists nonsense."""

    def __init__(self, error: Exception | None = None, commit: str = COMMIT):
        self.error, self.commit = error, commit

    def listing(self, repository: Repository) -> Listing:
        return Listing(self.commit, tuple(FOLDER))

    def fetch(self, repository: Repository, commit: str, name: str, cache: Path) -> None:
        if self.error is not None:
            raise self.error


def test_failures_on_the_way(tmp_path: Path) -> None:
    def fails(hub: Failing) -> Snapshot:
        return from_hub(repository("someone/model"), cache=tmp_path, hub=hub)

    with pytest.raises(MachineError, match=r"cannot write model_index\.json"):
        fails(Failing(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(InputError, match=r"not fetched \(no answer from the hub: TimeoutError: x y\); try again"):
        fails(Failing(TimeoutError("x\ny")))
    with pytest.raises(InputError, match="did not come"):
        fails(Failing())
    with pytest.raises(InputError, match="expected a commit"):
        fails(Failing(commit="../.."))
    assert not (tmp_path / HOME / "refs").exists()


def test_names() -> None:
    assert repository("CompVis/stable-diffusion-v1-4") == Repository("CompVis", "stable-diffusion-v1-4")
    assert repository("a/b@refs/pr/3:x/y.ckpt") == Repository("a", "b", "refs/pr/3", "x/y.ckpt")
    for text in (
        "",
        "a",
        "a/b/c",
        "a/b@",
        "a/b@../x",
        "a/b@/etc/x",
        "a/b:",
        "a/b:../x",
        "a/b:/x",
        "a /b",
        "../b",
        "a/..",
        "a/b\n",
        "https://x/y",
    ):
        with pytest.raises(InputError, match="is no repository"):
            repository(text)
        assert not is_repository(text) or ".." in text


def test_a_path_that_is_here_is_no_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_repository("runs/model")
    Path("runs/model").mkdir(parents=True)
    assert not is_repository("runs/model")


INDEX = ["model_index.json", "unet/config.json"]


@pytest.mark.parametrize(
    ("names", "variant", "chosen"),
    [
        (["unet/diffusion_pytorch_model.bin"], None, ["unet/diffusion_pytorch_model.bin"]),
        (["unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.fp16.safetensors"], None,
         ["unet/diffusion_pytorch_model.fp16.safetensors"]),
        (["unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors"], "fp16",
         ["unet/diffusion_pytorch_model.fp16.safetensors"]),
        (["text_encoder/model.safetensors", "text_encoder/pytorch_model.bin", "text_encoder/flax_model.msgpack"], None,
         ["text_encoder/model.safetensors"]),
        (["unet/diffusion_pytorch_model.safetensors.index.json", "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
          "unet/diffusion_pytorch_model-00002-of-00002.safetensors", "unet/diffusion_pytorch_model-00001-of-00002.bin"], None,
         ["unet/diffusion_pytorch_model.safetensors.index.json", "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
          "unet/diffusion_pytorch_model-00002-of-00002.safetensors"]),
        (["unet/../../x.safetensors", "unet/diffusion_pytorch_model.safetensors", "a/b/config.json", "unet/run.py"], None,
         ["unet/diffusion_pytorch_model.safetensors"]),
    ],
)  # fmt: skip
def test_weights_of_a_component(names: list[str], variant: str | None, chosen: list[str]) -> None:
    found = choose([*INDEX, *names], "a/b", variant=variant)
    assert found.main is None
    assert sorted(found.files) == sorted([*INDEX, *chosen])


@pytest.mark.parametrize(
    ("names", "main", "files"),
    [
        (["sd-v1-4.ckpt", "README.md"], "sd-v1-4.ckpt", ["sd-v1-4.ckpt"]),
        (["x.ckpt", "x.safetensors", "x.yaml", "config.yaml"], "x.safetensors", ["x.safetensors", "x.yaml", "config.yaml"]),
        (["pytorch_lora_weights.safetensors", "other.safetensors"], "pytorch_lora_weights.safetensors",
         ["pytorch_lora_weights.safetensors"]),
        (["adapter_model.safetensors", "adapter_config.json"], "adapter_model.safetensors",
         ["adapter_model.safetensors", "adapter_config.json"]),
        (["config.json", "x.safetensors"], "x.safetensors", ["x.safetensors"]),
    ],
)  # fmt: skip
def test_single_files(names: list[str], main: str, files: list[str]) -> None:
    found = choose(names, "a/b")
    assert (found.main, sorted(found.files)) == (main, sorted(files))


def test_a_single_model_of_diffusers() -> None:
    names = ["config.json", "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin", "vae-ft.ckpt"]
    assert choose(names, "a/b").files == ("config.json", "diffusion_pytorch_model.safetensors")


@pytest.mark.parametrize(
    ("names", "file", "said"),
    [
        (["a.ckpt", "b.ckpt"], None, r"several files of weights \(a.ckpt, b.ckpt\); say which: a/b:FILE"),
        (["README.md"], None, "holds no weights"),
        ([], None, "its files are none"),
        (["a.ckpt"], "b.ckpt", r"no file of weights 'b.ckpt'; it has a.ckpt"),
        (["a.ckpt", "run.py"], "run.py", "no file of weights 'run.py'"),
        (["../a.ckpt"], "../a.ckpt", "no file of weights"),
    ],
)
def test_what_cannot_be_chosen(names: list[str], file: str | None, said: str) -> None:
    with pytest.raises(InputError, match=said):
        choose(names, "a/b", file=file)
    with pytest.raises(InputError, match="unknown variant"):
        choose(names, "a/b", variant="int3")
