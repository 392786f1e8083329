"""The child process of assay.harness.engines.child: opens an engine, reads requests from stdin and writes replies to stdout.

When the owner closes stdin, this process and its children are killed. SIGTERM and SIGINT are ignored: the owner handles them.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from assay.harness.engines import Engine, Settings
from assay.harness.engines.hf.forward import out_of_memory
from assay.harness.engines.opening import open_engine
from assay.harness.engines.wire import Message, counts, line, pack_error, pack_reply, read_generation, read_group, read_model
from assay.harness.errors import AssayError, Incomplete, redact

HEARTBEAT = 0.5
"""Seconds between two checks of the engine's counters."""
Send = Callable[[Message], None]


def main() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # not SIG_IGN, which child processes would inherit
    stdout = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is sent to stderr: stdout holds messages only
    lock = threading.Lock()

    def send(message: Message) -> None:
        with lock:
            stdout.write(line(message))
            stdout.flush()

    inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
    threading.Thread(target=listen, args=(sys.stdin.buffer, inbox), daemon=True).start()
    try:
        serve(iter(inbox.get, None), send)
    except BaseException as error:  # the owner gets the reason and starts a new process
        send_death(error, send)
    os._exit(0)


def listen(source: IO[bytes], inbox: queue.SimpleQueue[Message]) -> None:
    """Read messages as they arrive, so that the owner never waits. Ends this process when the owner closes the pipe."""
    for received in source:
        inbox.put(json.loads(received))
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def send_death(error: BaseException, send: Send) -> None:
    text = str(error).strip().splitlines()
    reason = text[0] if isinstance(error, AssayError) else f"{type(error).__name__}: {text[-1] if text else ''}"
    try:
        send({"is": "died", "reason": redact(reason)[:400], "memory": any(map(out_of_memory, filter(None, (error, error.__cause__))))})
    finally:
        os._exit(1)


def serve(inbox: Iterator[Message], send: Send) -> None:
    """Open an engine and handle messages until one is to close. Raises every error of the engine but AssayError."""
    opening = next(inbox)
    try:
        engine = open_engine(opening["engine"], read_model(opening["model"]), Settings(**opening["settings"]))
    except AssayError as error:
        send({"is": "error", **pack_error(error)})
        return
    limits = [engine.limits.positions, engine.limits.vocabulary]
    send({"is": "open", "name": engine.name, "limits": limits, **state(engine)})
    threading.Thread(target=send_heartbeats, args=(engine, send), daemon=True).start()
    for message in inbox:
        if message["do"] == "close":
            engine.close()
            return
        try:
            handle(engine, message, inbox, send)
            send({"is": "done", **state(engine)})
        except Incomplete:
            raise
        except AssayError as error:
            send({"is": "error", **pack_error(error)})


def state(engine: Engine) -> dict[str, Any]:
    return {"stats": counts(engine.stats), "notes": list(engine.stats.notes), "facts": engine.describe()}


def handle(engine: Engine, message: Message, inbox: Iterator[Message], send: Send) -> None:
    if message["do"] == "swap":
        engine.swap(Path(message["weights"]))
        return
    requests = [next(inbox)["ask"] for _ in range(message["count"])]
    if message["do"] in ("score", "plain"):
        # Only engines whose owner asks for a proof have a plain way.
        for index, reply in getattr(engine, message["do"])([read_group(each) for each in requests]):
            send({"is": "reply", "index": index, "reply": pack_reply(reply), "stats": counts(engine.stats)})
    else:
        for index, response in engine.generate([read_generation(each) for each in requests]):
            send({"is": "reply", "index": index, "reply": pack_reply(response), "stats": counts(engine.stats)})


def send_heartbeats(engine: Engine, send: Send) -> None:
    """Send a message whenever a counter of the engine has changed; a frozen engine sends none."""
    earlier: list[int] = []
    never = threading.Event()
    while not never.wait(HEARTBEAT):
        now = counts(engine.stats)
        if now != earlier:
            earlier = now
            send({"is": "beat"})


if __name__ == "__main__":
    main()
