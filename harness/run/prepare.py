"""A task becomes items and requests: rows to Docs, exemplars chosen, prompts rendered, ids cut. No model is needed."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from assay.harness.engines.request import GenRequest, ScoreGroup, digest_ids
from assay.harness.errors import AssayError, Missing
from assay.harness.files.places import Access
from assay.harness.prompt.perturb import counts_of
from assay.harness.prompt.render import render, render_chat
from assay.harness.prompt.shots import Exemplars, choose_exemplars
from assay.harness.prompt.tokens import Cut, Tokenizer, cut_pairs
from assay.harness.store.plan import Plan
from assay.harness.store.record import Item
from assay.harness.task.doc import Doc, Row
from assay.harness.task.source import Rows
from assay.harness.task.task import Choose, Generate, Perplexity, Task

Request = ScoreGroup | GenRequest
SEED_STEP = 1_000_003
"""More than any number of samples."""


@dataclass(frozen=True, slots=True)
class PreparedItem:
    """One item with all requests that it needs, and the tokens these would cost without any sharing."""

    item: Item
    doc: Doc
    requests: tuple[Request, ...]
    logical: int


@dataclass(frozen=True, slots=True)
class PreparedTask:
    """A task ready to be asked. `facts` go into the manifest: whatever must agree before two scores compare."""

    task: Task
    items: tuple[PreparedItem, ...]
    shots: int
    evidence: str
    """"complete", "limited" (--limit) or "partial" (the split is not whole)."""
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a task asks, as text: its docs and who is shown before each; not one token is cut yet."""

    task: Task
    split: str
    rows: Rows
    docs: list[Doc]
    exemplars: Exemplars
    count: int
    evidence: str


def ask_task(task: Task, plan: Plan, access: Access) -> Asked:
    """Docs and exemplars of one task. Raises AssayError for missing, empty or faulty data."""
    split = plan.split or task.split or default_split(task, access)
    rows = load(task, split, access)
    if not rows.rows:
        raise AssayError(f"split {split!r} is empty", where=f"{task.full_name} ({rows.origin})", do="check the data")
    kept = rows.rows[: plan.limit]
    docs = named([read_doc(task, row, split, number) for number, row in enumerate(kept)], task)
    count = task.shots.count if plan.shots is None else plan.shots
    pool, pool_rows = exemplar_pool(task, count, access)
    if count and task.shots.order == "per_item":  # the draw depends on the whole split, whatever the limit
        pool = docs if len(kept) == len(rows.rows) else named([read_doc(task, row, split, n) for n, row in enumerate(rows.rows)], task)
    exemplars = choose_exemplars(task, count, pool, docs, plan.seed)
    partial = not rows.complete or (pool_rows is not None and not pool_rows.complete)
    evidence = "partial" if partial else "limited" if len(kept) < len(rows.rows) else "complete"
    return Asked(task, split, rows, *forms(task, docs, exemplars), count, evidence)


def forms(task: Task, docs: list[Doc], exemplars: Exemplars) -> tuple[list[Doc], Exemplars]:
    """All forms of every item where the task varies them, each with the exemplars of its item."""
    if task.varies is None:
        return docs, exemplars
    found = [(number, form) for number, doc in enumerate(docs) for form in task.varies.make(doc)]
    return [form for _, form in found], lambda number: exemplars(found[number][0])


def prepare_task(task: Task, plan: Plan, access: Access, tokenizer: Tokenizer, positions: int) -> PreparedTask:
    """Docs, prompts and requests of one task. Raises AssayError for missing, empty or faulty data and for prompts that do not fit."""
    asked = ask_task(task, plan, access)
    items = build_items(task, asked.docs, asked.exemplars, asked.count, plan, tokenizer, positions)
    facts = {
        "name": task.full_name,
        "version": task.version,
        "split": asked.split,
        "origin": asked.rows.origin,
        "data": asked.rows.digest,
        "shots": asked.count,
        "shots_order": task.shots.order if asked.count else "",
        "ask": repr(task.ask),
        "metrics": [f"{metric.name} {metric.signature}".strip() for metric in task.metrics],
        "items": len(items),
        "evidence": asked.evidence,
        "purpose": task.purpose,
        **({"variants": counts_of(task, asked.docs)} if task.varies is not None else {}),
        "labelled": all(doc.labelled for doc in asked.docs),
        "boundary_moved": sum(item.item.doc.get("moved", 0) > 0 for item in items),
        "shots_dropped": sum(item.item.doc.get("dropped", 0) > 0 for item in items),
        "fingerprint": fingerprint(task, asked.split, [each.item for each in items]),
    }
    return PreparedTask(task, part_of(items, *plan.part()), asked.count, asked.evidence, facts)


