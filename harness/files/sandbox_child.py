"""Run one program and, in another process, its test; both can compute and read, and nothing else. Started by `sandbox`.

Linux on x86-64: a seccomp filter that allows what an interpreter needs and refuses every other system call (no socket, fork, exec, kill,
no file opened for writing), limits of time and memory, and a user namespace or a Landlock domain, which hides all other processes.
None of it can be undone by the program.

The verdict is written by the test's process, which runs no code of the program and has the only open output: the program cannot reach it.
The test's process requests names, calls, attributes and items from the program's process. Plain values are returned as JSON, any other
object as a number (`RemoteObject`). Built-in names are Python's own in the test, except the name that is tested.
Arguments: the paths of program and test, the tested name, CPU seconds, bytes of memory.
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
REPLY_BYTES = 1 << 26
"""Maximum size of one reply of the program's process."""
ARCHITECTURE, OPENAT = 0xC000003E, 257
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
ALLOWED = (
    *(0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 19, 20),  # read, write, close, stat, poll, lseek, memory, signals, ioctl
    *(21, 23, 24, 25, 28, 32, 33, 35, 39, 60, 63, 72, 79, 89, 96, 97, 99),  # access, select, sched_yield, dup, nanosleep, getpid, exit, ...
    *(102, 104, 107, 108, 110, 131, 158, 186, 201, 202, 204, 217, 218, 219),  # ids, sigaltstack, arch_prctl, time, futex, getdents
    *(228, 229, 230, 231, 262, 267, 269, 270, 271, 273, 302, 318, 332, 334, 439),  # clocks, exit_group, newfstatat, getrandom, statx, rseq
)
"""Numbers of allowed system calls; openat is allowed for reading, prlimit64 (302) cannot raise the limits set here."""


def instruction(code: int, yes: int, no: int, value: int) -> bytes:
    """Return one BPF instruction; `yes` and `no` are the jumps."""
    return struct.pack("HBBI", code, yes, no, value)


def filter_program() -> bytes:
    """Return the filter in BPF: checks the architecture, then the flags of openat, then the list; every other call fails with EPERM."""
    load, equal, any_bit, give = 0x20, 0x15, 0x45, 0x06
    allow, refuse, kill = 0x7FFF0000, 0x00050001, 0x80000000
    head = [
        instruction(load, 0, 0, 4),
        instruction(equal, 1, 0, ARCHITECTURE),
        instruction(give, 0, 0, kill),
        instruction(load, 0, 0, 0),
        instruction(equal, 0, 4, OPENAT),
        instruction(load, 0, 0, 32),
        instruction(any_bit, 0, 1, WRITING),
        instruction(give, 0, 0, refuse),
        instruction(give, 0, 0, allow),
    ]
    checks = [part for number in ALLOWED for part in (instruction(equal, 0, 1, number), instruction(give, 0, 0, allow))]
    return b"".join([*head, *checks, instruction(give, 0, 0, refuse)])


def install_filter() -> None:
    """Apply the filter to this process. Raises OSError if the kernel refuses."""
    body = filter_program()
    buffer = ctypes.create_string_buffer(body, len(body))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(body) // 8, ctypes.addressof(buffer)), 16)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong]
    isolate(libc)
    for option, first, second in ((1, 9, None), (22, 2, ctypes.addressof(program))):  # killed when the parent ends; seccomp filter
        if libc.prctl(option, first, second, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "the kernel refuses the filter")


def isolate(libc: Any) -> None:
    """Isolate this process from all others. Some machines support only one of the two ways; the self-test fails where neither works."""
    libc.unshare(0x10000000)  # a new user namespace
    if libc.prctl(38, 1, None, 0, 0) != 0:  # no new privileges
        raise OSError(ctypes.get_errno(), "the kernel refuses to drop privileges")
    access = struct.pack("Q", 1 << 1)
    if (domain := libc.syscall(444, access, len(access), 0)) >= 0:  # Landlock, without a rule that allows anything
        libc.syscall(446, domain, 0)
        os.close(domain)


