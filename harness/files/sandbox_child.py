"""Runs one program, and in another process the test of it; both can compute and read, and nothing else. Started by `sandbox`.

Linux on x86-64: a seccomp filter that allows what an interpreter needs and refuses every other system call (no socket, fork, exec, kill,
no file opened for writing), limits of time and memory, and a user namespace or a Landlock domain, from which no other process can be
looked into. All of it is one way: a program cannot take it off.

The verdict is written by the test's process, which runs nothing of the program and holds the only way out: the program cannot reach it.
The test asks the program's process for names, calls, attributes and items; plain values come back as JSON, anything else as a number that
stands for it (`Theirs`). Names of Python's own are the test's, but for the one that is tested.
Arguments: the paths of program and test, that name, seconds, bytes.
"""

from __future__ import annotations

import ast
import builtins
import ctypes
import importlib.util
import json
import operator
import os
import resource
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

PASSED = b"passed\n"
LONGEST = 1 << 26
"""Bytes of one answer of the program's process."""
ARCHITECTURE, OPENAT = 0xC000003E, 257
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
ALLOWED = (
    *(0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 19, 20),  # read, write, close, stat, poll, lseek, memory, signals, ioctl
    *(21, 23, 24, 25, 28, 32, 33, 35, 39, 60, 63, 72, 79, 89, 96, 97, 99),  # access, select, sched_yield, dup, nanosleep, getpid, exit, ...
    *(102, 104, 107, 108, 110, 131, 158, 186, 201, 202, 204, 217, 218, 219),  # ids, sigaltstack, arch_prctl, time, futex, getdents
    *(228, 229, 230, 231, 262, 267, 269, 270, 271, 273, 302, 318, 332, 334, 439),  # clocks, exit_group, newfstatat, getrandom, statx, rseq
)
"""Numbers of system calls; openat is allowed for reading, prlimit64 (302) cannot raise what is set here."""


def statement(code: int, yes: int, no: int, value: int) -> bytes:
    return struct.pack("HBBI", code, yes, no, value)


def filter_program() -> bytes:
    """The filter as BPF: the architecture, then openat by its flags, then the list; all else fails with EPERM."""
    load, equal, any_bit, give = 0x20, 0x15, 0x45, 0x06
    allow, refuse, kill = 0x7FFF0000, 0x00050001, 0x80000000
    head = [
        statement(load, 0, 0, 4),
        statement(equal, 1, 0, ARCHITECTURE),
        statement(give, 0, 0, kill),
        statement(load, 0, 0, 0),
        statement(equal, 0, 4, OPENAT),
        statement(load, 0, 0, 32),
        statement(any_bit, 0, 1, WRITING),
        statement(give, 0, 0, refuse),
        statement(give, 0, 0, allow),
    ]
    checks = [part for number in ALLOWED for part in (statement(equal, 0, 1, number), statement(give, 0, 0, allow))]
    return b"".join([*head, *checks, statement(give, 0, 0, refuse)])


def install() -> None:
    """Put the filter on this process. Raises OSError where the kernel refuses."""
    body = filter_program()
    buffer = ctypes.create_string_buffer(body, len(body))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(body) // 8, ctypes.addressof(buffer)), 16)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong]
    hide(libc)
    for option, first, second in ((1, 9, None), (22, 2, ctypes.addressof(program))):  # killed when the parent ends; seccomp filter
        if libc.prctl(option, first, second, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "the kernel refuses the filter")


def hide(libc: Any) -> None:
    """Out of reach of every other process. Not every machine has both ways; the sandbox's self-test tells where neither works."""
    libc.unshare(0x10000000)  # a user namespace of its own
    if libc.prctl(38, 1, None, 0, 0) != 0:  # no new privileges
        raise OSError(ctypes.get_errno(), "the kernel refuses to keep privileges away")
    writing = struct.pack("Q", 1 << 1)
    if (domain := libc.syscall(444, writing, len(writing), 0)) >= 0:  # Landlock, without a rule that allows anything
        libc.syscall(446, domain, 0)
        os.close(domain)


