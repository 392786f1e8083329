"""Runs a model's program where it can do no harm, or refuses to run it at all.

Nothing is run before the self-test has shown, on this machine, that programs can compute, and that network, writing, forking, other
processes, endless loops and memory are stopped.
"""

from __future__ import annotations

import functools
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from harness.errors import AssayError

__all__ = ["passes", "require_sandbox", "self_test"]

CHILD = Path(__file__).with_name("sandbox_child.py")
SECONDS, MEMORY = 10, 1 << 30


def passes(program: str, seconds: int = SECONDS, memory: int = MEMORY) -> bool:
    """Whether a program ends without an exception within its limits; it cannot pretend by leaving early."""
    token = secrets.token_hex(16)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "program.py"
        path.write_text(program, encoding="utf-8", errors="replace")
        command = [sys.executable, "-I", "-S", str(CHILD), str(path), str(seconds), str(memory)]
        try:
            done = subprocess.run(
                command,
                input=token.encode() + b"\n",
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                env={},
                timeout=2 * seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return False
    return done.returncode == 0 and done.stdout.strip() == token.encode()


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
    "an endless loop": "while True:\n    pass\n",
    "too much memory": "x = bytearray(4 << 30)\n",
}


@functools.cache
def self_test() -> tuple[str, ...]:
    """What the sandbox does not stop on this machine; empty where it holds."""
    if not passes(HARMLESS):
        return ("nothing runs in it",)
    return tuple(name for name, program in ATTACKS.items() if passes(program, seconds=1))


def require_sandbox() -> None:
    """Raises AssayError where the sandbox does not hold."""
    if leaks := self_test():
        raise AssayError(
            f"the sandbox for generated programs does not hold here: {', '.join(leaks)}",
            do="tasks that run code need Linux on x86-64 with seccomp; they are off elsewhere",
        )
