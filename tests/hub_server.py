"""A stand-in of the Hugging Face hub's HTTP API on the loopback address, for the real clients (HF_ENDPOINT). It also serves plain files."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" * 6 + "c0ff"


@dataclass
class HubServer:
    """`repos`: the files of every data set; all have the revision COMMIT. `files`: plain files by path.

    `gated`, `private`: repos that answer 403 and 401. `busy`: number of requests of a path's end that are answered 429 first. `cut`:
    number of downloads of a path's end that end halfway. `asked` counts requests by method and path, `bytes` what was sent of each.
    """

    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    private: set[str] = field(default_factory=set)
    busy: dict[str, int] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    sent: Counter[str] = field(default_factory=Counter)
    url: str = ""


def handler_of(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            self.answer()

        def do_HEAD(self) -> None:
            self.answer()

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.answer()

        def refuse(self, status: int, code: str = "", **headers: str) -> None:
            self.reply(
                status, json.dumps({"error": code or "refused"}).encode(), {"X-Error-Code": code, "X-Error-Message": code, **headers}
            )

        def reply(self, status: int, body: bytes, headers: dict[str, str], whole: int = 0) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(whole or len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked[f"{self.command} {path}"] += 1
            for end, left in hub.busy.items():
                if path.endswith(end) and left:
                    hub.busy[end] -= 1
                    return self.refuse(429, **{"Retry-After": "0"})
            if path in hub.files:
                return self.send_content(path, hub.files[path], {})
            parts = path.strip("/").split("/")
            if path.startswith("/api/datasets/"):
                return self.api("/".join(parts[2:4]), parts[4:])
            if path.startswith("/datasets/") and parts[3:4] == ["resolve"]:
                return self.resolve("/".join(parts[1:3]), parts[4], "/".join(parts[5:]))
            return self.refuse(404, "EntryNotFound")

        def allowed(self, repo: str, revision: str) -> bool:
            if repo in hub.private or repo not in hub.repos:
                self.refuse(401, "RepoNotFound")
            elif revision not in ("main", COMMIT):
                self.refuse(404, "RevisionNotFound")
            else:
                return True
            return False

        def api(self, repo: str, rest: list[str]) -> None:
            revision = rest[1] if len(rest) > 1 else "main"
            if not self.allowed(repo, revision):
                return
            files = hub.repos[repo]
            if rest[:1] == ["tree"]:
                under = "/".join(rest[2:])
                listed = [{"type": "file", "oid": oid(files[name]), "size": len(files[name]), "path": name} for name in sorted(files)]
                found = [each for each in listed if not under or str(each["path"]).startswith(f"{under}/")]
                return self.reply(200, json.dumps(found).encode(), {"Content-Type": "application/json"})
            if rest[:1] == ["paths-info"]:
                return self.reply(200, b"[]", {"Content-Type": "application/json"})
            info = {"id": repo, "sha": COMMIT, "private": False, "gated": repo in hub.gated, "disabled": False, "downloads": 0, "likes": 0}
            info |= {"tags": [], "siblings": [{"rfilename": name} for name in sorted(files)]}
            self.reply(200, json.dumps(info).encode(), {"Content-Type": "application/json"})

        def resolve(self, repo: str, revision: str, name: str) -> None:
            if not self.allowed(repo, revision):
                return
            if repo in hub.gated:
                return self.refuse(403, "GatedRepo")
            if name not in hub.repos[repo]:
                return self.refuse(404, "EntryNotFound")
            content = hub.repos[repo][name]
            self.send_content(name, content, {"ETag": f'"{oid(content)}"', "X-Repo-Commit": COMMIT, "X-Linked-Size": str(len(content))})

        def send_content(self, path: str, content: bytes, headers: dict[str, str]) -> None:
            asked = self.headers.get("Range", "").removeprefix("bytes=").partition("-")[0]
            start = int(asked or 0)
            if start >= len(content) and start:
                return self.refuse(416)
            body = content[start:]
            headers = {"Accept-Ranges": "bytes", **headers}
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            end = next((end for end, left in hub.cut.items() if path.endswith(end) and left), None)
            if end is not None and self.command == "GET":
                hub.cut[end] -= 1
                self.close_connection = True
                part = body[: len(body) // 2]
                hub.sent[path] += len(part)
                return self.reply(206 if start else 200, part, headers, whole=len(body))
            if self.command == "GET":
                hub.sent[path] += len(body)
            return self.reply(206 if start else 200, body, headers)

    return Handler


def oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@contextmanager
def serving(hub: HubServer) -> Iterator[HubServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(hub))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
