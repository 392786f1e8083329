"""Files that a stranger may have made, opened with care: no link, device or pipe, and none larger than it may be."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from assay.harness.errors import AssayError

DO = "put a plain file in its place"


def open_regular(path: Path, follow: bool = False) -> BinaryIO:
    """A plain file, open for reading; `follow` allows a link to one. Never waits, as opening a pipe would.

    Raises AssayError where it is anything else, OSError where it cannot be opened.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise AssayError("is a link, and is not followed", where=str(path), do=DO) from None
        if error.errno == errno.ENXIO:  # a socket
            raise AssayError("is no plain file", where=str(path), do=DO) from None
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise AssayError("is no plain file", where=str(path), do=DO)
    return os.fdopen(fd, "rb")


def read_regular(path: Path, most: int, follow: bool = False) -> bytes:
    """The bytes of a plain file. Raises AssayError where it is none or has more than `most`, OSError where it cannot be read."""
    with open_regular(path, follow) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise AssayError(f"has {size:,} bytes, {most:,} are the most that it may have", where=str(path), do=DO)
        return file.read(size)
