"""pass@k of generated programs, by the unbiased estimator of Chen et al. 2021. Programs run only in the sandbox."""

from __future__ import annotations

import ast
import math
import re
import textwrap

from assay.harness.errors import AssayError
from assay.harness.files.sandbox import passes, require_sandbox
from assay.harness.task.doc import Doc
from assay.harness.task.metric import Metric, Stats
from assay.harness.task.output import Completion

FENCE = re.compile(r"^[ \t]*(```+|~~~+)[^\n`]*\n(.*?)(?:^[ \t]*\1[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
"""A Markdown code block: its fence, then its content."""

__all__ = ["estimate", "pass_at", "require_sandbox"]


def estimate(samples: int, right: int, k: int) -> float:
    """1 - C(samples - right, k) / C(samples, k): the chance that one of k samples is right. Raises ValueError for fewer than k."""
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} needs at least {k} samples, not {samples}")
    return 1.0 - math.comb(samples - right, k) / math.comb(samples, k)


def definitions(prompt: str) -> tuple[str, str]:
    """The prompt's definitions before the function to complete, and that function's name; both empty where the prompt does not parse."""
    try:
        *before, last = ast.parse(prompt).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return "", ""
    if not isinstance(last, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return "", ""
    return "".join(f"{ast.unparse(each)}\n" for each in before), last.name


def blocks(text: str) -> list[str]:
    """The fenced code blocks of a text; the last may be unclosed."""
    return [found.group(2) for found in FENCE.finditer(text)]


def in_chat(text: str) -> bool:
    """Whether a text is a message with a code block rather than the continuation of a program."""
    return FENCE.search(text) is not None and not text.lstrip("\n").startswith((" ", "\t"))


def whole_program(prompt: str, text: str) -> str:
    """The program of a chat response: the last code block that defines the prompt's last function, after the prompt's other definitions.

    A block without that function continues the prompt; without any block the text is the block.
    """
    helpers, subject = definitions(prompt)
    defines = re.compile(rf"^(?:async\s+def|def|class)\s+{re.escape(subject)}\b", re.MULTILINE)
    found = blocks(text) or [text]
    if subject and (own := [block for block in map(textwrap.dedent, found) if defines.search(block)]):
        return f"{helpers}{own[-1]}\n"
    return f"{prompt}{found[-1]}\n"


def pass_at(k: int, *, fenced: bool = False) -> Metric[Completion]:
    """pass@k of programs made of the prompt and the generated text; the test `Doc.meta["test"]` must raise no exception.

    `fenced`: the response is a chat message; its code block is the program, and `Doc.meta["code"]` the code that it completes. Without
    it, a response with a code block counts as unparsed. The test runs in a process that the program cannot reach, with the prompt's
    definitions before its last function.
    """

    def program(prompt: str, text: str) -> str:
        return whole_program(prompt, text) if fenced else f"{prompt}{text}\n"

    def measure(doc: Doc, output: Completion) -> Stats:
        require_sandbox()
        if "test" not in doc.meta:
            raise AssayError("no test to run", where=doc.id, do='give Doc(meta={"test": ...})')
        texts = output.samples or (output.text,)
        prompt = str(doc.meta["code"]) if fenced else doc.prompt
        helpers, subject = definitions(prompt)
        test = f"{helpers}{doc.meta['test']}\n"
        right = sum(passes(program(prompt, text), test, subject=subject) for text in texts)
        return (estimate(len(texts), right, k),)

    def parses(doc: Doc, output: Completion) -> bool:
        return bool(blocks(output.text)) if fenced else not in_chat(output.text)

    return Metric(f"pass@{k}", measure, reads=Completion, parses=parses, signature="unbiased|seccomp" + "|code-block" * fenced)
