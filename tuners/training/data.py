"""Tasks become training examples: the same rendering as in evaluation, loss on the answer only. The one place that does it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from assay import Access, AssayError, Doc, Generate, Perplexity, Task
from assay.harness.run.stages import Tokenizer, cut_pairs, joint_after, render, render_chat, select
from assay.tuners.training.batches import Example


def find_tasks(names: Sequence[str], access: Access) -> tuple[Task, ...]:
    """Tasks by the names that `assay run` knows."""
    return select(names, access).tasks


def read_docs(task: Task, split: str, access: Access) -> list[Doc]:
    """The labelled docs of a split. Raises AssayError naming task and split where it is missing or has none."""
    found = task.rows.splits(access)
    if split not in found:
        raise AssayError(
            f"has no {split} split (there is: {', '.join(found) or 'none'})", where=task.full_name, do="choose a task with training rows"
        )
    docs = [task.doc(row) for row in task.rows.load(split, access).rows]
    labelled = [doc for doc in docs if doc.labelled]
    if not labelled:
        raise AssayError(f"split {split!r} has no labelled rows", where=task.full_name, do="choose another split")
    return labelled


def check_overlap(task: Task, training: Sequence[Doc], scored: Sequence[tuple[Task, Sequence[Doc]]], show: int = 10) -> None:
    """Raises AssayError listing items that are trained on and scored too, by their prompt's text."""
    seen = set(map(asked, training))
    for other, docs in scored:
        shared = [doc for doc in docs if asked(doc) in seen]
        if shared:
            more = f"; and {len(shared) - show} more" if len(shared) > show else ""
            raise AssayError(
                f"{len(shared)} of {len(docs)} scored items of {other.full_name} are among the training rows: "
                + "; ".join(repr(name_of(doc)) for doc in shared[:show])
                + more,
                where=task.full_name,
                do="take them out of the training rows, or leave out one of the two tasks",
            )


def without_overlap(training: Sequence[Doc], scored: Sequence[Doc]) -> list[Doc]:
    """Training docs whose prompt is none of the scored ones."""
    return split_overlap(training, scored)[0]


def split_overlap(training: Sequence[Doc], scored: Sequence[Doc]) -> tuple[list[Doc], list[Doc]]:
    """Training docs whose prompt is none of the scored ones, and the others."""
    held = set(map(asked, scored))
    return [doc for doc in training if asked(doc) not in held], [doc for doc in training if asked(doc) in held]


def asked(doc: Doc) -> str:
    """What two docs share that ask the same: the prompt, or the whole text where there is none."""
    return " ".join((doc.prompt if doc.prompt.strip() else doc.answer).split())


def name_of(doc: Doc) -> str:
    """How a doc is listed: by its id, else by how it begins."""
    return doc.id or asked(doc)[:60]


def task_examples(task: Task, docs: Sequence[Doc], tokenizer: Tokenizer, positions: int, chat: bool = False) -> list[Example]:
    """One example per doc: the prompt as it is scored without exemplars, then the gold answer.

    A generated answer ends with the task's first stop string, else with the end-of-text token, so that the model learns to
    stop. Raises AssayError for examples longer than the model's context.
    """
    if isinstance(task.ask, Perplexity):
        return text_examples([doc.answer for doc in docs], tokenizer, positions)
    pairs = []
    chats = tokenizer.chats([render_chat(task, doc)[0] for doc in docs]) if chat else []
    for number, doc in enumerate(docs):
        if chat:
            prompt, joint = chats[number], ""
        else:
            prompt, joint = render(task, doc).prompt, joint_after(doc.prompt, task.layout)
        end = task.ask.stop[0] if isinstance(task.ask, Generate) and task.ask.stop else ""
        pairs.append((prompt, (joint + doc.answer + end,)))
    ending = end_of_text(tokenizer) if isinstance(task.ask, Generate) and not task.ask.stop else ()
    examples = [Example(cut.context + cut.continuations[0] + ending, len(cut.context)) for cut in cut_pairs(tokenizer, pairs, special=chat)]
    long = [len(example.ids) for example in examples if len(example.ids) > positions]
    if long:
        raise AssayError(
            f"{len(long)} of {len(examples)} training examples are longer than the model's context of {positions} tokens",
            where=f"{task.full_name}, the longest has {max(long)}",
            do="choose a task with shorter prompts or a model with a longer context",
        )
    return examples


def longest_scored(task: Task, docs: Sequence[Doc], tokenizer: Tokenizer, chat: bool = False) -> int:
    """Most tokens of a scored item without exemplars, each with its longest answer: what has to fit beside virtual tokens."""
    if chat:
        said = [render_chat(task, doc) for doc in docs]
        pairs = [(text, answers) for text, (_, answers) in zip(tokenizer.chats([each for each, _ in said]), said, strict=True)]
    else:
        pairs = [(each.prompt, each.continuations) for each in (render(task, doc) for doc in docs)]
    more = task.ask.max_tokens if isinstance(task.ask, Generate) else 0
    cuts = cut_pairs(tokenizer, pairs, special=chat)
    return max((len(cut.context) + more + max(map(len, cut.continuations), default=0) for cut in cuts), default=0)


def end_of_text(tokenizer: Tokenizer) -> tuple[int, ...]:
    end = tokenizer.inner.eos_token_id
    if end is None:
        raise AssayError("the tokenizer has no end-of-text token", do="give the task a stop string")
    return (int(end),)


def text_examples(texts: Sequence[str], tokenizer: Tokenizer, positions: int, window: int = 128) -> list[Example]:
    """Plain text in windows, loss on every token but the first: base text to replay, or to measure KL on."""
    size = min(window, positions)
    examples = []
    for ids in tokenizer.encode(texts):
        whole = (tokenizer.prefix or (tokenizer.empty,)) + ids
        examples += [Example(piece, 1) for start in range(0, len(whole), size) if len(piece := whole[start : start + size]) > 1]
    return examples


def read_texts(path: Path) -> list[str]:
    """Texts of a UTF-8 file, apart at empty lines."""
    if not path.is_file():
        raise AssayError("no such text file", where=str(path), do="check the path")
    try:
        return [text for text in path.read_text(encoding="utf-8").split("\n\n") if text.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise AssayError(f"cannot be read as text: {error}", where=str(path), do="name a UTF-8 file") from None
