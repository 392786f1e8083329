"""Open untrusted files safely: only regular files (no link, device or pipe), up to a maximum size."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from assay.harness.errors import AssayError

FIX = "replace it with a regular file"


def open_regular(path: Path, follow: bool = False) -> BinaryIO:
    """Open a regular file for reading; `follow` also allows a symbolic link to one. Never blocks, as opening a pipe would.

    Raises AssayError if it is not a regular file, OSError if it cannot be opened.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise AssayError("is a symbolic link", where=str(path), do=FIX) from None
        if error.errno == errno.ENXIO:  # a socket
            raise AssayError("is not a regular file", where=str(path), do=FIX) from None
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise AssayError("is not a regular file", where=str(path), do=FIX)
    return os.fdopen(fd, "rb")


def read_regular(path: Path, most: int, follow: bool = False) -> bytes:
    """Read a regular file. Raises AssayError if it is not regular or has more than `most` bytes, OSError if it cannot be read."""
    with open_regular(path, follow) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise AssayError(f"has {size:,} bytes, the maximum is {most:,}", where=str(path), do=FIX)
        return file.read(size)
