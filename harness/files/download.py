"""Download a published file: resumed after an interruption, checked by its SHA-256, and put in place in one step."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from assay.harness.errors import AssayError, redact
from assay.harness.files.atomic import sync_folder

if TYPE_CHECKING:
    from http.client import HTTPMessage

ATTEMPTS, CHUNK, SECONDS = 5, 1 << 18, 30
Report = Callable[[int, int], None]
"""Called with the bytes that are there and the bytes of the whole file (0: unknown)."""


@dataclass(frozen=True, slots=True)
class Published:
    """A file at a fixed address, and the SHA-256 of its content."""

    url: str
    sha256: str


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(source: Published, path: Path, report: Report = lambda done, whole: None, pause: float = 1.0) -> bool:
    """Bring a file to `path`; False if it is there already.

    A part of an earlier attempt is continued. Network errors, 429 and 5xx are tried again, `pause` seconds later or when the server says.
    Raises AssayError where the file cannot be had or has another content.
    """
    from http.client import HTTPException  # importing it takes as long as the rest of a short command

    if path.is_file() and sha256_of(path) == source.sha256:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    for attempt in range(ATTEMPTS):
        try:
            receive(source.url, part, report)
            break
        except (OSError, HTTPException) as error:  # URLError and timeouts are OSErrors
            wait = retry_after(error, pause * 2**attempt)
            if wait is None or attempt == ATTEMPTS - 1:
                fix = "try again later: what has arrived is kept" if wait is not None else "check the address with its publisher"
                raise AssayError(f"cannot be downloaded: {redact(str(error)):.160}", where=source.url, do=fix) from None
            time.sleep(wait)
    if (found := sha256_of(part)) != source.sha256:
        part.unlink()
        what = f"has the SHA-256 {found[:16]}..., expected {source.sha256[:16]}..."
        raise AssayError(what, where=source.url, do="try again; if it stays so, the publisher has changed the file")
    part.replace(path)
    sync_folder(path.parent)
    return True


def receive(url: str, part: Path, report: Report) -> None:
    """Append what is missing of a file to `part`."""
    import urllib.error
    import urllib.request

    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        part.unlink()  # longer than the file
        return receive(url, part, report)
    with answer, part.open("ab" if answer.status == 206 else "wb") as file:
        have = have if answer.status == 206 else 0
        whole = have + length_of(answer.headers)
        while chunk := answer.read(CHUNK):
            file.write(chunk)
            have += len(chunk)
            report(have, whole)
    if whole and have < whole:
        raise ConnectionError(f"the connection ended after {have:,} of {whole:,} bytes")


def length_of(headers: HTTPMessage) -> int:
    text = headers.get("Content-Length") or ""
    return int(text) if text.isdecimal() else 0


def retry_after(error: Exception, pause: float) -> float | None:
    """Seconds to wait before another attempt; None where none helps."""
    from urllib.error import HTTPError

    if not isinstance(error, HTTPError):
        return pause
    if error.code != 429 and error.code < 500:
        return None
    text = error.headers.get("Retry-After") or ""
    return min(float(text), 60.0) if text.isdecimal() else pause
