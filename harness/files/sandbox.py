"""Runs a model's program where it can do no harm, or refuses to run it at all.

Nothing is run before the self-test has shown, on this machine, that programs can compute, and that network, writing, forking, other
processes and what they hold, floods, endless loops and memory are stopped, and that no verdict can be forged.

The test runs in a process of its own, which asks the program's process for what it needs (sandbox_child.py), so the program can give
wrong answers, but not say what becomes of them. It can see what it is asked, and read files that everybody may read. Without a test there
is only the program's own word that it ended.
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
    """Whether a program, and then its test, end without an exception within their limits; leaving early is no end.

    The test has the names of the program but no others of its process: Python's own names are its own, except `subject`.
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
    "writing elsewhere": "import os\nos.open('/tmp', os.O_TMPFILE | os.O_RDWR)\n",
    "removing a file": "import os\nos.remove(__file__)\n",
    "a new folder": "import os\nos.mkdir('made')\n",
    "forking": "import os\nif os.fork() == 0:\n    os._exit(0)\n",
    "another program": "import os\nos.posix_spawn('/bin/true', ['true'], {})\n",
    "a thread": "import _thread\n_thread.start_new_thread(print, ())\n",
    "signals to others": "import os\nos.kill(os.getppid(), 0)\n",
    "leaving early": "import os\nos._exit(0)\n",
    "a verdict forged by frames": (
        "import os, sys\nframe, held = sys._getframe(), []\n"
        "while frame:\n    held += [*frame.f_locals.values(), *frame.f_globals.values()]\n    frame = frame.f_back\n"
        "words = [each.encode() if isinstance(each, str) else each for each in held if isinstance(each, (str, bytes))]\n"
        "for out in range(64):\n    for word in [*words, b'{\"value\": null}\\n', b'passed\\n']:\n"
        "        try:\n            os.write(out, word)\n        except OSError:\n            pass\n"
        "os._exit(0)\n"
    ),
    "a flood": (
        "import os\nfor out in range(64):\n    try:\n        for _ in range(2000):\n            os.write(out, bytes(1 << 20))\n"
        "    except OSError:\n        pass\n"
    ),
    "the environment of others": (
        "import os\nfound = b''\nfor name in filter(str.isdigit, os.listdir('/proc')):\n    try:\n"
        "        found += open(f'/proc/{name}/environ', 'rb').read()\n    except OSError:\n        pass\nassert found\n"
    ),
    "an endless loop": "while True:\n    pass\n",
    "too much memory": "x = bytearray(4 << 30)\n",
}


TESTS: Mapping[str, str] = {"a verdict forged by frames": "assert 1 == 2\n"}
"""The others need none: that they end without an exception is a leak."""


@functools.cache
def self_test() -> tuple[str, ...]:
    """What the sandbox does not stop on this machine; empty where it holds."""
    if not passes(HARMLESS):
        return ("nothing runs in it",)
    return tuple(name for name, program in ATTACKS.items() if passes(program, TESTS.get(name, ""), seconds=1))


def require_sandbox() -> None:
    """Raises AssayError where the sandbox does not hold."""
    if leaks := self_test():
        raise AssayError(
            f"the sandbox for generated programs does not hold here: {', '.join(leaks)}",
            do="tasks that run code need Linux on x86-64 with seccomp; they are off elsewhere",
        )
