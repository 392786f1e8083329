"""Render messages with a model's chat template. Templates are untrusted programs, so they run in a separate process (chat_child.py)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from assay.harness.errors import AssayError
from assay.harness.prompt.render import Message
from assay.harness.store.plan import DATE
from assay.harness.task.doc import is_text

CHILD = Path(__file__).with_name("chat_child.py")
BATCH = 1000
CPU_SECONDS = 5
"""CPU seconds per batch, without imports."""
WALL_SECONDS = 120
"""Wall-clock seconds per batch; only a blocked process takes this long."""


@dataclass(frozen=True, slots=True)
class TemplateCall:
    """How a template is called: with the generation prompt or without, its keyword `arguments`, and the `date` (ISO) that it sees."""

    prompt: bool = True
    arguments: Mapping[str, Any] = field(default_factory=dict)
    date: str = DATE


CALL = TemplateCall()


def render_chats(
    template: str,
    tokens: Mapping[str, Any],
    chats: Sequence[list[Message]],
    where: str,
    seconds: int = CPU_SECONDS,
    call: TemplateCall = CALL,
) -> list[str]:
    """Render each chat exactly as transformers does, but for the date; with content parts where the template shows no text without.

    `tokens` are the special tokens by name. Raises AssayError for a template that fails, rejects the messages, takes more than
    `seconds` of CPU time or 1 GiB, returns far more text than the messages have, or accesses what the sandbox forbids.
    """
    texts: list[str] = []
    for start in range(0, len(chats), BATCH):
        request = {"template": template, "tokens": dict(tokens), "chats": list(chats[start : start + BATCH]), "seconds": seconds}
        request |= {"prompt": call.prompt, "arguments": dict(call.arguments), "date": call.date}
        texts += render_batch(request, where, start)
    return texts


def render_batch(request: Mapping[str, Any], where: str, first: int) -> list[str]:
    """Render one batch in one process. `first` is the number of prompts before it."""
    chats, seconds = request["chats"], request["seconds"]
    command = [sys.executable, "-I", str(CHILD)]
    try:
        done = subprocess.run(
            command, input=json.dumps(request, default=str).encode(), capture_output=True, timeout=WALL_SECONDS, env={}, check=False
        )
        output, code = done.stdout, done.returncode
    except subprocess.TimeoutExpired:
        output, code = b"", -9
    replies = [json.loads(line) for line in output.splitlines() if line.endswith(b"}")]
    texts = [str(reply["text"]) for reply in replies if "text" in reply]
    broken = next((number for number, text in enumerate(texts) if not is_text(text)), None)
    if len(texts) == len(chats) and broken is None:
        return texts
    reason = next((str(reply["error"]) for reply in replies if "error" in reply), "")
    if broken is not None:
        texts, reason = texts[:broken], "it returned half of a surrogate pair, which is not valid text"
    if not reason:
        reason = f"it takes more than {seconds} s of CPU time" if code < 0 else "its process ended"
    what = f"the chat template cannot render prompt {first + len(texts) + 1}: {reason}"
    raise AssayError(what, where=where, do="fix chat_template.jinja (or tokenizer_config.json), or run without --chat")
