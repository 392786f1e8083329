"""Run programs that a model generated in a sandbox, or refuse to run them.

Before anything runs, a self-test shows on this machine that programs can compute, and that the sandbox stops network access, writing,
forking, access to other processes, excessive output, endless loops and excessive memory use, and that no program can forge a verdict.

The test runs in its own process, which sends requests to the program's process (sandbox_child.py). So the program can return wrong
values, but cannot write the verdict. It can see the requests, and read world-readable files. Without a test, the verdict only says that
the program ended, which the program itself could forge.
"""

from __future__ import annotations

import functools
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from assay.harness.errors import AssayError

__all__ = ["passes", "require_sandbox", "self_test"]

CHILD = Path(__file__).with_name("sandbox_child.py")
SECONDS, MEMORY = 10, 1 << 30
PASSED = b"passed\n"


def passes(program: str, test: str = "", *, subject: str = "", seconds: int = SECONDS, memory: int = MEMORY) -> bool:
    """Whether a program, and then its test, run to their end without an exception within the limits (CPU seconds, bytes of memory).

    Exiting early does not count as passing. The test can use the names that the program defines; built-in names are always Python's own,
    except `subject`, the name of the function that is tested.
    """
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        for name, text in (("program.py", program), ("test.py", test)):
            (folder / name).write_text(text, encoding="utf-8", errors="replace")
        verdict = folder / "verdict"
        command = [sys.executable, "-I", "-S", str(CHILD), "program.py", "test.py", subject, str(seconds), str(memory)]
        with verdict.open("wb") as out, suppress(subprocess.TimeoutExpired):
            subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                env={},
                timeout=2 * seconds,
                check=False,
            )
        return verdict.read_bytes() == PASSED


HARMLESS = "import math, re, collections, itertools, heapq\nassert sorted([3, 1, 2]) == [1, 2, 3] and math.sqrt(9) == 3\n"
ATTACKS: Mapping[str, str] = {
    "the network": "import _socket\n_socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM).bind(('127.0.0.1', 0))\n",
    "a socket": "import _socket\n_socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)\n",
    "writing a file": "open('written.txt', 'w').write('x')\n",
    "writing outside the working folder": "import os\nos.open('/tmp', os.O_TMPFILE | os.O_RDWR)\n",
    "removing a file": "import os\nos.remove(__file__)\n",
    "creating a folder": "import os\nos.mkdir('made')\n",
    "forking": "import os\nif os.fork() == 0:\n    os._exit(0)\n",
    "starting another program": "import os\nos.posix_spawn('/bin/true', ['true'], {})\n",
    "starting a thread": "import _thread\n_thread.start_new_thread(print, ())\n",
    "signalling another process": "import os\nos.kill(os.getppid(), 0)\n",
    "exiting early": "import os\nos._exit(0)\n",
    "forging the verdict through stack frames": (
        "import os, sys\nframe, held = sys._getframe(), []\n"
        "while frame:\n    held += [*frame.f_locals.values(), *frame.f_globals.values()]\n    frame = frame.f_back\n"
        "words = [each.encode() if isinstance(each, str) else each for each in held if isinstance(each, (str, bytes))]\n"
        "for out in range(64):\n    for word in [*words, b'{\"value\": null}\\n', b'passed\\n']:\n"
        "        try:\n            os.write(out, word)\n        except OSError:\n            pass\n"
        "os._exit(0)\n"
    ),
    "excessive output": (
        "import os\nfor out in range(64):\n    try:\n        for _ in range(2000):\n            os.write(out, bytes(1 << 20))\n"
        "    except OSError:\n        pass\n"
    ),
    "reading the environment of other processes": (
        "import os\nfound = b''\nfor name in filter(str.isdigit, os.listdir('/proc')):\n    try:\n"
        "        found += open(f'/proc/{name}/environ', 'rb').read()\n    except OSError:\n        pass\nassert found\n"
    ),
    "an endless loop": "while True:\n    pass\n",
    "too much memory": "x = bytearray(4 << 30)\n",
}


TESTS: Mapping[str, str] = {"forging the verdict through stack frames": "assert 1 == 2\n"}
"""Tests by attack. The other attacks need none: if they end without an exception, the sandbox has failed."""


@functools.cache
def self_test() -> tuple[str, ...]:
    """Return the attacks that the sandbox does not stop on this machine; empty if it stops all."""
    if not passes(HARMLESS):
        return ("no program can run in it",)
    return tuple(name for name, program in ATTACKS.items() if passes(program, TESTS.get(name, ""), seconds=1))


def require_sandbox() -> None:
    """Raises AssayError if the sandbox does not work on this machine."""
    if failures := self_test():
        raise AssayError(
            f"the sandbox for generated programs does not work on this machine: {', '.join(failures)}",
            do="run tasks that execute code on Linux x86-64 with seccomp",
        )
