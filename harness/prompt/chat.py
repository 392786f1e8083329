"""Messages to text by a model's own chat template, which is a stranger's program: so it runs in a process of its own (chat_child.py)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from assay.harness.errors import AssayError
from assay.harness.prompt.render import Message
from assay.harness.task.doc import is_text

CHILD = Path(__file__).with_name("chat_child.py")
BATCH = 1000
SECONDS = 5
"""CPU seconds for a batch, imports aside."""
PATIENCE = 120
"""Seconds on the clock; only a process that waits takes so long."""


def render_chats(template: str, tokens: Mapping[str, Any], chats: Sequence[list[Message]], where: str, seconds: int = SECONDS) -> list[str]:
    """The text of each chat up to where the assistant speaks, exactly as transformers renders it.

    `tokens` are the special tokens by name. Raises AssayError for a template that fails, refuses the messages, takes more than
    `seconds` or 1 GiB, gives far more text than it was given, or reaches for what the sandbox withholds.
    """
    texts: list[str] = []
    for start in range(0, len(chats), BATCH):
        texts += render_batch(template, tokens, chats[start : start + BATCH], where, seconds)
    return texts


def render_batch(template: str, tokens: Mapping[str, Any], chats: Sequence[list[Message]], where: str, seconds: int) -> list[str]:
    request = json.dumps({"template": template, "tokens": dict(tokens), "chats": list(chats), "seconds": seconds}, default=str)
    command = [sys.executable, "-I", str(CHILD)]
    try:
        done = subprocess.run(command, input=request.encode(), capture_output=True, timeout=PATIENCE, env={}, check=False)
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
        texts, reason = texts[:broken], "it gives half of a surrogate pair, which is no text"
    if not reason:
        reason = f"it takes more than {seconds} s of time" if code < 0 else "it ended its process"
    what = f"the chat template cannot render message {len(texts) + 1}: {reason}"
    raise AssayError(what, where=where, do="mend chat_template.jinja (or tokenizer_config.json), or run without --chat")
