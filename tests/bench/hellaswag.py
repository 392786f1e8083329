"""HellaSwag as lm-eval 0.4.13 asks it (tasks/hellaswag): which of four endings follows?"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from assay import Choose, Doc, Task, accuracy, hub


def tidy(text: str) -> str:
    """Brackets are left over from WikiHow."""
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def read(row: Mapping[str, Any]) -> Doc:
    context = f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"
    return Doc(tidy(context), choices=tuple(map(tidy, row["endings"])), gold=int(row["label"]))


TASKS = (Task("hellaswag", hub("Rowan/hellaswag"), read, Choose(), (accuracy,), split="validation", protocol="lm-eval"),)
