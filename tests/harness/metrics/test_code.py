"""Programs in chat responses: which code block is read, and that a right function in a fence passes under the chat protocol only."""

from __future__ import annotations

import pytest

from assay import Completion
from assay.harness.metrics.code import pass_at, whole_program
from assay.tasks.code import GREEDY, INSTRUCT, ROW

PROMPT = 'import math\n\ndef area(r):\n    return math.pi * r * r\n\ndef twice(x):\n    """Two times x."""\n'
RIGHT = "def twice(x):\n    return 2 * x\n"


def test_the_last_block_that_defines_the_function_is_the_program() -> None:
    text = f"First:\n```python\ndef twice(x):\n    return x\n```\nBetter:\n```py\n{RIGHT}```\nUse it:\n```\nprint(twice(2))\n```\n"
    assert whole_program(PROMPT, text) == f"import math\ndef area(r):\n    return math.pi * r * r\n{RIGHT}\n"
    assert whole_program(PROMPT, "1. Here:\n   ```python\n   def twice(x):\n       return 2 * x\n   ```").endswith(f"{RIGHT}\n")
    assert whole_program(PROMPT, f"```python\n{RIGHT}").endswith(f"{RIGHT}\n"), "cut before the fence closes"
    assert whole_program(PROMPT, "```\n    return 2 * x\n```") == f"{PROMPT}    return 2 * x\n\n", "a block that continues the prompt"
    assert whole_program(PROMPT, "    return 2 * x") == f"{PROMPT}    return 2 * x\n"
    assert whole_program(PROMPT, RIGHT).endswith(f"r * r\n{RIGHT}\n"), "no fence"


@pytest.mark.parametrize(
    ("text", "right"),
    [
        (f"Sure!\n\n```python\n{RIGHT}```\nIt doubles x.", 1.0),
        (f"```\n{RIGHT}\nclass Other:\n    pass\n\nif True:\n    pass\n```", 1.0),
        ("```python\ndef twice(x):\n    return x\n```", 0.0),
        ("I cannot do that.", 0.0),
    ],
)
def test_chat_responses_pass_under_the_chat_protocol(text: str, right: float) -> None:
    doc = INSTRUCT.doc(ROW)
    assert INSTRUCT.metrics[0].measure(doc, Completion(text)) == (right,)
    assert not INSTRUCT.ask.stop  # type: ignore[union-attr]


def test_the_gold_answer_passes_and_blocks_count_as_unparsed_without_the_chat_protocol() -> None:
    doc = INSTRUCT.doc(ROW)
    assert INSTRUCT.metrics[0].measure(doc, Completion(doc.answer)) == (1.0,)
    plain, fenced = pass_at(1), pass_at(1, fenced=True)
    assert plain.parses is not None and fenced.parses is not None and plain.signature != fenced.signature
    said = Completion(f"Sure!\n```python\n{RIGHT}```")
    assert not plain.parses(GREEDY.doc(ROW), said) and fenced.parses(doc, said)
    assert plain.parses(GREEDY.doc(ROW), Completion("    return 2 * x\n```\n")) and not fenced.parses(doc, Completion("no"))
