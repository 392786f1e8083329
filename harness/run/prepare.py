"""Turn a task into items and requests: read rows as Docs, choose few-shot examples, render and encode prompts. Loads no model."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from assay.harness.engines.request import GenRequest, ScoreGroup, digest_ids
from assay.harness.errors import AssayError, Missing
from assay.harness.files.places import Access
from assay.harness.model.find import ModelRef, checkpoint_of
from assay.harness.model.weights import embedding
from assay.harness.prompt.encoding import encode, further_pairs, response_form
from assay.harness.prompt.overlong import cut_left, positions_of, refuse_overlong
from assay.harness.prompt.perturb import counts_of
from assay.harness.prompt.shots import FewShotExamples, choose_examples
from assay.harness.prompt.tokens import EncodedPair, Tokenizer
from assay.harness.run.scoring.signature import scorer, scorers
from assay.harness.stats.sampling import kept_docs
from assay.harness.store.plan import Plan
from assay.harness.store.record import Item
from assay.harness.task.doc import Doc, Row
from assay.harness.task.metric import mentions
from assay.harness.task.source import PromptSource, Rows
from assay.harness.task.task import Choose, Generate, Loglikelihood, Perplexity, Shots, Task, Total

Request = ScoreGroup | GenRequest
SEED_STEP = 1_000_003
"""Distance between the sample seeds of two random seeds of a plan: more than any number of samples."""


@dataclass(frozen=True, slots=True)
class PreparedItem:
    """One item with its requests. `logical`: tokens of the requests if every continuation were sent as a full prompt of its own."""

    item: Item
    doc: Doc
    requests: tuple[Request, ...]
    logical: int


@dataclass(frozen=True, slots=True)
class PreparedTask:
    """A task with its encoded items. `facts` go into the manifest: they must agree before two scores compare."""

    task: Task
    items: tuple[PreparedItem, ...]
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class PreparedRun:
    """A plan with its model found and the items of all tasks encoded; the model is not loaded yet."""

    plan: Plan
    model: ModelRef
    engine: str
    reason: str
    tasks: tuple[PreparedTask, ...]
    totals: tuple[Total, ...]
    tokenizer: str
    """Digest of the tokenizer."""
    left_out: tuple[tuple[str, str], ...] = ()
    """Members of a family whose data are missing, each with the reason."""


@dataclass(frozen=True, slots=True)
class LoadedTask:
    """A task with its Docs and the `count` few-shot examples of each, before anything is encoded."""

    task: Task
    split: str
    rows: Rows
    docs: list[Doc]
    examples: FewShotExamples
    count: int
    evidence: str
    """"complete", "limited" (--limit) or "partial" (the split is not whole)."""


def load_task(task: Task, plan: Plan, access: Access) -> LoadedTask:
    """Read the Docs and choose the few-shot examples of one task. Raises AssayError for missing, empty or faulty data."""
    task = under_plan(task, plan)
    split = plan.split or task.split or default_split(task, access)
    rows = load_rows(task, split, access)
    if not rows.rows:
        raise AssayError(f"split {split!r} is empty", where=f"{task.full_name} ({rows.origin})", do="check the data")
    every = with_ids([read_doc(task, row, split, number) for number, row in enumerate(rows.rows)], task)
    if isinstance(task.ask, Perplexity):
        check_texts(task, every, split)
    docs = [every[number] for number in kept_docs(every, plan)]
    count = task.shots.count if plan.shots is None or task.shots.order == "source" else plan.shots
    pool, pool_rows = example_pool(task, count, access)
    if count and task.shots.order == "per_item":  # the draw depends on the whole split, not on --limit
        pool = every
    examples = choose_examples(task, count, pool, docs, plan.seed)
    partial = not rows.complete or (pool_rows is not None and not pool_rows.complete)
    evidence = "partial" if partial else "limited" if len(docs) < len(every) else "complete"
    return LoadedTask(task, split, rows, *perturbed(task, docs, examples), count, evidence)


def under_plan(task: Task, plan: Plan) -> Task:
    """The task with the prompts of this plan, where its source makes them; other tasks as they are."""
    if not isinstance(task.rows, PromptSource):
        return task
    rows = task.rows.under(plan.shots, plan.seed, plan.chat, plan.system, plan.one_turn)
    return replace(task, rows=rows, shots=Shots(rows.shots, order="source"))


def check_texts(task: Task, docs: Sequence[Doc], split: str) -> None:
    """Raises AssayError naming the first row whose text is empty: it has no likelihood."""
    empty = [number for number, doc in enumerate(docs) if doc.references and not doc.references[0]]
    if empty:
        what = f"the text is empty ({len(empty)} of {len(docs)} texts are)"
        raise AssayError(what, where=f"{task.full_name}: row {empty[0]} of {split!r}", do="leave empty texts out of the rows")


def perturbed(task: Task, docs: list[Doc], examples: FewShotExamples) -> tuple[list[Doc], FewShotExamples]:
    """All perturbations of every item where the task has some, each with the few-shot examples of its item."""
    if task.varies is None:
        return docs, examples
    found = [(number, variant) for number, doc in enumerate(docs) for variant in task.varies.make(doc)]
    own = FewShotExamples(lambda number: examples(found[number][0]), lambda number: examples.changed(found[number][0]))
    return [variant for _, variant in found], own


def prepare_task(task: Task, plan: Plan, access: Access, tokenizer: Tokenizer, positions: int) -> PreparedTask:
    """Docs, prompts and requests of one task. Raises AssayError for missing, empty or faulty data and for prompts that are too long."""
    loaded = load_task(task, plan, access)
    task = loaded.task
    items = build_items(task, loaded.docs, loaded.examples, plan, tokenizer, positions)
    overlong = sum("skipped" in each.item.doc or "cut" in each.item.doc for each in items)
    facts = {
        "name": task.full_name,
        "version": task.version,
        "split": loaded.split,
        "origin": loaded.rows.origin,
        "data": loaded.rows.digest,
        "shots": loaded.count,
        "shots_order": task.shots.order if loaded.count else "",
        "ask": repr(task.ask),
        **({"ties": task.ask.ties} if isinstance(task.ask, Choose) else {}),
        "metrics": scorers(task, [each.item for each in items]),
        "items": len(items),
        "evidence": "overlong" if overlong and loaded.evidence == "complete" else loaded.evidence,
        **({"overlong": {"rule": plan.overlong, "items": overlong}} if overlong else {}),
        "purpose": task.purpose,
        **({"variants": counts_of(task, loaded.docs)} if task.varies is not None else {}),
        "labelled": all(doc.labelled for doc in loaded.docs),
        "boundary_moved": sum(item.item.doc.get("moved", 0) > 0 for item in items),
        "shots_dropped": sum(item.item.doc.get("dropped", 0) > 0 for item in items),
        "shots_replaced": sum(map(loaded.examples.changed, range(len(loaded.docs)))),
        "notes": [*task.notes, *unmeasurable(task, loaded.docs)],
        "fingerprint": fingerprint(task, loaded.split, [each.item for each in items]),
        **({"source": task.rows.facts()} if isinstance(task.rows, PromptSource) else {}),
    }
    return PreparedTask(task, items, facts)


def check_rows(prepared: PreparedTask, tokenizer: Tokenizer, model: ModelRef) -> None:
    """Raises AssayError where a prompt or a choice has a token without a row in the model's embeddings (adapters may add rows)."""
    table = None if model.adapter is not None else embedding(checkpoint_of(model).tensors)
    if table is None:
        return
    for each in prepared.items:
        for request in each.requests:
            parts = (request.prompt,) if isinstance(request, GenRequest) else (request.context, *request.continuations)
            if (id := max(map(max, parts))) >= table.shape[0]:
                raise AssayError(
                    f"token {tokenizer.decode([id])!r:.40} has the id {id}, the embeddings have {table.shape[0]} rows",
                    where=f"{prepared.task.full_name}, item {each.item.id}",
                    do="copy the tokenizer that the model was trained with into its folder, or remove the token from the prompt",
                )