def confine(seconds: int, memory: int, kept: Sequence[int], written: int) -> None:
    """Set the limits and the filter, and close all files except `kept`. `written`: maximum bytes in a file that is still open."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
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
    install_filter()


def run_file(path: str, names: Mapping[str, Any]) -> dict[str, Any]:
    """Run a file as __main__ with these names predefined. Returns all its names."""
    spec = importlib.util.spec_from_file_location("__main__", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    module.__dict__.update(names)
    sys.modules["__main__"] = module
    spec.loader.exec_module(module)
    return module.__dict__


CONTAINERS: Mapping[str, Callable[[Any], Any]] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset, "dict": dict}
BYTES: Mapping[str, Any] = {"bytes": bytes, "bytearray": bytearray}
JSON_INT_LIMIT = 1 << 63


def pack(value: Any, number_of: Callable[[Any], int]) -> Any:
    """Return a value as JSON; an object that is not plain as its number."""
    if isinstance(value, int) and not -JSON_INT_LIMIT <= value < JSON_INT_LIMIT:
        return ["int", hex(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return ["dict", [["tuple", [pack(key, number_of), pack(each, number_of)]] for key, each in value.items()]]
    for name in ("list", "tuple", "set", "frozenset"):
        if isinstance(value, CONTAINERS[name]):  # type: ignore[arg-type]
            return [name, [pack(each, number_of) for each in value]]
    for name, kind in BYTES.items():
        if isinstance(value, kind):
            return [name, value.hex()]
    if isinstance(value, complex):
        return ["complex", [value.real, value.imag]]
    return ["object", number_of(value)]


def unpack(packed: Any, find: Callable[[int], Any]) -> Any:
    """Return the value that was packed; `find` returns the object with a number."""
    if not isinstance(packed, list):
        return packed
    name, inner = packed
    if name == "int":
        return int(inner, 16)
    if name == "object":
        return find(inner)
    if name == "complex":
        return complex(*inner)
    if name in BYTES:
        return BYTES[name].fromhex(inner)
    return CONTAINERS[name](unpack(each, find) for each in inner)


# The program's side


class ObjectTable:
    """The objects of the program that the test refers to by number."""

    def __init__(self) -> None:
        self.objects: list[Any] = []
        self.numbers: dict[int, int] = {}

    def number_of(self, value: Any) -> int:
        if id(value) not in self.numbers:
            self.numbers[id(value)] = len(self.objects)
            self.objects.append(value)
        return self.numbers[id(value)]

    def find(self, number: int) -> Any:
        return self.objects[number]


def serve(path: str, source: IO[bytes], sink: IO[bytes]) -> None:
    """Run the program, send the outcome, then answer requests until `source` ends."""
    table = ObjectTable()
    names: dict[str, Any] = {}

    def select_names(*wanted: str) -> dict[str, Any]:
        return {name: names[name] for name in wanted if name in names}

    def call(function: Any, /, *arguments: Any, **keywords: Any) -> Any:
        return function(*arguments, **keywords)

    actions: Mapping[str, Callable[..., Any]] = {
        "names": select_names,
        "call": call,
        "attribute": getattr,
        "list": list,
        "next": next,
        "len": len,
        "item": operator.getitem,
    }

    def answer(action: str, packed: Any, packed_keywords: Any) -> dict[str, Any]:
        arguments, keywords = unpack(packed, table.find), unpack(packed_keywords, table.find)
        reply = {"value": pack(actions[action](*arguments, **keywords), table.number_of)}
        if (after := pack(arguments, table.number_of)) != packed:  # changed in place
            reply["arguments"] = after
        return reply

    def send(make_reply: Callable[[], dict[str, Any]]) -> None:
        try:
            reply = make_reply()
        except BaseException as error:  # also SystemExit
            kind = next(each.__name__ for each in type(error).__mro__ if each.__module__ == "builtins")
            reply = {"error": kind, "args": [str(each) for each in error.args]}
        sink.write(json.dumps(reply).encode() + b"\n")
        sink.flush()

    send(lambda: names.update(run_file(path, {})) or {"value": None})
    for line in source:
        send(lambda line=line: answer(*json.loads(line)))  # type: ignore[misc]


# The test's side


class RemoteObject:
    """An object of the program that is not a plain value: it can be called, iterated and indexed, and has attributes and a length."""

    __slots__ = ("_number", "_request")

    def __init__(self, request: Callable[..., Any], number: int) -> None:
        self._request, self._number = request, number

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self._request("call", [self, *arguments], keywords)

    def __getattr__(self, name: str) -> Any:
        return self._request("attribute", [self, name])

    def __iter__(self) -> Any:
        return iter(self._request("list", [self]))

    def __next__(self) -> Any:
        return self._request("next", [self])

    def __len__(self) -> int:
        return int(self._request("len", [self]))

    def __getitem__(self, key: Any) -> Any:
        return self._request("item", [self, key])


def remote_number(value: Any) -> int:
    if not isinstance(value, RemoteObject):
        raise TypeError(f"a test can pass only plain values to a program, not {type(value).__name__}")
    return value._number


def update_in_place(old: Any, new: Any) -> None:
    """Give an argument the value that the program changed it to."""
    if isinstance(old, list | bytearray):
        old[:] = new
    elif isinstance(old, dict | set):
        old.clear()
        old.update(new)


def run_test(path: str, subject: str, source: IO[bytes], sink: IO[bytes]) -> None:
    """Run the test. Raises whatever the test or the program raised."""

    def receive(arguments: Sequence[Any]) -> Any:
        if not (line := source.readline(REPLY_BYTES)).endswith(b"\n"):
            raise SystemExit(1)  # the program's process has ended, or its reply is too long
        reply = json.loads(line)
        if "error" in reply:
            raise rebuild_error(reply["error"], reply["args"])
        if "arguments" in reply:
            for old, new in zip(arguments, unpack(reply["arguments"], find), strict=True):
                update_in_place(old, new)
        return unpack(reply["value"], find)

    def request(action: str, arguments: Sequence[Any], keywords: Mapping[str, Any] | None = None) -> Any:
        message = [action, pack(list(arguments), remote_number), pack(dict(keywords or {}), remote_number)]
        sink.write(json.dumps(message).encode() + b"\n")
        sink.flush()
        return receive(arguments)

    def find(number: int) -> RemoteObject:
        return RemoteObject(request, number)

    receive(())  # the program has run
    tree = ast.parse(Path(path).read_bytes())
    python = {name for name in dir(builtins) if name != subject} | {"__builtins__"}
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} - python
    found = request("names", sorted(names))
    run_file(path, {name: found[name] for name in names & set(found)})  # ignores names that were not requested


def rebuild_error(kind: str, arguments: Sequence[str]) -> BaseException:
    """Return an exception of the program; a type of the program's own becomes the built-in type that it is derived from."""
    found = getattr(builtins, kind, RuntimeError)
    if not isinstance(found, type) or not issubclass(found, Exception):
        return SystemExit(1)
    try:
        return found(*arguments)
    except TypeError:
        return RuntimeError(*arguments)


def main(program: str, test: str, subject: str, seconds: int, memory: int) -> None:
    requests, replies = os.pipe(), os.pipe()
    sys.dont_write_bytecode = True
    if os.fork() == 0:
        confine(seconds, memory, (requests[0], replies[1]), 0)
        with os.fdopen(requests[0], "rb") as source, os.fdopen(replies[1], "wb") as sink:
            serve(program, source, sink)
        return
    out = os.dup(1)
    confine(seconds, memory, (out, replies[0], requests[1]), len(PASSED))
    with os.fdopen(replies[0], "rb") as source, os.fdopen(requests[1], "wb") as sink:
        run_test(test, subject, source, sink)
        os.write(out, PASSED)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