def confine(seconds: int, memory: int, kept: Sequence[int], written: int) -> None:
    """From here on: the limits, the filter, and no open file but those `kept`. `written`: most bytes in a file that is still open."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    for descriptor in set(range(3, 64)) - set(kept):
        with suppress(OSError):
            os.close(descriptor)
    for kind, most in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, written),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 32),
    ):
        resource.setrlimit(kind, (most, most))
    install()


def run(path: str, names: Mapping[str, Any]) -> dict[str, Any]:
    """Runs a file as __main__, with these names there from the start. Gives all its names."""
    spec = importlib.util.spec_from_file_location("__main__", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    module.__dict__.update(names)
    sys.modules["__main__"] = module
    spec.loader.exec_module(module)
    return module.__dict__


GROUPS: Mapping[str, Callable[[Any], Any]] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset, "dict": dict}
BYTES: Mapping[str, Any] = {"bytes": bytes, "bytearray": bytearray}
WIDE = 1 << 63


def pack(value: Any, hold: Callable[[Any], int]) -> Any:
    """A value as JSON; what is not plain as the number that `hold` gives it."""
    if isinstance(value, int) and not -WIDE <= value < WIDE:
        return ["int", hex(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return ["dict", [["tuple", [pack(key, hold), pack(each, hold)]] for key, each in value.items()]]
    for name in ("list", "tuple", "set", "frozenset"):
        if isinstance(value, GROUPS[name]):  # type: ignore[arg-type]
            return [name, [pack(each, hold) for each in value]]
    for name, kind in BYTES.items():
        if isinstance(value, kind):
            return [name, value.hex()]
    if isinstance(value, complex):
        return ["complex", [value.real, value.imag]]
    return ["held", hold(value)]


def unpack(said: Any, find: Callable[[int], Any]) -> Any:
    """The value that was packed."""
    if not isinstance(said, list):
        return said
    name, inner = said
    if name == "int":
        return int(inner, 16)
    if name == "held":
        return find(inner)
    if name == "complex":
        return complex(*inner)
    if name in BYTES:
        return BYTES[name].fromhex(inner)
    return GROUPS[name](unpack(each, find) for each in inner)


# The program's side


class Held:
    """The things of the program that the test knows by number."""

    def __init__(self) -> None:
        self.things: list[Any] = []
        self.numbers: dict[int, int] = {}

    def hold(self, thing: Any) -> int:
        if id(thing) not in self.numbers:
            self.numbers[id(thing)] = len(self.things)
            self.things.append(thing)
        return self.numbers[id(thing)]

    def find(self, number: int) -> Any:
        return self.things[number]


def serve(path: str, source: IO[bytes], sink: IO[bytes]) -> None:
    """Runs the program, says how that went, then answers until nothing more is asked."""
    held = Held()
    names: dict[str, Any] = {}

    def given(*wanted: str) -> dict[str, Any]:
        return {name: names[name] for name in wanted if name in names}

    def called(what: Any, /, *arguments: Any, **keywords: Any) -> Any:
        return what(*arguments, **keywords)

    acts: Mapping[str, Callable[..., Any]] = {
        "names": given,
        "call": called,
        "attribute": getattr,
        "list": list,
        "next": next,
        "len": len,
        "item": operator.getitem,
    }

    def answer(act: str, arguments: Any, keywords: Any) -> dict[str, Any]:
        mine, named = unpack(arguments, held.find), unpack(keywords, held.find)
        said = {"value": pack(acts[act](*mine, **named), held.hold)}
        if (after := pack(mine, held.hold)) != arguments:  # changed in place
            said["arguments"] = after
        return said

    def tell(what: Callable[[], dict[str, Any]]) -> None:
        try:
            said = what()
        except BaseException as error:  # also SystemExit
            kind = next(each.__name__ for each in type(error).__mro__ if each.__module__ == "builtins")
            said = {"error": kind, "words": [str(each) for each in error.args]}
        sink.write(json.dumps(said).encode() + b"\n")
        sink.flush()

    tell(lambda: names.update(run(path, {})) or {"value": None})
    for line in source:
        tell(lambda line=line: answer(*json.loads(line)))  # type: ignore[misc]


# The test's side


class Theirs:
    """Something of the program's that is no plain value. A test may call it, read its attributes, go through it, measure and index it."""

    __slots__ = ("_ask", "_number")

    def __init__(self, ask: Callable[..., Any], number: int) -> None:
        self._ask, self._number = ask, number

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self._ask("call", [self, *arguments], keywords)

    def __getattr__(self, name: str) -> Any:
        return self._ask("attribute", [self, name])

    def __iter__(self) -> Any:
        return iter(self._ask("list", [self]))

    def __next__(self) -> Any:
        return self._ask("next", [self])

    def __len__(self) -> int:
        return int(self._ask("len", [self]))

    def __getitem__(self, key: Any) -> Any:
        return self._ask("item", [self, key])


