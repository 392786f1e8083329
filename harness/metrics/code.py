"""Does generated code pass its tests? pass@k, by the unbiased estimator of Chen et al. 2021; programs run in the sandbox or not at all."""

from __future__ import annotations

import ast
import math

from assay.harness.errors import AssayError
from assay.harness.files.sandbox import passes, require_sandbox
from assay.harness.task.doc import Doc
from assay.harness.task.metric import Metric, Stats
from assay.harness.task.output import Completion

__all__ = ["estimate", "pass_at", "require_sandbox"]


def estimate(samples: int, right: int, k: int) -> float:
    """1 - C(samples - right, k) / C(samples, k): the chance that one of k samples is right. Raises ValueError for fewer than k."""
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} needs at least {k} samples, not {samples}")
    return 1.0 - math.comb(samples - right, k) / math.comb(samples, k)


def given(prompt: str) -> tuple[str, str]:
    """What the prompt itself defines before the function that is to be completed, and that function's name; no more than it parses to."""
    try:
        *before, last = ast.parse(prompt).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return "", ""
    if not isinstance(last, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return "", ""
    return "".join(f"{ast.unparse(each)}\n" for each in before), last.name


def pass_at(k: int) -> Metric[Completion]:
    """pass@k of programs made of the prompt, the generated text and `Doc.meta["test"]`, which must raise nothing.

    The test is run where the program cannot reach it, with what the prompt defines before its last function.
    """

    def measure(doc: Doc, output: Completion) -> Stats:
        require_sandbox()
        if "test" not in doc.meta:
            raise AssayError("no test to run", where=doc.id, do='give Doc(meta={"test": ...})')
        texts = output.samples or (output.text,)
        helpers, subject = given(doc.prompt)
        test = f"{helpers}{doc.meta['test']}\n"
        right = sum(passes(f"{doc.prompt}{text}\n", test, subject=subject) for text in texts)
        return (estimate(len(texts), right, k),)

    return Metric(f"pass@{k}", measure, reads=Completion, signature="unbiased|seccomp")
