"""One owner at a time: a small file that names the process, and is taken over only from the dead.

The file's content decides who owns it; a short flock only orders those who look. So a child that outlives its parent
keeps nothing locked, and a lock seen from another host is never broken.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from assay.harness.errors import AssayError, Incomplete
from assay.harness.files.safe_open import read_regular


def started(pid: int) -> str:
    """When a process of this host started: boot id and clock ticks; empty where that cannot be told; raises if it is gone."""
    os.kill(pid, 0)
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
    if stat[0] in "ZX":
        raise ProcessLookupError(pid)
    return f"{boot}:{stat[19]}"


def me() -> dict[str, str | int]:
    return {"pid": os.getpid(), "host": socket.gethostname(), "started": started(os.getpid())}


def owner(path: Path) -> str:
    """The living owner of a lock as text, empty if there is none. A lock from another host counts as living."""
    with suppress(OSError, AssayError):
        return living(read_regular(path, 1 << 16))
    return ""


def living(content: bytes) -> str:
    try:
        held = json.loads(content)
        pid, host, since = int(held["pid"]), str(held["host"]), str(held["started"])
    except (ValueError, KeyError, TypeError):
        return ""
    name = f"process {pid} on {host}"
    if host != socket.gethostname():
        return name
    try:
        now = started(pid)
    except ProcessLookupError:
        return ""
    except PermissionError:
        return name
    return name if not now or not since or now == since else ""


@contextmanager
def same_file(path: Path, flags: int) -> Iterator[int]:
    """The lock file, open, with the right to look at it and change it; opened again if it was replaced meanwhile."""
    while True:
        fd = os.open(path, flags | os.O_NOFOLLOW, 0o666)  # copied results may hold a link
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            try:
                current = os.path.samestat(os.fstat(fd), path.stat())
            except FileNotFoundError:
                current = False
            if current:
                yield fd
                return
        finally:
            os.close(fd)


def take(path: Path) -> str:
    """Tries to own the lock: empty if it worked, else the living owner."""
    with same_file(path, os.O_RDWR | os.O_CREAT) as fd:
        holder = living(os.pread(fd, 4096, 0))
        if not holder:
            os.ftruncate(fd, 0)
            os.pwrite(fd, json.dumps(me()).encode(), 0)
        return holder


def release(path: Path) -> None:
    """Gives the lock up; nothing happens where another process has it."""
    with suppress(OSError), same_file(path, os.O_RDWR) as fd:
        if os.pread(fd, 4096, 0) == json.dumps(me()).encode():
            path.unlink()


@contextmanager
def held(path: Path, seconds: float = 0.0) -> Iterator[None]:
    """Owns the lock, waiting for it at most so long.

    Raises Incomplete naming the living owner; AssayError where the folder cannot be written.
    """
    deadline = time.monotonic() + seconds
    pause = 0.005
    try:
        while holder := take(path):
            if time.monotonic() > deadline:
                raise Incomplete(f"in use by {holder}", where=str(path), do="wait for it, or delete this file if that process is gone")
            time.sleep(pause)
            pause = min(2 * pause, 0.1)
    except OSError as error:
        raise AssayError(f"cannot be locked: {error.strerror}", where=str(path), do="make the folder writable") from None
    try:
        yield
    finally:
        release(path)