def number_of(thing: Any) -> int:
    if not isinstance(thing, Theirs):
        raise TypeError(f"a test can give a program plain values, not {type(thing).__name__}")
    return thing._number


def renew(old: Any, new: Any) -> None:
    """An argument takes the value that the program left it with."""
    if isinstance(old, list | bytearray):
        old[:] = new
    elif isinstance(old, dict | set):
        old.clear()
        old.update(new)


def judge(path: str, subject: str, source: IO[bytes], sink: IO[bytes]) -> None:
    """Runs the test. Raises whatever it raises, and what the program raised."""

    def heard(arguments: Sequence[Any]) -> Any:
        if not (line := source.readline(LONGEST)).endswith(b"\n"):
            raise SystemExit(1)  # the program's process is gone, or floods this one
        said = json.loads(line)
        if "error" in said:
            raise read_error(said["error"], said["words"])
        if "arguments" in said:
            for old, new in zip(arguments, unpack(said["arguments"], find), strict=True):
                renew(old, new)
        return unpack(said["value"], find)

    def ask(act: str, arguments: Sequence[Any], keywords: Mapping[str, Any] | None = None) -> Any:
        question = [act, pack(list(arguments), number_of), pack(dict(keywords or {}), number_of)]
        sink.write(json.dumps(question).encode() + b"\n")
        sink.flush()
        return heard(arguments)

    def find(number: int) -> Theirs:
        return Theirs(ask, number)

    heard(())  # the program has run
    tree = ast.parse(Path(path).read_bytes())
    python = {name for name in dir(builtins) if name != subject} | {"__builtins__"}
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} - python
    found = ask("names", sorted(names))
    run(path, {name: found[name] for name in names & set(found)})  # and no other that it may say


def read_error(kind: str, words: Sequence[str]) -> BaseException:
    """An exception of the program's; one of a kind of its own comes as the built-in kind that it is derived from."""
    found = getattr(builtins, kind, RuntimeError)
    if not isinstance(found, type) or not issubclass(found, Exception):
        return SystemExit(1)
    try:
        return found(*words)
    except TypeError:
        return RuntimeError(*words)


def main(program: str, test: str, subject: str, seconds: int, memory: int) -> None:
    questions, answers = os.pipe(), os.pipe()
    sys.dont_write_bytecode = True
    if os.fork() == 0:
        confine(seconds, memory, (questions[0], answers[1]), 0)
        with os.fdopen(questions[0], "rb") as source, os.fdopen(answers[1], "wb") as sink:
            serve(program, source, sink)
        return
    out = os.dup(1)
    confine(seconds, memory, (out, answers[0], questions[1]), len(PASSED))
    with os.fdopen(answers[0], "rb") as source, os.fdopen(questions[1], "wb") as sink:
        judge(test, subject, source, sink)
        os.write(out, PASSED)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
