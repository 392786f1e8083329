"""A user's own file of training examples as a task: a seeded shuffle, a held-out share that is scored, and a task file that can be edited.

Columns are those of TRL: `prompt` and `completion` (texts or lists of messages), `messages`, or `instruction` (with `input`) and `output`;
also `prompt` and `answer` or `reference`, as `assay run` reads them.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from assay import Access, AssayError, jsonl
from assay.harness.run.stages import Tokenizer
from assay.tuners.training.state import write_atomic

FILES = (".jsonl", ".csv", ".parquet")
SHARE, LEAST, MOST = 0.1, 20, 200
"""By default a tenth of the rows is held out: at least 20, at most 200, never more than half."""
CHOICES, REPEATS = 20, 5
"""So few different answers, each repeated so often on average, are labels."""
SHORT = 5
"""Answers of at most so many words (median) are scored by exact match, longer ones by ROUGE-L."""
MOST_TOKENS = 256
"""Most tokens that are generated for a held-out item."""
ROLES = ("system", "user", "assistant", "tool", "developer")


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt and its answer. `messages`: the chat's turns before the answer; empty for plain text."""

    prompt: str
    answer: str
    messages: tuple[Mapping[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class OwnData:
    """A file as a task. `task` is the path of its task file; `columns` are those that were read; `chat` says whether rows are chats."""

    task: Path
    columns: str
    rows: int
    training: int
    held: int
    empty: int
    """Rows without a prompt or an answer, which are left out."""
    labels: int
    """The number of different answers if they are scored as choices, else 0."""
    chat: bool

    def sentence(self, seed: int) -> str:
        left_out = f", {self.empty:,} without a prompt or an answer left out" if self.empty else ""
        kind = f"{self.labels} different answers, scored as choices" if self.labels else "answers are generated"
        return (
            f"{self.rows:,} rows ({self.columns}){left_out}: {self.training:,} to train on, {self.held:,} held out and scored "
            f"(shuffled with seed {seed}); {kind}"
        )


def is_own_data(name: str) -> bool:
    return name.endswith(FILES)


def write_own_task(path: Path, folder: Path, tokenizer: Tokenizer, share: float | None = None, seed: int = 0) -> OwnData:
    """Split a file of examples and write it as a task into a folder named after its content. `share`: of rows held out; None: by size.

    Equal files, shares and seeds give equal folders. Raises AssayError for unknown columns, and for fewer than four usable rows.
    """
    if not path.is_file():
        raise AssayError("no such file of examples", where=str(path), do="check the path")
    rows = jsonl(str(path)).load("test", Access(None, False, True)).rows
    if not rows:
        raise AssayError("the file has no rows", where=str(path), do="write one example per row")
    columns, read = reader_of(rows[0], path)
    pairs = [read_row(read, row, number, path) for number, row in enumerate(rows)]
    usable = [pair for pair in pairs if pair.answer.strip() and (pair.prompt.strip() or pair.messages)]
    if len(usable) < 4:
        raise AssayError(f"{len(usable)} of {len(rows)} rows have a prompt and an answer", where=str(path), do="give at least 4 such rows")
    training, held = split(usable, share, seed)
    chat = columns in CHATS or any(pair.messages for pair in usable)
    labels = labels_of(usable) if chat and tokenizer.inner.chat_template else ()
    splits = {"train": training, "test": held}
    text = task_text(path.stem, labels, joint_of(columns), usable, tokenizer)
    content = {f"{name}.jsonl": lines(part) for name, part in splits.items()} | {"task.py": text}
    digest = hashlib.sha256("".join(content.values()).encode()).hexdigest()[:10]
    home = folder / f"{path.stem}-{digest}"
    for name, written in content.items():
        write_atomic(home / name, written.encode(), "nothing was trained")
    found = len(rows) - len(usable)
    return OwnData(home / "task.py", columns, len(rows), len(training), len(held), found, len(labels), chat)


def labels_of(pairs: Sequence[Pair]) -> tuple[str, ...]:
    """The different answers if they are labels. They are scored as choices in a chat alone, whose turns end by themselves; plain text
    has to learn to end, which generation shows."""
    counts = Counter(pair.answer for pair in pairs)
    return tuple(sorted(counts)) if 1 < len(counts) <= CHOICES and len(pairs) >= REPEATS * len(counts) else ()


def split(pairs: Sequence[Pair], share: float | None, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Training and held-out pairs after a seeded shuffle, so that a file sorted by label is no problem."""
    order = random.Random(f"own data:{seed}").sample(range(len(pairs)), len(pairs))
    count = round(share * len(pairs)) if share is not None else min(max(round(SHARE * len(pairs)), LEAST), MOST, len(pairs) // 2)
    if not 1 <= count < len(pairs):
        raise AssayError(f"{count} of {len(pairs)} rows would be held out", where="--held-out", do="give a share such as 0.1")
    return [pairs[number] for number in order[count:]], [pairs[number] for number in order[:count]]


Row = Mapping[str, Any]


def from_messages(row: Row) -> Pair:
    """The last message is the answer, an assistant's; those before it are the prompt."""
    return conversation(chat_of(row["messages"], "messages"))


def from_completion(row: Row) -> Pair:
    if isinstance(row["prompt"], list) or isinstance(row["completion"], list):
        return conversation((*chat_of(row["prompt"], "prompt"), *chat_of(row["completion"], "completion")))
    return Pair(text_of(row, "prompt"), text_of(row, "completion"))


def from_instruction(row: Row) -> Pair:
    """The instruction and, after an empty line, its input."""
    more = text_of(row, "input") if row.get("input") else ""
    return Pair(text_of(row, "instruction") + (f"\n\n{more}" if more else ""), text_of(row, "output"))


def from_answer(row: Row) -> Pair:
    return Pair(text_of(row, "prompt"), text_of(row, "answer" if "answer" in row else "reference"))


READERS: Sequence[tuple[tuple[str, ...], Callable[[Row], Pair]]] = (
    (("messages",), from_messages),
    (("prompt", "completion"), from_completion),
    (("instruction", "output"), from_instruction),
    (("prompt", "answer"), from_answer),
    (("prompt", "reference"), from_answer),
)
CHATS = ("messages", "instruction/output")
"""Rows of these columns go through the model's chat template if it has one."""
JOINTS = {"prompt/completion": "", "instruction/output": "\n"}
"""What joins prompt and answer without a chat template: TRL appends a completion as it stands."""


def joint_of(columns: str) -> str:
    return JOINTS.get(columns, " ")


def reader_of(row: Row, path: Path) -> tuple[str, Callable[[Row], Pair]]:
    for columns, read in READERS:
        if row.keys() >= set(columns):
            return "/".join(columns), read
    raise AssayError(
        f"has the columns {', '.join(sorted(map(str, row)))}",
        where=str(path),
        do="name them prompt and completion, messages, or instruction and output",
    )


def read_row(read: Callable[[Row], Pair], row: Row, number: int, path: Path) -> Pair:
    try:
        return read(row)
    except KeyError as error:
        raise AssayError(f"has no {error.args[0]}", where=f"{path}: row {number}", do="give every row the same columns") from None
    except AssayError as error:
        raise AssayError(error.what, where=f"{path}: row {number}", do=error.do) from None


def text_of(row: Row, column: str) -> str:
    """A text, or a number as text; a missing value is empty."""
    value = row[column]
    if value is None or value != value:
        return ""
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise AssayError(f"{column} is {value!r:.60}, not a text", do="write it as the model should give it")
    return str(value)


def chat_of(value: Any, column: str) -> tuple[Mapping[str, str], ...]:
    """Messages with a role and a text."""
    if isinstance(value, list) and all(isinstance(each, dict) for each in value):
        turns = tuple({"role": str(each.get("role")), "content": each.get("content")} for each in value)
        if all(turn["role"] in ROLES and isinstance(turn["content"], str) for turn in turns):
            return turns
    what = f"{column} is {value!r:.80}, not a list of messages"
    raise AssayError(what, do='write [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]')


def conversation(turns: tuple[Mapping[str, str], ...]) -> Pair:
    if len(turns) < 2 or turns[-1]["role"] != "assistant":
        raise AssayError("the chat does not end with an answer of the assistant", do="end it with a message of the role assistant")
    return Pair("\n\n".join(turn["content"] for turn in turns[:-1]), turns[-1]["content"], turns[:-1])


def lines(pairs: Sequence[Pair]) -> str:
    """JSON lines, in order."""
    rows = ({"prompt": pair.prompt, "answer": pair.answer} | ({"messages": list(pair.messages)} if pair.messages else {}) for pair in pairs)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


TASK = '''"""{name}: a user's own examples, split by `assay tune`; train.jsonl and test.jsonl are beside this file."""

from assay import {names}
{metrics}{labels}

def read(row):
    meta = {{"messages": row["messages"]}} if "messages" in row else {{}}
    return Doc(row["prompt"], {gold}, meta=meta)


TASKS = (
    Task(
        name={name!r},
        rows=jsonl("{{split}}.jsonl"),
        doc=read,
        ask={ask},
        metrics=({metric},),
        layout=Layout(joint={joint!r}),
        split="test",
    ),
)
'''


def task_text(name: str, labels: tuple[str, ...], joint: str, pairs: Sequence[Pair], tokenizer: Tokenizer) -> str:
    """The text of the task file: labels are ranked, other answers are generated and scored by exact match or ROUGE-L."""
    if labels:
        listed = f"\nLABELS = {labels!r}\n"
        gold = 'choices=LABELS, gold=LABELS.index(row["answer"])'
        return TASK.format(
            name=name, names="Choose, Doc, Layout, Task, accuracy, jsonl", metrics="", labels=listed, gold=gold, ask="Choose()",
            metric="accuracy", joint=joint,
        )  # fmt: skip
    lengths = sorted(len(ids) for ids in tokenizer.encode([pair.answer for pair in pairs]))
    ask = f"Generate(max_tokens={min(MOST_TOKENS, lengths[int(0.99 * (len(lengths) - 1))] + 8)})"
    short = median(len(pair.answer.split()) for pair in pairs) <= SHORT
    latin = all(pair.answer.isascii() for pair in pairs)
    rouge = 'rouge("rougeL")' if latin else 'rouge("rougeL", tokenizer="unicode")'
    names = "Doc, Generate, Layout, Task, " + ("exact_match, jsonl" if short else "jsonl")
    metrics = "" if short else "from assay.harness.metrics.text import rouge\n"
    return TASK.format(
        name=name, names=names, metrics=metrics, labels="", gold='references=(row["answer"],)', ask=ask,
        metric="exact_match" if short else rouge, joint=joint,
    )  # fmt: skip
