"""Lock files: one owner at a time. The file names the owning process; a lock whose process has ended is taken over.

The file's content decides who owns the lock; flock is held only while the file is read or changed. So a child process that
outlives its parent does not keep the lock, and a lock of another host is never taken over.
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


def start_time(pid: int) -> str:
    """Return when a process of this host started (boot id and clock ticks), empty if unknown. Raises ProcessLookupError if it has ended."""
    os.kill(pid, 0)
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
    if stat[0] in "ZX":
        raise ProcessLookupError(pid)
    return f"{boot}:{stat[19]}"


def this_process() -> dict[str, str | int]:
    """Return the content of a lock file that this process owns."""
    return {"pid": os.getpid(), "host": socket.gethostname(), "started": start_time(os.getpid())}


def owner(path: Path) -> str:
    """Return the running owner of a lock as text, empty if there is none. An owner on another host counts as running."""
    with suppress(OSError, AssayError):
        return living_owner(read_regular(path, 1 << 16))
    return ""


def living_owner(content: bytes) -> str:
    """Return the running owner that a lock file's content names, empty if it names none."""
    try:
        stored = json.loads(content)
        pid, host, since = int(stored["pid"]), str(stored["host"]), str(stored["started"])
    except (ValueError, KeyError, TypeError):
        return ""
    name = f"process {pid} on {host}"
    if host != socket.gethostname():
        return name
    try:
        now = start_time(pid)
    except ProcessLookupError:
        return ""
    except PermissionError:
        return name
    return name if not now or not since or now == since else ""


@contextmanager
def locked_file(path: Path, flags: int) -> Iterator[int]:
    """Open the lock file under an exclusive flock; open it again if another process has replaced it meanwhile."""
    while True:
        fd = os.open(path, flags | os.O_NOFOLLOW, 0o666)  # copied results may contain a link
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


def acquire(path: Path) -> str:
    """Try to acquire the lock. Returns an empty string on success, otherwise the running owner."""
    with locked_file(path, os.O_RDWR | os.O_CREAT) as fd:
        current = living_owner(os.pread(fd, 4096, 0))
        if not current:
            os.ftruncate(fd, 0)
            os.pwrite(fd, json.dumps(this_process()).encode(), 0)
        return current


def release(path: Path) -> None:
    """Release the lock. Does nothing if another process owns it."""
    with suppress(OSError), locked_file(path, os.O_RDWR) as fd:
        if os.pread(fd, 4096, 0) == json.dumps(this_process()).encode():
            path.unlink()


@contextmanager
def file_lock(path: Path, seconds: float = 0.0) -> Iterator[None]:
    """Hold the lock for the block, waiting for it at most `seconds`.

    Raises Incomplete naming the running owner; AssayError if the folder cannot be written.
    """
    deadline = time.monotonic() + seconds
    pause = 0.005
    try:
        while current := acquire(path):
            if time.monotonic() > deadline:
                raise Incomplete(f"in use by {current}", where=str(path), do="wait for it, or delete this file if that process has ended")
            time.sleep(pause)
            pause = min(2 * pause, 0.1)
    except OSError as error:
        raise AssayError(f"cannot be locked: {error.strerror}", where=str(path), do="make the folder writable") from None
    try:
        yield
    finally:
        release(path)
