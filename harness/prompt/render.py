"""A task, a Doc and its exemplars become text. The joint between prompt and answer is decided here and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from assay.harness.errors import AssayError
from assay.harness.task.doc import Doc
from assay.harness.task.task import Choose, Generate, Layout, Perplexity, Regress, Task

Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Rendered:
    """`prompt` is all text before the answer; each of `continuations` begins with the joint. Generate has no continuations."""

    prompt: str
    continuations: tuple[str, ...] = ()


def joint_after(prompt: str, layout: Layout) -> str:
    """What stands between a prompt and its answer: nothing after an empty prompt or one that already ends in whitespace."""
    return "" if not prompt or prompt[-1].isspace() else layout.joint


def example_text(doc: Doc, layout: Layout) -> str:
    """A question with its gold answer, as exemplars and training examples show it."""
    return doc.prompt + joint_after(doc.prompt, layout) + doc.answer


def answers_of(task: Task, doc: Doc) -> tuple[str, ...]:
    """The texts whose likelihood is asked: choices, graded answers, or the text of a perplexity item."""
    match task.ask:
        case Choose():
            if len(doc.choices) < 2:
                raise AssayError(f"{len(doc.choices)} choices to rank", where=f"{task.full_name} {doc.id}", do="Choose needs at least two")
            return doc.choices
        case Regress():
            return task.ask.answers
        case Perplexity():
            if not doc.references:
                raise AssayError("no text to score", where=f"{task.full_name} {doc.id}", do="put the text into references")
            return doc.references[:1]
        case Generate():
            return ()


def render(task: Task, doc: Doc, exemplars: Sequence[Doc] = ()) -> Rendered:
    """The plain-text prompt: instructions, exemplars, question; and the continuations to be scored after it."""
    layout = task.layout
    shown = "".join(example_text(exemplar, layout) + layout.separator for exemplar in exemplars)
    joint = joint_after(doc.prompt, layout)
    return Rendered(layout.instructions + shown + doc.prompt, tuple(joint + text for text in answers_of(task, doc)))


def render_chat(task: Task, doc: Doc, exemplars: Sequence[Doc] = ()) -> tuple[list[Message], tuple[str, ...]]:
    """The same as messages: exemplars are earlier turns, the template separates prompt and answer, so there is no joint."""
    messages: list[Message] = []
    for exemplar in exemplars:
        messages.append({"role": "user", "content": exemplar.prompt.strip()})
        messages.append({"role": "assistant", "content": exemplar.answer})
    messages.append({"role": "user", "content": doc.prompt.strip()})
    if task.layout.instructions:
        messages[0]["content"] = task.layout.instructions + messages[0]["content"]
    return messages, answers_of(task, doc)
