"""Adapters by hub id, against a small hub on the loopback. Run: pytest tests/harness/model/test_adapter_hub.py"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from fakes import make_model, save_lora

from assay.harness.errors import AssayError
from assay.harness.model.find import checkpoint_of, find_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """Serves the files of one folder as the repository `someone/lora`, by the calls that a snapshot needs."""

    folder: Path

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path, name = self.path.partition("?")[0], self.path.rpartition("/")[2]
        if path.startswith("/api/models/someone/lora/tree/"):
            sizes = {each.name: each.stat().st_size for each in sorted(self.folder.iterdir())}
            self.send([{"type": "file", "path": file, "size": size, "oid": COMMIT} for file, size in sizes.items()])
        elif path.startswith("/api/models/someone/lora/"):
            files = sorted(each.name for each in self.folder.iterdir())
            self.send({"id": "someone/lora", "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]})
        elif path.startswith("/someone/lora/resolve/") and (self.folder / name).is_file():
            self.send((self.folder / name).read_bytes())
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def send(self, content: object) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that the hub serves."""
    constants = pytest.importorskip("huggingface_hub.constants")
    folder = save_lora(tmp_path / "served")
    (folder / "optimizer.pt").write_bytes(b"not fetched")
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("One", (Hub,), {"folder": folder}))
    address = f"http://127.0.0.1:{server.server_port}"
    for name, value in {
        "ENDPOINT": address,
        "HUGGINGFACE_CO_URL_TEMPLATE": address + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": False,
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_PROGRESS_BARS": True,
    }.items():
        monkeypatch.setattr(constants, name, value)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder
    server.shutdown()
    server.server_close()


def test_an_adapter_is_fetched_by_its_hub_id(hub: Path, tmp_path: Path) -> None:
    base = make_model(tmp_path / "base")
    found = find_model(str(base), adapter="someone/lora", cache=tmp_path)
    local = find_model(str(base), adapter=hub, cache=tmp_path)
    assert found.name == f"{base}+someone/lora" and found.digest == local.digest
    assert found.adapter is not None and found.adapter.name == COMMIT and not (found.adapter / "optimizer.pt").exists()
    adapter = checkpoint_of(found).adapter
    assert adapter is not None and adapter.kind == "LORA"
    assert find_model(str(base), adapter="someone/lora@v1", cache=tmp_path).digest == local.digest
    assert find_model(str(base), adapter="someone/lora", cache=tmp_path, offline=True).digest == local.digest, "from the hub's cache"


def test_an_unknown_adapter_is_named(hub: Path, tmp_path: Path) -> None:
    base = make_model(tmp_path / "base")
    with pytest.raises(AssayError, match="unknown adapter: no such folder, and no such adapter on the hub"):
        find_model(str(base), adapter="someone/other", cache=tmp_path)
    with pytest.raises(AssayError, match="no such adapter folder"):
        find_model(str(base), adapter=tmp_path / "nowhere", cache=tmp_path)
