"""Runs one program in a process that can compute and read, and nothing else. Started by `sandbox`, never imported.

Linux on x86-64: a seccomp filter that allows what an interpreter needs and refuses every other system call (no socket, fork, exec, kill,
no file opened for writing), and limits of time and memory. The filter is one way: the program cannot take it off. Arguments: the
program's path, seconds, bytes. The first line of stdin is written to stdout only after the program has ended without an exception.
"""

from __future__ import annotations

import ctypes
import os
import resource
import runpy
import struct
import sys

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
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong]
    for option, first, second in ((38, 1, None), (22, 2, ctypes.addressof(program))):  # no new privileges; seccomp filter
        if prctl(option, first, second, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "the kernel refuses the filter")


def main(path: str, seconds: int, memory: int) -> None:
    token, out = sys.stdin.readline(), os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    for kind, most in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 32),
    ):
        resource.setrlimit(kind, (most, most))
    install()
    runpy.run_path(path, run_name="__main__")
    os.write(out, token.encode())


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
