"""Shared by HELM's scenarios: its prompt formats, and sources that regroup or join data sets.

Source: HELM (crfm-helm 0.5), adaptation/common_adapter_specs.py and the adapters. Blocks are joined by a blank line; the last
output prefix has no trailing space, because the space before the answer is added by the layout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay import Access, AssayError, Doc, Generate, Metric, Missing, Shots, Task, Worked, exact_match, inline
from assay.harness.metrics.text import normalize_text, quasi_exact_match

if TYPE_CHECKING:
    from assay.harness.task.doc import Row
    from assay.harness.task.source import Rows, Source

HELM = "Liang et al. 2022, Holistic Evaluation of Language Models"
FORMAT = "helm-format"
"""The protocol of tasks in HELM's format that are not HELM's: data sets, subsets or few-shot examples that it does not have."""
FIVE_SHOTS = Shots(5, order="balanced")
"""HELM's in-context examples: one set for all items, balanced by label."""


@dataclass(frozen=True, slots=True)
class DerivedSplit:
    """A split made from the rows of other splits: `make` is called with the rows of each (source, split) of `parts`.

    `stand_in` marks rows that replace a missing split. They need --allow-partial, like incomplete data.
    """

    parts: tuple[tuple[Source, str], ...]
    make: Callable[..., Iterable[Row]] = tuple
    stand_in: bool = False


@dataclass(frozen=True, slots=True)
class Derived:
    """Splits made from other splits. A split is complete only if all its parts are."""

    derived: Mapping[str, DerivedSplit]

    def at(self, home: Path) -> Derived:
        return self

    def splits(self, access: Access) -> tuple[str, ...]:
        return tuple(name for name, each in self.derived.items() if all(split in source.splits(access) for source, split in each.parts))

    def load(self, split: str, access: Access) -> Rows:
        if split not in self.derived:
            raise Missing(f"no split {split!r} (available: {', '.join(self.derived)})", do="use one of these with --split")
        derived = self.derived[split]
        if derived.stand_in and not access.allow_partial:
            raise Missing(f"split {split!r} replaces a missing split", do="add --allow-partial to use it; scores are marked as partial")
        read = [source.load(name, access) for source, name in derived.parts]
        made = inline(**{split: derived.make(*(rows.rows for rows in read))}).load(split, access)
        return replace(
            made, origin=" + ".join(rows.origin for rows in read), complete=not derived.stand_in and all(rows.complete for rows in read)
        )


def instructions(text: str) -> str:
    """HELM's instruction block: its line and a blank one."""
    return f"{text}\n\n" if text else ""


def ask_after(text: str, noun: str, answer_noun: str) -> str:
    """`Noun: text`, then the prefix of the answer. An empty noun gives no prefix."""
    return f"{noun}: {text}\n{answer_noun}:" if noun else f"{text}\n{answer_noun}:"


def passage_question(passage: str, question: str, answers: Iterable[str], **fields: Any) -> Doc:
    """HELM's passage with a question below it, and `Answer:`. Perturbations change both, as in HELM."""
    text = f"{passage}\nQuestion: {question}"
    return Doc(ask_after(text, "Passage", "Answer"), references=tuple(dict.fromkeys(answers)), inputs=(text,), **fields)


def lettered(text: str, noun: str, choices: tuple[str, ...]) -> str:
    """The joint format: question, choices with letters, `Answer:`."""
    listed = "".join(f"{letter(index)}. {choice}\n" for index, choice in enumerate(choices))
    return f"{noun}: {text}\n{listed}Answer:"


def letter(index: int) -> str:
    return chr(ord("A") + index)


def joint_doc(
    text: str, noun: str, choices: tuple[str, ...], gold: int, meta: Mapping[str, Any] | None = None, inputs: tuple[str, ...] = ()
) -> Doc:
    """A multiple-choice question answered by a letter (also that of an equal option).

    `meta["label"]`, by which HELM balances few-shot examples, is the text. `inputs`: the parts of the text that a perturbation may change;
    all of it if empty. Some perturbations also change `meta["options"]`.
    """
    if not 0 <= gold < len(choices):
        raise AssayError(f"gold {gold} is out of range for {len(choices)} choices", do="fix the row")
    label = {"label": choices[gold], "options": list(choices), **(meta or {})}
    same = (letter(index) for index, choice in enumerate(choices) if index != gold and choice.strip() == choices[gold].strip())
    return Doc(lettered(text, noun, choices), references=(letter(gold), *same), meta=label, inputs=inputs or (text,))


def is_capital_letter(doc: Doc, output: Any) -> bool:
    """Whether the response is a single capital letter."""
    text = output.text.strip()
    return len(text) == 1 and text.isalpha() and text.isupper()


letter_match: Metric[Any] = replace(exact_match, parses=is_capital_letter, signature=f"{exact_match.signature}|letter")
"""Exact match of the letter. A response other than a single capital letter is wrong and counts as unparsed."""


def quasi_letter(doc: Doc, output: Any) -> tuple[float, ...]:
    """Whether the option of the response's letter equals the correct one after normalisation."""
    options, text = dict(enumerate(doc.meta["options"])), output.text.strip()
    gold, given = options[ord(doc.references[0]) - ord("A")], options.get(ord(text) - ord("A")) if len(text) == 1 else None
    return (float(bool(given) and normalize_text(gold) == normalize_text(str(given))),)


letter_quasi_match: Metric[Any] = replace(
    quasi_exact_match, measure=quasi_letter, parses=is_capital_letter, signature=f"{quasi_exact_match.signature}|letter", unmeasurable=None
)
"""HELM's quasi-exact match of the option that the letter stands for."""

ONE_TOKEN = Generate(1)
"""HELM generates one token in the joint format."""


def scenario(name: str, **fields: Any) -> Task:
    """A HELM task: named `helm/<name>`, protocol "helm" unless `fields` override it."""
    return Task(**{"name": f"helm/{name}", "protocol": "helm", **fields})


def worked(row: Row, prompt: str, answer: str) -> tuple[Worked, ...]:
    return (Worked(row, prompt, answer),)