def shard_of(sizes: Sequence[int], index: int, count: int) -> list[slice]:
    """The items of each task that are in the index-th of `count` contiguous slices of all tasks' items, given their numbers.

    Neighbouring items share passages and few-shot examples, so a slice keeps most of the shared prefixes.
    """
    total, begin, found = sum(sizes), 0, []
    first, last = total * index // count, total * (index + 1) // count
    for size in sizes:
        found.append(slice(max(0, first - begin), max(0, last - begin)))
        begin += size
    return found


def default_split(task: Task, access: Access) -> str:
    """The split to score where the task names none: test, validation or dev, else the only split."""
    found = task.rows.splits(access)
    chosen = next((name for name in ("test", "validation", "dev") if name in found), found[0] if len(found) == 1 else "")
    if not chosen:
        raise Missing(f"no split to score (found: {', '.join(found) or 'none'})", where=task.full_name, do="name one with --split")
    return chosen


def load_rows(task: Task, split: str, access: Access) -> Rows:
    try:
        return task.rows.load(split, access)
    except AssayError as error:
        raise type(error)(error.what, where=f"{task.full_name}{': ' + error.where if error.where else ''}", do=error.do) from None
    except (Exception, SystemExit) as error:  # the author's code may make the rows
        where = f"{task.full_name}: rows of {split!r}"
        raise AssayError(f"{type(error).__name__}: {error}", where=where, do="check the task's rows") from error


