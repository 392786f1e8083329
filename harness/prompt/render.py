"""Render a task, a Doc and its few-shot examples as text. Only this module decides the joint between prompt and answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from assay.harness.errors import AssayError
from assay.harness.task.doc import Doc
from assay.harness.task.task import Choose, Generate, Layout, Loglikelihood, Perplexity, Regress, Task

Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Rendered:
    """A rendered item. `prompt` is all text before the answer; each continuation begins with the joint. Generate has no continuations."""

    prompt: str
    continuations: tuple[str, ...] = ()


def joint_after(prompt: str, layout: Layout) -> str:
    """Return the text between a prompt and its answer: empty if the prompt is empty or ends in whitespace."""
    return "" if not prompt or prompt[-1].isspace() else layout.joint


def trimmed(prompt: str, layout: Layout) -> str:
    """Return the prompt as it is sent."""
    return prompt.rstrip(" ") if layout.trim else prompt


def example_text(doc: Doc, layout: Layout) -> str:
    """Return a question with its gold answer, as in few-shot and training examples."""
    question = gold_context(doc)
    return question + joint_after(question, layout) + doc.answer


def gold_context(doc: Doc) -> str:
    """Return the text before the gold answer of an example: the prompt, or the gold choice's context where each has its own."""
    return doc.contexts[doc.gold] if doc.contexts and doc.gold is not None else doc.prompt


def answers_of(task: Task, doc: Doc) -> tuple[str, ...]:
    """Return the texts whose log-likelihood is scored: choices, graded answers, or the text of a perplexity item."""
    match task.ask:
        case Choose():
            if len(doc.choices) < 2:
                raise AssayError(f"{len(doc.choices)} choices to rank", where=f"{task.full_name} {doc.id}", do="give at least two choices")
            return doc.choices
        case Loglikelihood():
            if not doc.choices:
                raise AssayError("no choice to score", where=f"{task.full_name} {doc.id}", do="give at least one choice")
            return tuple(doc.choices[place] for place in groups_of(doc)[0][1])
        case Regress():
            return task.ask.answers
        case Perplexity():
            if not doc.references:
                raise AssayError("no text to score", where=f"{task.full_name} {doc.id}", do="put the text into references")
            return doc.references[:1]
        case Generate():
            return ()


def groups_of(doc: Doc) -> list[tuple[str, tuple[int, ...]]]:
    """Return the distinct contexts of a Doc for Loglikelihood, each with the positions of its choices. The first is the Doc's prompt."""
    found: dict[str, list[int]] = {}
    for place, context in enumerate(doc.contexts or (doc.prompt,) * len(doc.choices)):
        found.setdefault(context, []).append(place)
    return [(context, tuple(places)) for context, places in found.items()]


def render(task: Task, doc: Doc, examples: Sequence[Doc] = ()) -> Rendered:
    """Render the plain-text prompt (instructions, few-shot examples, question) and the continuations to score after it."""
    layout = task.layout
    prefix = "".join(example_text(example, layout) + layout.separator for example in examples)
    joint = joint_after(doc.prompt, layout)
    return Rendered(layout.instructions + prefix + doc.prompt, tuple(joint + text for text in answers_of(task, doc)))


def render_chat(
    task: Task, doc: Doc, examples: Sequence[Doc] = (), system: str = "", one_turn: bool = False
) -> tuple[list[Message], tuple[str, ...]]:
    """Render chat messages and continuations. The chat template replaces the joint.

    Few-shot examples are earlier turns, or with `one_turn` part of the user's message. `system` is the system message. A Doc with
    `meta["messages"]` is a chat of several turns.
    """
    opening: list[Message] = [{"role": "system", "content": system}] if system else []
    if one_turn:
        return [*opening, {"role": "user", "content": render(task, doc, examples).prompt.strip()}], answers_of(task, doc)
    messages: list[Message] = []
    for example in examples:
        messages += turns_of(replace(example, prompt=gold_context(example)))
        messages.append({"role": "assistant", "content": example.answer})
    messages += turns_of(doc)
    if task.layout.instructions:
        messages[0]["content"] = task.layout.instructions + messages[0]["content"]
    return opening + messages, answers_of(task, doc)


def turns_of(doc: Doc) -> list[Message]:
    """The chat before the answer: the Doc's own messages, else its prompt as the user's."""
    return [dict(each) for each in doc.meta.get("messages", ())] or [{"role": "user", "content": doc.prompt.strip()}]
