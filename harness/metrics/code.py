"""pass@k of generated programs, by the unbiased estimator of Chen et al. 2021. Programs run only in the sandbox."""

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


def definitions(prompt: str) -> tuple[str, str]:
    """The prompt's definitions before the function to complete, and that function's name; both empty where the prompt does not parse."""
    try:
        *before, last = ast.parse(prompt).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return "", ""
    if not isinstance(last, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return "", ""
    return "".join(f"{ast.unparse(each)}\n" for each in before), last.name


def pass_at(k: int) -> Metric[Completion]:
    """pass@k of programs made of the prompt and the generated text; the test `Doc.meta["test"]` must raise no exception.

    The test runs in a process that the program cannot reach, with the prompt's definitions before its last function.
    """

    def measure(doc: Doc, output: Completion) -> Stats:
        require_sandbox()
        if "test" not in doc.meta:
            raise AssayError("no test to run", where=doc.id, do='give Doc(meta={"test": ...})')
        texts = output.samples or (output.text,)
        helpers, subject = definitions(doc.prompt)
        test = f"{helpers}{doc.meta['test']}\n"
        right = sum(passes(f"{doc.prompt}{text}\n", test, subject=subject) for text in texts)
        return (estimate(len(texts), right, k),)

    return Metric(f"pass@{k}", measure, reads=Completion, signature="unbiased|seccomp")