def example_pool(task: Task, count: int, access: Access) -> tuple[list[Doc], Rows | None]:
    """The Docs that few-shot examples are drawn from; none for zero shots, or where each item draws from its own split."""
    if count == 0 or task.shots.order in ("per_item", "source"):
        return [], None
    split = task.shots.split
    try:
        rows = load_rows(task, split, access)
    except AssayError as error:
        raise type(error)(
            f"{count} few-shot examples need the split {split!r}: {error.what}", where=error.where, do=error.do or "run with --shots 0"
        ) from None
    return with_ids([read_doc(task, row, split, number) for number, row in enumerate(rows.rows)], task), rows


def read_doc(task: Task, row: Row, split: str, number: int) -> Doc:
    """One row as a Doc, by the task's doc function. Raises AssayError naming the row."""
    where = f"{task.full_name}: row {number} of {split!r}"
    try:
        doc = task.doc(row)
    except AssayError as error:
        raise AssayError(error.what, where=where, do=error.do) from None
    except (Exception, SystemExit) as error:  # the author's code may raise anything
        hint = f"the row has the fields {', '.join(map(str, row))}" if isinstance(error, KeyError) else "check the task's doc function"
        raise AssayError(f"{type(error).__name__}: {error}", where=where, do=hint) from error
    if not isinstance(doc, Doc):
        raise AssayError(f"the doc function returned {type(doc).__name__}, expected Doc", where=where, do="return Doc(...)")
    return doc


def with_ids(docs: Sequence[Doc], task: Task) -> list[Doc]:
    """Every Doc with a unique id: the author's, or the hash of its content; equal rows are numbered."""
    seen: Counter[str] = Counter()
    result = []
    for doc in docs:
        name = doc.id or doc.content
        seen[name] += 1
        if seen[name] > 1:
            if doc.id:
                raise AssayError(f"two items have the id {doc.id!r}", where=task.full_name, do="give every row a unique id, or no id")
            name = f"{name}-{seen[name]}"
        result.append(replace(doc, id=name, group=doc.group or name, cluster=doc.cluster or doc.group or name))
    return result


def build_items(
    task: Task, docs: Sequence[Doc], examples: FewShotExamples, plan: Plan, tokenizer: Tokenizer, positions: int
) -> tuple[PreparedItem, ...]:
    """Render and encode all items. A prompt longer than the context loses few-shot examples with --drop-shots, else AssayError."""
    shots = [examples(number) for number in range(len(docs))]
    pairs, encoded = encode(task, docs, shots, plan, tokenizer)
    room = positions - (task.ask.max_tokens + (task.ask.thinking_budget or 0) if isinstance(task.ask, Generate) else -1)
    too_long = [] if isinstance(task.ask, Perplexity) else [n for n, pair in enumerate(encoded) if positions_of(pair) > room]
    while shortened := [n for n in too_long if plan.drop_shots and positions_of(encoded[n]) > room and shots[n]]:
        for n in shortened:
            shots[n] = shots[n][:-1]
        again = encode(task, [docs[n] for n in shortened], [shots[n] for n in shortened], plan, tokenizer)
        for n, texts, pair in zip(shortened, *again, strict=True):
            pairs[n], encoded[n] = texts, pair
    overlong = {n: size for n in too_long if (size := positions_of(encoded[n])) > room}
    refuse_overlong({docs[n].id: size for n, size in overlong.items()}, len(docs), positions, task.full_name, plan)
    if plan.overlong == "truncate-left":
        space = min(room, positions)  # vLLM counts the last token of a continuation too
        for n in overlong:
            text, encoded[n] = cut_left(encoded[n], space, tokenizer, f"{task.full_name}, item {docs[n].id}")
            pairs[n] = (text, pairs[n][1])
    further = further_pairs(task, docs, shots, plan, tokenizer)
    form = response_form(task.ask, plan, tokenizer) if isinstance(task.ask, Generate) else None
    if form is not None and not plan.repeat_check and not plan.repeat_engine:
        form = replace(form, logprob=any(mentions(metric.measure, "logprob") for metric in task.metrics))

    def requests(number: int) -> tuple[Request, ...]:
        pair = encoded[number]
        if plan.overlong == "skip" and number in overlong:
            return ()
        if form is not None:
            return form.requests(pairs[number][0], pair.context)
        if isinstance(task.ask, Perplexity):
            return windows(pair, positions, task.ask.whole_last)
        greedy = isinstance(task.ask, Loglikelihood) and task.ask.greedy
        return tuple(ScoreGroup(each.context, each.continuations, greedy) for each in (pair, *further[number]))

    def changes(number: int) -> dict[str, Any]:
        dropped = len(examples(number)) - len(shots[number])
        joint = scored_joint(*pairs[number], docs[number], plan) if isinstance(task.ask, Perplexity) else ""
        long = {"skipped" if plan.overlong == "skip" else "cut": overlong[number]} if number in overlong else {}
        return {"moved": encoded[number].moved, "dropped": dropped, "joint": joint, **long}

    built = (build_item(task, doc, pairs[n][0], encoded[n], shots[n], requests(n), changes(n)) for n, doc in enumerate(docs))
    return tuple(with_seed(each, plan.seed) for each in built)


