"""The suite that papers report first, in lm-eval's protocol: `core`, and `core-instruct` for chat models.

Prompts, metrics and the order of equal choices are those of lm-eval 0.4.13; results/checks/CORE.md compares them item by item. GPQA
(gated, its options are shuffled when they are loaded) and IFEval (its checks are a library of lm-eval's) run through lm-eval itself.
"""

from __future__ import annotations

from pathlib import Path

from assay import Access, Family, Task
from assay.tasks._core.choices import CHOICE_TASKS
from assay.tasks._core.generated import GENERATED_TASKS, GSM8K, MATH_500_CHAT, MMLU_PRO_TASKS
from assay.tasks.code import INSTRUCT as HUMANEVAL
from assay.tasks.lm_eval import from_reference
from assay.tasks.mmlu import LETTER_TASKS, total
from assay.tasks.superglue import BOOLQ

TASKS: tuple[Task, ...] = (*CHOICE_TASKS, *GENERATED_TASKS)
MMLU = tuple(LETTER_TASKS.values())
MMLU_PRO = total("mmlu_pro/micro", MMLU_PRO_TASKS, True)
FAMILIES = (
    Family(
        "core",
        (*CHOICE_TASKS, BOOLQ, GSM8K, *MMLU),
        (total("mmlu/micro@lm-eval", MMLU, True),),
        "ARC, HellaSwag, PIQA, WinoGrande, OpenBookQA, BoolQ, TruthfulQA, LAMBADA, GSM8K and MMLU, in lm-eval's protocol. GSM8K shows all "
        "items the same five examples, where lm-eval draws others for each item.",
    ),
    Family("boolq", (BOOLQ,), about="BoolQ in lm-eval's protocol: a task of SuperGLUE."),
    Family("mmlu_pro", MMLU_PRO_TASKS, (MMLU_PRO,), "MMLU-Pro: 14 subjects with up to ten options and written reasoning."),
)
LIBRARY = {"gpqa_diamond": "gpqa_diamond_cot_zeroshot", "ifeval": "ifeval"}
"""Tasks that run through lm-eval, by the name that they have here."""
NAMES = ("core-instruct", *LIBRARY)


def find_family(name: str, access: Access) -> Family | None:
    """The families with tasks of lm-eval. Raises AssayError where lm-eval is not installed."""
    if name in LIBRARY:
        return from_library(name, access)
    if name != "core-instruct":
        return None
    found = [from_library(each, access) for each in LIBRARY]
    tasks = (*MMLU_PRO_TASKS, MATH_500_CHAT, HUMANEVAL, *(task for family in found for task in family.tasks))
    totals = (MMLU_PRO, *(total for family in found for total in family.totals))
    return Family(name, tasks, totals, "For chat models (--chat): MMLU-Pro, MATH-500, HumanEval, GPQA-diamond and IFEval.")


def from_library(name: str, access: Access) -> Family:
    def trusted(where: str, path: Path, content: bytes) -> None:
        """Code that lm-eval ships was installed by the user."""

    return from_reference(LIBRARY[name], access, trusted)