def part_of(items: tuple[PreparedItem, ...], index: int, count: int) -> tuple[PreparedItem, ...]:
    """The index-th of `count` neighbouring slices: neighbours share passages, so a slice keeps most of the sharing."""
    return items[len(items) * index // count : len(items) * (index + 1) // count]


def default_split(task: Task, access: Access) -> str:
    """The split to score where the task names none: test, validation or dev, else the only one."""
    found = task.rows.splits(access)
    chosen = next((name for name in ("test", "validation", "dev") if name in found), found[0] if len(found) == 1 else "")
    if not chosen:
        raise Missing(f"no split to score (there is: {', '.join(found) or 'none'})", where=task.full_name, do="name one with --split")
    return chosen


def load(task: Task, split: str, access: Access) -> Rows:
    try:
        return task.rows.load(split, access)
    except AssayError as error:
        raise type(error)(error.what, where=f"{task.full_name}{': ' + error.where if error.where else ''}", do=error.do) from None
    except (Exception, SystemExit) as error:  # rows may be made by the author's code
        where = f"{task.full_name}: rows of {split!r}"
        raise AssayError(f"{type(error).__name__}: {error}", where=where, do="check the task's rows") from error


def exemplar_pool(task: Task, count: int, access: Access) -> tuple[list[Doc], Rows | None]:
    """The docs that exemplars are drawn from; none are read where none are needed."""
    if count == 0 or task.shots.order == "per_item":
        return [], None
    split = task.shots.split
    try:
        rows = load(task, split, access)
    except AssayError as error:
        raise type(error)(
            f"{count} shots need the split {split!r}: {error.what}", where=error.where, do=error.do or "run with --shots 0"
        ) from None
    return named([read_doc(task, row, split, number) for number, row in enumerate(rows.rows)], task), rows


def read_doc(task: Task, row: Row, split: str, number: int) -> Doc:
    """One row through the author's function; its faults are reported with the row."""
    where = f"{task.full_name}: row {number} of {split!r}"
    try:
        doc = task.doc(row)
    except AssayError as error:
        raise AssayError(error.what, where=where, do=error.do) from None
    except (Exception, SystemExit) as error:  # the author's code may raise anything
        hint = f"the row has the fields {', '.join(map(str, row))}" if isinstance(error, KeyError) else "check the task's doc function"
        raise AssayError(f"{type(error).__name__}: {error}", where=where, do=hint) from error
    if not isinstance(doc, Doc):
        raise AssayError(f"the doc function gave {type(doc).__name__}, not Doc", where=where, do="return Doc(...)")
    return doc


def named(docs: Sequence[Doc], task: Task) -> list[Doc]:
    """Every doc with a unique id: the author's, or its content hash; equal rows are numbered."""
    seen: Counter[str] = Counter()
    result = []
    for doc in docs:
        name = doc.id or doc.content
        seen[name] += 1
        if seen[name] > 1:
            if doc.id:
                raise AssayError(f"the id {doc.id!r} stands for two items", where=task.full_name, do="give unique ids, or none")
            name = f"{name}-{seen[name]}"
        result.append(replace(doc, id=name, group=doc.group or name, cluster=doc.cluster or doc.group or name))
    return result


def build_items(
    task: Task, docs: Sequence[Doc], exemplars: Exemplars, count: int, plan: Plan, tokenizer: Tokenizer, positions: int
) -> tuple[PreparedItem, ...]:
    """Render and encode all items; where a prompt does not fit, drop exemplars (if allowed) or refuse."""
    shown = [exemplars(number) for number in range(len(docs))]
    pairs, cuts = encode(task, docs, shown, plan.chat, tokenizer)
    room = positions - (task.ask.max_tokens if isinstance(task.ask, Generate) else -1)
    long = [] if isinstance(task.ask, Perplexity) else [n for n, cut in enumerate(cuts) if needed(cut) > room]
    if long and not plan.drop_shots:
        worst = max(needed(cuts[n]) for n in long)
        raise AssayError(
            f"{len(long)} of {len(docs)} prompts are longer than the model's context of {positions} tokens (the longest needs {worst})",
            where=f"{task.full_name}, first item {docs[long[0]].id}",
            do="use fewer --shots, --drop-shots, or a model with a longer context",
        )
    while todo := [n for n in long if needed(cuts[n]) > room and shown[n]]:
        for n in todo:
            shown[n] = shown[n][:-1]
        again = encode(task, [docs[n] for n in todo], [shown[n] for n in todo], plan.chat, tokenizer)
        for n, pair, cut in zip(todo, *again, strict=True):
            pairs[n], cuts[n] = pair, cut
    for n in long:
        if needed(cuts[n]) > room:
            raise AssayError(
                f"needs {needed(cuts[n])} tokens without any exemplar; the model's context is {positions}",
                where=f"{task.full_name}, item {docs[n].id}",
                do="use a model with a longer context",
            )
    prior = calibration(task, docs, tokenizer)
    built = (
        build_item(task, doc, pairs[n][0], cuts[n], shown[n], prior[n], positions, count - len(shown[n])) for n, doc in enumerate(docs)
    )
    return tuple(seeded(each, plan.seed) for each in built)


def seeded(prepared: PreparedItem, seed: int) -> PreparedItem:
    """Another seed of the plan draws other samples."""
    if not seed or not any(isinstance(request, GenRequest) and request.temperature for request in prepared.requests):
        return prepared
    moved = (replace(r, seed=r.seed + SEED_STEP * seed) if isinstance(r, GenRequest) else r for r in prepared.requests)
    return replace(prepared, requests=tuple(moved))


def needed(cut: Cut) -> int:
    """Positions that a request takes: the context and the longest continuation."""
    return len(cut.context) + max((len(ids) for ids in cut.continuations), default=0)


def encode(
    task: Task, docs: Sequence[Doc], shown: Sequence[tuple[Doc, ...]], chat: bool, tokenizer: Tokenizer
) -> tuple[list[tuple[str, tuple[str, ...]]], list[Cut]]:
    pairs: list[tuple[str, tuple[str, ...]]]
    if chat:
        said = [render_chat(task, doc, exemplars) for doc, exemplars in zip(docs, shown, strict=True)]
        texts = tokenizer.chats([messages for messages, _ in said])
        pairs = [(text, continuations) for text, (_, continuations) in zip(texts, said, strict=True)]
    else:
        rendered = [render(task, doc, exemplars) for doc, exemplars in zip(docs, shown, strict=True)]
        pairs = [(each.prompt, each.continuations) for each in rendered]
    return pairs, cut_pairs(tokenizer, pairs, special=chat)


def calibration(task: Task, docs: Sequence[Doc], tokenizer: Tokenizer) -> list[Cut | None]:
    """The same choices after a neutral context, for Choose(calibrate=...)."""
    if not isinstance(task.ask, Choose) or task.ask.calibrate is None:
        return [None] * len(docs)
    neutral = task.ask.calibrate
    return list(cut_pairs(tokenizer, [(neutral, render(task, replace(doc, prompt=neutral)).continuations) for doc in docs]))


def build_item(
    task: Task, doc: Doc, prompt: str, cut: Cut, shown: tuple[Doc, ...], prior: Cut | None, positions: int, dropped: int
) -> PreparedItem:
    requests: tuple[Request, ...]
    match task.ask:
        case Generate() as ask:
            requests = tuple(
                GenRequest(cut.context, ask.max_tokens, ask.stop, ask.temperature, sample if ask.temperature else 0)
                for sample in range(ask.samples)
            )
        case Perplexity():
            requests = windows(cut, positions)
        case _:
            requests = (ScoreGroup(cut.context, cut.continuations),)
            if prior is not None:
                requests += (ScoreGroup(prior.context, prior.continuations),)
    item = Item(
        task=task.full_name,
        id=doc.id,
        group=doc.group,
        cluster=doc.cluster,
        prompt=prompt,
        choices=doc.choices,
        gold=doc.answer if doc.labelled else "",
        doc=extras(doc, cut.moved, dropped),
        shots=tuple(exemplar.id for exemplar in shown),
        key=digest_ids(cut.context, *cut.continuations),
    )
    return PreparedItem(item, doc, requests, sum(map(logical_tokens, requests)))


def extras(doc: Doc, moved: int, dropped: int) -> dict[str, Any]:
    """The Doc's gold and meta as JSON, with what happened to its prompt; empty fields are left out."""
    found = {
        "gold": doc.gold,
        "targets": list(doc.targets),
        "references": list(doc.references),
        "value": doc.value,
        "meta": dict(doc.meta),
        "moved": moved,
        "dropped": dropped,
    }
    return {name: value for name, value in found.items() if value or (name in ("gold", "value") and value is not None)}


def windows(cut: Cut, positions: int) -> tuple[ScoreGroup, ...]:
    """One text as disjoint windows of the model's context; each next window is conditioned on the token before it.

    Source: lm-eval utils.get_rolling_token_windows with context_len=1.
    """
    context, (text,) = cut.context, cut.continuations
    room = positions - len(context) + 1
    if room < 1:
        what = f"the prompt alone needs {len(context)} tokens; the model's context is {positions}"
        raise AssayError(what, do="use a model with a longer context")
    groups = [ScoreGroup(context, (text[:room],))]
    for start in range(room, len(text), positions):
        groups.append(ScoreGroup((text[start - 1],), (text[start : start + positions],)))
    return tuple(groups)


def logical_tokens(request: Request) -> int:
    """Tokens if every continuation were sent as a full prompt of its own (what a peer sends to vLLM)."""
    if isinstance(request, GenRequest):
        return len(request.prompt)
    return sum(len(request.context) + len(continuation) for continuation in request.continuations)


def fingerprint(task: Task, split: str, items: Sequence[Item]) -> str:
    """Hash of what is asked and how it is scored, over rendered text: equal for models with different tokenizers."""
    state = hashlib.sha256()
    head = [task.full_name, task.version, split, repr(task.ask), [[m.name, m.signature] for m in task.metrics]]
    state.update(json.dumps(head).encode())
    for item in items:
        state.update(json.dumps([item.id, item.prompt, item.choices, item.gold, item.group]).encode())
    return state.hexdigest()[:24]
