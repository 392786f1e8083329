"""The process that an engine lives in. Started by assay.harness.engines.child; reads requests from stdin, answers on what was stdout.

It ends with its owner: when stdin closes, it and all its own children are killed. SIGTERM and SIGINT are the owner's business.
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

BEAT = 0.5
Tell = Callable[[Message], None]


def main() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # not SIG_IGN, which processes of its own would inherit
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever libraries print is no message
    turn = threading.Lock()

    def tell(message: Message) -> None:
        with turn:
            out.write(line(message))
            out.flush()

    inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
    threading.Thread(target=listen, args=(sys.stdin.buffer, inbox), daemon=True).start()
    try:
        serve(iter(inbox.get, None), tell)
    except BaseException as error:  # the owner hears why, and starts another
        last_words(error, tell)
    os._exit(0)


def listen(source: IO[bytes], inbox: queue.SimpleQueue[Message]) -> None:
    """Reads at once whatever comes, so that the owner never waits; its end is ours too."""
    for said in source:
        inbox.put(json.loads(said))
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def last_words(error: BaseException, tell: Tell) -> None:
    text = str(error).strip().splitlines()
    reason = text[0] if isinstance(error, AssayError) else f"{type(error).__name__}: {text[-1] if text else ''}"
    try:
        tell({"is": "died", "reason": redact(reason)[:400], "memory": any(map(out_of_memory, filter(None, (error, error.__cause__))))})
    finally:
        os._exit(1)


def serve(inbox: Iterator[Message], tell: Tell) -> None:
    """Opens an engine, then answers until told to close. Raises whatever the engine dies of."""
    opening = next(inbox)
    try:
        engine = open_engine(opening["engine"], read_model(opening["model"]), Settings(**opening["settings"]))
    except AssayError as error:
        tell({"is": "error", **pack_error(error)})
        return
    limits = [engine.limits.positions, engine.limits.vocabulary]
    tell({"is": "open", "name": engine.name, "limits": limits, **state(engine)})
    threading.Thread(target=beat, args=(engine, tell), daemon=True).start()
    for message in inbox:
        if message["do"] == "close":
            engine.close()
            return
        try:
            obey(engine, message, inbox, tell)
            tell({"is": "done", **state(engine)})
        except Incomplete:
            raise
        except AssayError as error:
            tell({"is": "error", **pack_error(error)})


def state(engine: Engine) -> dict[str, Any]:
    return {"stats": counts(engine.stats), "notes": list(engine.stats.notes), "facts": engine.describe()}


def obey(engine: Engine, message: Message, inbox: Iterator[Message], tell: Tell) -> None:
    if message["do"] == "swap":
        engine.swap(Path(message["weights"]))
        return
    asked = [next(inbox)["ask"] for _ in range(message["count"])]
    if message["do"] == "score":
        for index, reply in engine.score([read_group(each) for each in asked]):
            tell({"is": "reply", "index": index, "reply": pack_reply(reply), "stats": counts(engine.stats)})
    else:
        for index, said in engine.generate([read_generation(each) for each in asked]):
            tell({"is": "reply", "index": index, "reply": pack_reply(said), "stats": counts(engine.stats)})


def beat(engine: Engine, tell: Tell) -> None:
    """A sign of life whenever the engine got further; an engine that stands still gives none."""
    before: list[int] = []
    pause = threading.Event()
    while not pause.wait(BEAT):
        now = counts(engine.stats)
        if now != before:
            before = now
            tell({"is": "beat"})


if __name__ == "__main__":
    main()
