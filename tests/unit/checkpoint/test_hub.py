"""checkpoint/hub.py against a real HTTP server on this machine that answers as the Hub does."""

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants, errors
from huggingface_hub.utils import filter_repo_objects

from polyrank.checkpoint import hub
from polyrank.checkpoint.layouts import HUB_PATTERNS
from polyrank.checkpoint.reader import read_checkpoint
from polyrank.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    PolyrankError,
    UnsafeWeightsError,
)
from tests import checkpoints

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "somebody/multilingual-e5-tiny"


class FakeHub:
    """Repositories by id, each a mapping of file names to bytes; remembers what was fetched."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.fetched: list[str] = []
        self.faults: list[str] = []
        self.is_silent = False
        self.stopped = threading.Event()
        self.answer_all: tuple[int, str, bytes] | None = None
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                fake.answer(self)

            def do_HEAD(self) -> None:
                fake.answer(self)

            def log_message(self, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *args: object) -> None:
                fake.faults.append(repr(sys.exception()))

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()
        self.is_running = True

    def stop(self) -> None:
        if self.is_running:
            self.is_running = False
            self.stopped.set()
            self.server.shutdown()
            self.server.server_close()
            self.thread.join()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        if self.is_silent:
            self.stopped.wait(60)
            return
        if self.answer_all is not None:
            status, kind, body = self.answer_all
            self._send(request, status, body, {"Content-Type": kind})
            return
        path = request.path.partition("?")[0]
        if path.startswith("/api/models/"):
            self._answer_api(request, path.removeprefix("/api/models/").split("/"))
        elif path.startswith("/api/"):
            self._refuse(request, 404, "NotFound")  # what the Hub library asks about itself
        else:
            self._answer_file(request, path.strip("/").split("/"))

    def _answer_api(self, request: BaseHTTPRequestHandler, parts: list[str]) -> None:
        repo = "/".join(parts[:2])
        kind, revision = parts[2:] or ("revision", "main")
        if repo not in self.repos:
            self._refuse(request, 401, "RepoNotFound")
        elif repo in self.gated:
            self._refuse(request, 403, "GatedRepo")
        elif revision not in ("main", COMMIT):
            self._refuse(request, 404, "RevisionNotFound")
        elif kind == "revision":
            siblings = [{"rfilename": name} for name in self.repos[repo]]
            self._send_json(request, {"id": repo, "sha": COMMIT, "siblings": siblings})
        else:
            assert kind == "tree"
            self._send_json(
                request,
                [
                    {"type": "file", "path": name, "size": len(data), "oid": _etag(data)}
                    for name, data in self.repos[repo].items()
                ],
            )

    def _answer_file(self, request: BaseHTTPRequestHandler, parts: list[str]) -> None:
        repo, name = "/".join(parts[:2]), "/".join(parts[4:])
        assert parts[2] == "resolve"
        data = self.repos[repo].get(name)
        if data is None:
            self._refuse(request, 404, "EntryNotFound")
            return
        if request.command == "GET":
            self.fetched.append(name)
        self._send(request, 200, data, {"ETag": f'"{_etag(data)}"', "X-Repo-Commit": COMMIT})

    def _refuse(self, request: BaseHTTPRequestHandler, status: int, code: str) -> None:
        self._send(request, status, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

    def _send_json(self, request: BaseHTTPRequestHandler, content: object) -> None:
        data = json.dumps(content).encode()
        self._send(request, 200, data, {"Content-Type": "application/json"})

    def _send(
        self, request: BaseHTTPRequestHandler, status: int, data: bytes, headers: dict[str, str]
    ) -> None:
        request.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(data))}.items():
            request.send_header(key, value)
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(data)


def _etag(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Files of a repository: a tiny checkpoint, and what polyrank has no use for."""
    folder = checkpoints.make("multilingual-e5-small", tmp_path_factory.mktemp("published"))
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    extra = ("pytorch_model.bin", "onnx/model.onnx", "tf_model.h5", "openvino/openvino_model.bin")
    return {**files, **dict.fromkeys(extra, b"not wanted")}