def with_seed(prepared: PreparedItem, seed: int) -> PreparedItem:
    """The item with sample seeds that depend on the plan's random seed; unchanged where nothing is sampled."""
    if not seed or not any(isinstance(request, GenRequest) and request.temperature for request in prepared.requests):
        return prepared
    requests = (replace(r, seed=r.seed + SEED_STEP * seed) if isinstance(r, GenRequest) else r for r in prepared.requests)
    return replace(prepared, requests=tuple(requests))


def scored_joint(prompt: str, continuations: tuple[str, ...], doc: Doc, plan: Plan) -> str:
    """The text before a reference that is scored with it: the joint, and whitespace that moves from the end of a plain prompt."""
    moved = "" if plan.chat else prompt[len(prompt.rstrip()) :]
    return moved + continuations[0].removesuffix(doc.references[0])


def build_item(
    task: Task, doc: Doc, prompt: str, pair: EncodedPair, shots: tuple[Doc, ...], requests: tuple[Request, ...], changes: Mapping[str, Any]
) -> PreparedItem:
    item = Item(
        task=task.full_name,
        id=doc.id,
        group=doc.group,
        cluster=doc.cluster,
        prompt=prompt,
        choices=doc.choices,
        gold=doc.answer if doc.labelled else "",
        doc=doc_fields(doc, changes),
        shots=tuple(example.id for example in shots),
        key=digest_ids(pair.context, *pair.continuations),
    )
    return PreparedItem(item, doc, requests, sum(map(logical_tokens, requests)))


def doc_fields(doc: Doc, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The Doc's gold and meta as JSON; empty fields are left out.

    `changes` of the prompt: boundary tokens `moved`, few-shot examples `dropped`, tokens that an item that was `skipped` or `cut` needs,
    the text that is scored between prompt and reference (`joint`).
    """
    found = {
        "gold": doc.gold,
        "targets": list(doc.targets),
        "references": list(doc.references),
        "value": doc.value,
        "contexts": list(dict.fromkeys(doc.contexts)),
        "meta": dict(doc.meta),
        **changes,
    }
    return {name: value for name, value in found.items() if value or (name in ("gold", "value") and value is not None)}


def windows(pair: EncodedPair, positions: int, whole_last: bool = False) -> tuple[ScoreGroup, ...]:
    """One text as disjoint windows of the model's context length; each later window is conditioned on the token before it.
    With `whole_last`, the last one is conditioned on as many as fit.

    Source: lm-eval utils.get_rolling_token_windows with context_len=1.
    """
    context, (text,) = pair.context, pair.continuations
    room = positions - len(context) + 1
    if room < 1:
        what = f"the prompt alone needs {len(context)} tokens; the model's context is {positions}"
        raise AssayError(what, do="use a model with a longer context")
    groups = [ScoreGroup(context, (text[:room],))]
    for start in range(room, len(text), positions):
        first = max(0, len(text) - 1 - positions) if whole_last and len(text) < start + positions else start - 1
        groups.append(ScoreGroup(text[first:start], (text[start : start + positions],)))
    return tuple(groups)


def logical_tokens(request: Request) -> int:
    """Tokens if every continuation were sent as a full prompt of its own (what a peer sends to vLLM)."""
    if isinstance(request, GenRequest):
        return len(request.prompt)
    return sum(len(request.context) + len(continuation) for continuation in request.continuations)


def unmeasurable(task: Task, docs: Sequence[Doc]) -> list[str]:
    """One line per metric and reason for items whose answers the metric cannot measure, whatever the model says."""
    found = Counter(
        (metric.name, reason)
        for metric in task.metrics
        if metric.unmeasurable is not None
        for doc in docs
        if doc.labelled and (reason := metric.unmeasurable(doc))
    )
    return [f"{name} cannot measure {count} of {len(docs)} items: {reason}" for (name, reason), count in found.items()]


def fingerprint(task: Task, split: str, items: Sequence[Item]) -> str:
    """Hash of the rendered items and of how they are scored; equal for models with different tokenizers."""
    state = hashlib.sha256()
    head = [task.full_name, task.version, split, repr(task.ask), [[m.name, scorer(m, items)] for m in task.metrics]]
    state.update(json.dumps(head).encode())
    for item in items:
        state.update(json.dumps([item.id, item.prompt, item.choices, item.gold, item.group]).encode())
    return state.hexdigest()[:24]
