"""Makes training examples from tasks: prompts rendered as in evaluation, loss on the answer only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from assay import Access, AssayError, Doc, Generate, Perplexity, Task
from assay.harness.run.stages import Matcher, Tokenizer, encode_pairs, joint_after, render, render_chat, select, trimmed
from assay.tuners.training.batches import Example


def find_tasks(names: Sequence[str], access: Access) -> tuple[Task, ...]:
    """The tasks that `assay run` would select by these names."""
    return select(names, access).tasks


def read_docs(task: Task, split: str, access: Access) -> list[Doc]:
    """The labelled docs of a split. Raises AssayError if the split is missing or has no labelled rows."""
    found = task.rows.splits(access)
    if split not in found:
        raise AssayError(
            f"no {split} split, only {', '.join(found) or 'none'}", where=task.full_name, do=f"use a task with a {split} split"
        )
    docs = [task.doc(row) for row in task.rows.load(split, access).rows]
    labelled = [doc for doc in docs if doc.labelled]
    if not labelled:
        raise AssayError(f"split {split!r} has no labelled rows", where=task.full_name, do="use a task with labelled rows there")
    return labelled


def check_overlap(task: Task, training: Sequence[Doc], scored: Sequence[tuple[Task, Sequence[Doc]]], show: int = 10) -> None:
    """Raises AssayError that lists items which are both trained on and scored, under any template."""
    for other, docs in scored:
        twins = {item for item, _ in Matcher(docs).matches(training)}
        shared = [doc for number, doc in enumerate(docs) if number in twins]
        if shared:
            more = f"; and {len(shared) - show} more" if len(shared) > show else ""
            raise AssayError(
                f"{len(shared)} of {len(docs)} scored items of {other.full_name} are among the training rows: "
                + "; ".join(repr(doc_label(doc)) for doc in shared[:show])
                + more,
                where=task.full_name,
                do="remove them from the training rows, or drop one of the two tasks",
            )


def without_overlap(training: Sequence[Doc], scored: Sequence[Doc]) -> list[Doc]:
    """Training docs that are not scored items."""
    return split_overlap(training, scored)[0]


def split_overlap(training: Sequence[Doc], scored: Sequence[Doc]) -> tuple[list[Doc], list[Doc]]:
    """Training docs that are not scored items, under any template, and the other training docs."""
    twins = {number for _, number in Matcher(scored).matches(training)}
    kept: tuple[list[Doc], list[Doc]] = ([], [])
    for number, doc in enumerate(training):
        kept[number in twins].append(doc)
    return kept


def doc_label(doc: Doc) -> str:
    """A doc's name in messages: its id, else the first 60 characters of its prompt."""
    return doc.id or " ".join((doc.prompt if doc.prompt.strip() else doc.answer).split())[:60]


def task_examples(
    task: Task, docs: Sequence[Doc], tokenizer: Tokenizer, positions: int, chat: bool = False, most: int = 0
) -> list[Example]:
    """One example per doc: the prompt as it is scored without few-shot examples, then the gold answer.

    In a chat an answer ends as the template ends the assistant's turn. Else an answer to be generated ends with the task's first stop
    string, or with the end-of-text token, so that the model learns to stop. `most`: longer answers are cut to so many tokens with their
    prompts, and examples whose prompts are as long are left out. Without it, examples longer than the model's context raise AssayError.
    """
    if isinstance(task.ask, Perplexity):
        return text_examples([doc.answer for doc in docs], tokenizer, positions)
    pairs = []
    chats = tokenizer.chats([render_chat(task, doc)[0] for doc in docs]) if chat else []
    generated, stop = isinstance(task.ask, Generate), task.ask.stop if isinstance(task.ask, Generate) else ()
    end = (tokenizer.turn_end() if chat else "") or (stop[0] if stop else "")
    for number, doc in enumerate(docs):
        if chat:
            prompt, joint = chats[number], ""
        else:
            whole, joint = render(task, doc).prompt, joint_after(doc.prompt, task.layout)
            prompt = trimmed(whole, task.layout)
            joint += whole[len(prompt) :]
        pairs.append((prompt, (joint + doc.answer + end,)))
    ending = end_of_text(tokenizer) if generated and not end else ()
    cuts = encode_pairs(tokenizer, pairs, special=chat, exact=generated)
    examples = [Example(cut.context + cut.continuations[0] + ending, len(cut.context)) for cut in cuts]
    if most:
        return cut_examples(examples, most)
    long = [len(example.ids) for example in examples if len(example.ids) > positions]
    if long:
        raise AssayError(
            f"{len(long)} of {len(examples)} training examples are longer than the model's context of {positions} tokens",
            where=f"{task.full_name}, the longest has {max(long)}",
            do="use a task with shorter prompts or a model with a longer context",
        )
    return examples


def cut_examples(examples: Sequence[Example], most: int) -> list[Example]:
    """Examples of at most so many tokens: longer answers are cut, and examples whose prompts are as long are left out."""
    return [Example(example.ids[:most], example.loss_from) for example in examples if example.loss_from < most]


def longest_scored(task: Task, docs: Sequence[Doc], tokenizer: Tokenizer, chat: bool = False) -> int:
    """Token count of the longest scored item without few-shot examples, with its longest answer: what must fit beside virtual tokens."""
    if chat:
        rendered = [render_chat(task, doc) for doc in docs]
        pairs = [(text, answers) for text, (_, answers) in zip(tokenizer.chats([each for each, _ in rendered]), rendered, strict=True)]
    else:
        pairs = [(each.prompt, each.continuations) for each in (render(task, doc) for doc in docs)]
    more = task.ask.max_tokens if isinstance(task.ask, Generate) else 0
    cuts = encode_pairs(tokenizer, pairs, special=chat)
    return max((len(cut.context) + more + max(map(len, cut.continuations), default=0) for cut in cuts), default=0)


def end_of_text(tokenizer: Tokenizer) -> tuple[int, ...]:
    end = tokenizer.inner.eos_token_id
    if end is None:
        raise AssayError("the tokenizer has no end-of-text token", do="give the task a stop string")
    return (int(end),)


def text_examples(texts: Sequence[str], tokenizer: Tokenizer, positions: int, window: int = 128) -> list[Example]:
    """Windows of plain text with loss on every token but the first, to replay or to measure KL on."""
    size = min(window, positions)
    examples = []
    for ids in tokenizer.encode(texts):
        whole = tokenizer.start() + ids
        examples += [Example(piece, 1) for start in range(0, len(whole), size) if len(piece := whole[start : start + size]) > 1]
    return examples


def read_texts(path: Path) -> list[str]:
    """Texts of a UTF-8 file, separated by empty lines."""
    if not path.is_file():
        raise AssayError("no such text file", where=str(path), do="check the path")
    try:
        return [text for text in path.read_text(encoding="utf-8").split("\n\n") if text.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise AssayError(f"cannot be read as text: {error}", where=str(path), do="give a UTF-8 text file") from None
