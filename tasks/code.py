"""HumanEval: programs generated from docstrings and run against unit tests in a sandbox.

Disabled if the self-test of the sandbox fails: loading the data then raises an error, before a model is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay import Access, Completion, Doc, Family, Generate, Metric, Task, Worked, hub
from assay.harness.metrics.code import pass_at, require_sandbox

if TYPE_CHECKING:
    from assay.harness.task.doc import Row
    from assay.harness.task.source import Rows, Source

REVISION = "7dce6050a7d6d172f3cc5c32aa97f52fa1a2e544"
STOP = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
"""Stop sequences of Chen et al. 2021: the start of the next statement at top level."""


@dataclass(frozen=True, slots=True)
class SandboxedRows:
    """Rows of a task that runs generated programs. Loading them raises AssayError if the sandbox does not work."""

    source: Source

    def at(self, home: Path) -> SandboxedRows:
        return self

    def splits(self, access: Access) -> tuple[str, ...]:
        return self.source.splits(access)

    def load(self, split: str, access: Access) -> Rows:
        require_sandbox()
        return self.source.load(split, access)


def humaneval(row: Row) -> Doc:
    test = f"{row['test']}\ncheck({row['entry_point']})"
    return Doc(row["prompt"], references=(row["canonical_solution"],), id=row["task_id"], meta={"test": test})


ROW: dict[str, Any] = {
    "task_id": "own/0",
    "prompt": 'def twice(x):\n    """Two times x."""\n',
    "canonical_solution": "    return 2 * x\n",
    "test": "def check(candidate):\n    assert candidate(3) == 6\n",
    "entry_point": "twice",
}


INSTRUCTION = "Complete this Python function. Answer with the whole function in one code block."


def instruct(row: Row) -> Doc:
    """The question as a chat message, and the whole function in a code block as its answer."""
    plain, code = humaneval(row), row["prompt"].strip("\n")
    answer = f"```python\n{code}\n{row['canonical_solution'].rstrip()}\n```"
    prompt = f"{INSTRUCTION}\n\n```python\n{code}\n```\n"
    return replace(plain, prompt=prompt, references=(answer,), meta={**plain.meta, "code": row["prompt"]})


def code_task(protocol: str, ask: Generate, metrics: tuple[Metric[Completion], ...], how: str) -> Task:
    return Task(
        name="code/humaneval",
        rows=SandboxedRows(hub("openai/openai_humaneval", "openai_humaneval", revision=REVISION)),
        doc=humaneval,
        ask=ask,
        metrics=metrics,
        split="test",
        protocol=protocol,
        worked=(Worked(ROW, ROW["prompt"], ROW["canonical_solution"]),),
        about=f"164 functions to complete from their docstrings, scored by unit tests in a sandbox; {how}.",
        licence="MIT",
        citation="Chen et al. 2021, Evaluating Large Language Models Trained on Code",
    )


GREEDY = code_task("greedy", Generate(512, STOP), (pass_at(1),), "one greedy completion")
LM_EVAL = code_task("lm-eval", Generate(1024, STOP), (pass_at(1),), "one greedy completion of at most 1,024 tokens, as lm-eval's humaneval")
SAMPLED = code_task("sampled", Generate(512, STOP, temperature=0.8, samples=20), (pass_at(1), pass_at(10)), "20 samples at temperature 0.8")
INSTRUCT = replace(
    code_task("instruct", Generate(1024), (pass_at(1, fenced=True),), "one greedy chat response, of which the code block is read"),
    doc=instruct,
    worked=(Worked(ROW, instruct(ROW).prompt, '```python\ndef twice(x):\n    """Two times x."""\n    return 2 * x\n```'),),
)
TASKS = (GREEDY, LM_EVAL, SAMPLED, INSTRUCT)
FAMILIES = (
    Family("code", (GREEDY, SAMPLED), about="Generated programs, run in a sandbox. Disabled if its self-test fails."),
    Family("humaneval", (LM_EVAL,), about="HumanEval in lm-eval's protocol."),
    Family("code@instruct", (INSTRUCT,), about="The same for chat models: run with --chat. The response's code block is the program."),
)