def _point_at(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `url` the Hub for this process and its children."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nobody listens at the discard port: no test here can reach the real Hub."""
    _point_at("http://127.0.0.1:9", monkeypatch)
    huggingface_hub.close_session()
    yield
    huggingface_hub.close_session()


@pytest.fixture
def fake_hub(
    _no_hub: None, monkeypatch: pytest.MonkeyPatch, published: dict[str, bytes]
) -> Iterator[FakeHub]:
    """The Hub, as far as this process and its children can see."""
    fake = FakeHub()
    fake.repos[REPO] = dict(published)
    _point_at(fake.url, monkeypatch)
    yield fake
    fake.stop()
    assert fake.faults == []


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Path]:
    """`resolve` with a cache of the test's own; returns the folder."""

    def call(name: str = REPO, **options: object) -> Path:
        folder, given = hub.resolve(name, cache_dir=tmp_path / "cache", **options)
        assert given == name
        return folder

    return call


def test_only_what_polyrank_reads_is_fetched(fake_hub: FakeHub, load: Callable[..., Path]) -> None:
    folder = load()
    assert sorted(fake_hub.fetched) == [
        "1_Pooling/config.json",
        "2_Normalize/config.json",
        "config.json",
        "config_sentence_transformers.json",
        "model.safetensors",
        "modules.json",
        "sentence_bert_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert (folder / "model.safetensors").is_symlink()
    checkpoint = read_checkpoint(folder, REPO)
    assert checkpoint.spec.tasks == ("embed",)
    assert checkpoint.weights.nonfinite() == []


def test_a_second_load_fetches_nothing(fake_hub: FakeHub, load: Callable[..., Path]) -> None:
    folder = load()
    fake_hub.fetched.clear()
    assert load() == folder
    assert load(revision=COMMIT) == folder
    assert fake_hub.fetched == []


@pytest.mark.parametrize("is_offline", [True, False])
def test_a_cached_model_loads_without_the_hub(
    fake_hub: FakeHub,
    load: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    is_offline: bool,
) -> None:
    folder = load()
    fake_hub.stop()
    huggingface_hub.close_session()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", is_offline)
    assert load() == folder
    assert load(local_files_only=True) == folder


def test_the_hubs_own_variables_are_respected(fake_hub: FakeHub, tmp_path: Path) -> None:
    """HF_HOME and HF_ENDPOINT, then HF_HUB_OFFLINE with the server gone, in fresh processes."""
    code = (
        "from polyrank.checkpoint.hub import resolve\n"
        "from polyrank.checkpoint.reader import read_checkpoint\n"
        f"folder, name = resolve({REPO!r})\n"
        "print(read_checkpoint(folder, name).spec.folder)"
    )
    command = [sys.executable, "-W", "error", "-c", code]
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home")}
    first = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert first.stdout.startswith(str(tmp_path / "home" / "hub"))
    fake_hub.stop()
    environment["HF_HUB_OFFLINE"] = "1"
    second = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert second.stdout == first.stdout


def test_an_unknown_model_is_reported(fake_hub: FakeHub, load: Callable[..., Path]) -> None:
    with pytest.raises(CheckpointNotFoundError, match="no model nobody/nothing on the Hub"):
        load("nobody/nothing")


def test_an_unknown_revision_is_reported(fake_hub: FakeHub, load: Callable[..., Path]) -> None:
    with pytest.raises(CheckpointNotFoundError, match="no revision 'v9' on the Hub"):
        load(revision="v9")


def test_a_gated_model_asks_for_a_login(fake_hub: FakeHub, load: Callable[..., Path]) -> None:
    fake_hub.gated.add(REPO)
    with pytest.raises(CheckpointNotFoundError, match="hf auth login"):
        load()


@pytest.mark.parametrize("is_offline", [True, False])
def test_a_model_that_is_not_cached_fails_at_once_without_the_hub(
    fake_hub: FakeHub,
    load: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    is_offline: bool,
) -> None:
    fake_hub.stop()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", is_offline)
    start = time.monotonic()
    with pytest.raises(CheckpointNotFoundError, match=f"hf download {REPO}"):
        load()
    assert time.monotonic() - start < 5
    with pytest.raises(CheckpointNotFoundError, match=f"hf download {REPO}"):
        load(local_files_only=True)


def test_a_hub_that_never_answers_is_not_waited_for(
    fake_hub: FakeHub, load: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.2)
    folder = load()
    fake_hub.is_silent = True
    start = time.monotonic()
    assert load() == folder
    with pytest.raises(CheckpointNotFoundError, match=r"no answer within 0\.2 s"):
        load("somebody/else")
    assert time.monotonic() - start < 5


def test_a_half_cached_model_is_told_from_a_whole_one(
    fake_hub: FakeHub, load: Callable[..., Path]
) -> None:
    (load() / "model.safetensors").unlink()
    fake_hub.stop()
    huggingface_hub.close_session()
    with pytest.raises(CheckpointNotFoundError, match="not whole"):
        load()


@pytest.mark.parametrize(
    "answer",
    [
        (200, "text/html", b"<html>Accept the terms of this network</html>"),
        (200, "application/json", b"{}"),
        (400, "text/plain", b"no"),
        (404, "text/html", b"<html>no such page</html>"),
    ],
)
def test_an_answer_that_is_not_the_hubs_is_translated(
    fake_hub: FakeHub, load: Callable[..., Path], answer: tuple[int, str, bytes]
) -> None:
    fake_hub.answer_all = answer
    with pytest.raises(CheckpointError, match=REPO):
        load()


@pytest.mark.parametrize("endpoint", ["http://[", "nonsense", "ftp://127.0.0.1"])
def test_an_impossible_endpoint_is_translated(
    fake_hub: FakeHub, load: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    with pytest.raises(CheckpointError, match=REPO):
        load()


@pytest.mark.parametrize("folder", ["", "0_Transformer/"])
def test_pickles_alone_are_refused(
    fake_hub: FakeHub, load: Callable[..., Path], folder: str
) -> None:
    files = fake_hub.repos[REPO]
    del files["model.safetensors"], files["pytorch_model.bin"]
    files[f"{folder}pytorch_model.bin"] = b"pickle"
    with pytest.raises(UnsafeWeightsError, match=f"{folder}pytorch_model.bin, a pickle"):
        load()
    assert f"{folder}pytorch_model.bin" not in fake_hub.fetched


def test_a_repository_without_any_weights_is_reported(
    fake_hub: FakeHub, load: Callable[..., Path]
) -> None:
    fake_hub.repos[REPO] = {"config.json": b"{}", "model.gguf": b"GGUF"}
    with pytest.raises(CheckpointNotFoundError, match=r"it holds config\.json, model\.gguf"):
        load()


def test_weights_in_an_old_module_folder_are_found(
    fake_hub: FakeHub, load: Callable[..., Path]
) -> None:
    files = fake_hub.repos[REPO]
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        files[f"0_Transformer/{name}"] = files.pop(name)
    assert (load() / "0_Transformer" / "model.safetensors").is_file()


def test_an_unwritable_cache_is_translated(fake_hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file, not a folder")
    with pytest.raises(CheckpointError, match="could not be downloaded"):
        hub.resolve(REPO, cache_dir=tmp_path / "cache")


def test_patterns_match_as_the_hub_library_matches() -> None:
    wanted = [
        "config.json",
        "model.safetensors",
        "model.safetensors.index.json",
        "model-00001-of-00003.safetensors",
        "tokenizer.json",
        "modules.json",
        "sentence_bert_config.json",
        "1_Pooling/config.json",
        "2_Dense/config.json",
        "2_Dense/model.safetensors",
        "10_Dense/config.json",
        "0_Transformer/config.json",
        "0_Transformer/sentence_bert_config.json",
        "0_Transformer/tokenizer.json",
        "0_Transformer/tokenizer_config.json",
        "0_Transformer/model.safetensors",
        "0_Transformer/model-00001-of-00002.safetensors",
    ]
    unwanted = [
        "pytorch_model.bin",
        "0_Transformer/pytorch_model.bin",
        "2_Dense/pytorch_model.bin",
        "onnx/model.onnx",
        "onnx/config.json",
        "openvino/openvino_model.bin",
        "tf_model.h5",
        "flax_model.msgpack",
        "sentencepiece.bpe.model",
        "README.md",
        "modeling_custom.py",
        "adapter_model.safetensors",
    ]
    found = filter_repo_objects([*wanted, *unwanted], allow_patterns=list(HUB_PATTERNS))
    assert list(found) == wanted


NOT_OF_DOWNLOADS = {
    "BucketBatchError",
    "BucketNotFoundError",
    "CLIError",
    "CLIExtensionInstallError",
    "CacheNotFound",
    "CachedRepoTreeNotFoundError",
    "ConfirmationError",
    "DDUFCorruptedFileError",
    "DDUFError",
    "DDUFExportError",
    "DDUFInvalidEntryNameError",
    "DeviceCodeError",
    "FileDuplicationError",
    "GenerationError",
    "IncompleteGenerationError",
    "InferenceEndpointError",
    "InferenceEndpointTimeoutError",
    "InferenceTimeoutError",
    "JobNotFoundError",
    "NotASafetensorsRepoError",
    "OIDCError",
    "OverloadedError",
    "SafetensorsParsingError",
    "SandboxCommandError",
    "SandboxError",
    "StrictDataclassClassValidationError",
    "StrictDataclassDefinitionError",
    "StrictDataclassError",
    "StrictDataclassFieldValidationError",
    "TextGenerationError",
    "UnknownError",
    "ValidationError",
}
"""Errors of other services: inference, jobs, buckets, log-in, uploads, command line."""


def _hub_errors() -> dict[str, type[Exception]]:
    return {
        name: found
        for name, found in vars(errors).items()
        if isinstance(found, type)
        and issubclass(found, Exception)
        and found.__module__ == errors.__name__
    }


def test_every_error_of_the_hub_library_is_mapped_or_known_to_be_foreign() -> None:
    """Fails when a new version adds a class: map it in hub.HUB_ERRORS, or name it above."""
    unmapped = {
        name
        for name, found in _hub_errors().items()
        if name not in NOT_OF_DOWNLOADS
        and not any(cls.__name__ in hub.HUB_ERRORS for cls in found.__mro__)
    }
    assert unmapped == set()


DOWNLOAD_ERRORS = sorted(set(_hub_errors()) - NOT_OF_DOWNLOADS)
BUILTIN_ERRORS = [ConnectionError, OSError, PermissionError, RuntimeError, TimeoutError, ValueError]


@pytest.mark.parametrize("cls", [_hub_errors()[name] for name in DOWNLOAD_ERRORS] + BUILTIN_ERRORS)
def test_every_mapped_error_becomes_ours_and_is_chained(
    cls: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    raised = cls.__new__(cls)

    def fail(*args: object, **kwargs: object) -> str:
        raise raised

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(CheckpointError, match=r"a/b") as caught:
        hub.resolve("a/b")
    assert caught.value.__cause__ is raised


def test_every_error_of_the_http_library_becomes_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    base = errors.HfHubHTTPError.__bases__[0]
    pending, classes = [base], set()
    while pending:
        found = pending.pop()
        classes.add(found)
        pending += found.__subclasses__()
    for cls in classes:

        def fail(*args: object, cls: type[Exception] = cls, **kwargs: object) -> str:
            raise cls.__new__(cls)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
        with pytest.raises(PolyrankError):
            hub.resolve("a/b")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a/b/c",
        "a b",
        "../nowhere",
        "~nobody-of-this-name/model",
        "a--b",
        "-a/b",
        "x" * 5000,
        "null\0character",
        '{"model": "a"}',
    ],
)
def test_what_cannot_be_a_model_is_refused_without_the_network(name: str) -> None:
    with pytest.raises(CheckpointNotFoundError, match="neither a folder on this machine nor"):
        hub.resolve(name)


def test_a_file_is_not_a_model(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"")
    with pytest.raises(CheckpointNotFoundError, match="neither a folder"):
        hub.resolve(path)


def test_a_local_folder_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in (folder, str(folder), "my-model", "~/my-model", "link"):
        assert hub.resolve(name) == (folder.resolve(), "my-model")


def test_the_base_model_is_looked_for_in_polyranks_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLYRANK_CACHE", str(tmp_path))
    with pytest.raises(CheckpointNotFoundError, match="make model"):
        hub.base_model_folder()
    folder = tmp_path / "models" / hub.BASE_MODEL
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert hub.base_model_folder() == folder
    # what is trained or compressed starts from it: the default model is int8
    assert hub.resolve_float(None) == (folder, hub.BASE_MODEL)
    assert hub.resolve_float(str(folder)) == (folder, hub.BASE_MODEL)


def test_the_default_model_ships_with_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, name = hub.resolve(None)
    assert name == folder.name == hub.DEFAULT_MODEL
    assert folder.parents[1] == Path(hub.__file__).parents[1]
    monkeypatch.setattr(hub, "DEFAULT_MODEL", "left-out")
    with pytest.raises(CheckpointNotFoundError, match="lacks its default model"):
        hub.resolve(None)


def test_the_cache_folder_follows_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("POLYRANK_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert hub.cache_folder() == tmp_path / ".cache" / "polyrank"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert hub.cache_folder() == tmp_path / "xdg" / "polyrank"
    monkeypatch.setenv("POLYRANK_CACHE", "~/here")
    assert hub.cache_folder() == tmp_path / "here"


def test_importing_the_module_does_not_import_the_hub_library() -> None:
    code = "import sys, polyrank.checkpoint.hub; sys.exit('huggingface_hub' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
