"""Prepares a study: reads its data, keeps training and scored rows apart, and scores the untuned base."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from assay import Access, AssayError, Doc, ModelRef, Task
from assay.harness.run.stages import default_split, open_tokenizer
from assay.tuners.study.along import prepare_live
from assay.tuners.study.design import Study, check_methods
from assay.tuners.study.scoring import Score, Scorer, shots_name
from assay.tuners.study.trial import StudySetup
from assay.tuners.training.batches import Example, Limit
from assay.tuners.training.data import (
    check_overlap,
    doc_label,
    find_tasks,
    read_docs,
    read_texts,
    split_overlap,
    task_examples,
    text_examples,
    without_overlap,
)
from assay.tuners.training.mix import mix
from assay.tuners.training.state import write_atomic
from assay.tuners.training.train import Recipe


def prepare_study(study: Study, model: ModelRef, access: Access, scorer: Scorer, root: Path) -> StudySetup:
    """Read all data and score the base once. Raises AssayError for missing splits and for training rows that are scored."""
    check_methods(study.methods, study.options)
    tasks = {name: single_task(find_tasks([name], access), name) for name in (*study.targets, *study.retain)}
    check_distinct(tasks)
    tokenizer = open_tokenizer(model.path)
    scored = [(task, read_docs(task, scored_split(task, access), access)) for task in tasks.values()]
    training, validation, excluded = {}, {}, {}
    rate_splits: dict[str, tuple[str, int]] = {}
    for name in study.targets:
        training[name], held, chooses, excluded[name] = split_target(study, tasks[name], access)
        rate_splits |= {name: chooses} if chooses else {}
        check_overlap(tasks[name], training[name], scored)
        probed = task_examples(tasks[name], held[: study.probes], tokenizer, model.positions, study.chat, study.max_length)
        validation[name] = first_tokens(probed)
    protected, probes = retention_examples(study, tasks, tokenizer, model.positions, access, scored)
    few_shot = find_few_shot_tasks(study, tasks, scored, access)
    texts = read_neutral(study.text, access) if study.text else []
    text, bytes_per_token, used = neutral_text(study, texts, tokenizer, model.positions)
    known = {*texts[:used], *(doc.answer for _, docs in scored for doc in docs)}
    unmeasured = [] if protected else [each for each in texts[used:] if each not in known][: study.examples]
    limits = {tasks[name].full_name: study.limit for name in study.targets}
    limits |= {tasks[name].full_name: study.retain_limit or study.limit for name in study.retain}
    more = {name: neutral_text(study, read_neutral(name, access), tokenizer, model.positions)[:2] for name in study.more_texts}
    live = [prepare_live(task, model, access, tokenizer, limits[task.full_name], study.chat) for task in tasks.values() if study.points]
    usual = Recipe(
        lr=0.0, micro=study.micro, checkpoint_every=50, precision=pick_precision(), gradient_checkpointing=study.gradient_checkpointing
    )
    return StudySetup(
        base=model.path, positions=model.positions, tokenizer=tokenizer, tasks=tasks, training=training, rate_splits=rate_splits,
        validation=validation, protected=protected, probes=probes, retain=study.retain,
        before=base_scores(study, tasks, model, scorer, root, few_shot),
        scorer=scorer, recipe=replace(usual, **study.recipe), batch=study.batch, limit=Limit(study.steps, study.epochs),
        max_length=study.max_length, chat=study.chat, text=text, bytes_per_token=bytes_per_token,
        spare_text=text_examples(unmeasured, tokenizer, model.positions)[: study.examples], excluded=excluded,
        scored={task.full_name: docs[: limits[task.full_name]] for task, docs in scored},
        rate_role="rate" if study.rate_seeds else "grid", retain_limit=study.retain_limit,
        retain_shots=study.retain_shots, few_shot=few_shot, keep_models=study.keep_models, model=model, points=study.points,
        live={each.task.full_name: each for each in live}, more_text=more,
    )  # fmt: skip


def base_scores(
    study: Study, tasks: Mapping[str, Task], model: ModelRef, scorer: Scorer, root: Path, few_shot: tuple[str, ...] = ()
) -> dict[str, Score]:
    """Scores of the untuned base, per item; stored in `base.json`, so that a resumed study compares with the same scores. Targets that a
    study has gained are added.

    The tasks in `few_shot` are also scored with few-shot examples.
    """
    path = root / "base.json"
    held = {name: Score(**fields) for name, fields in json.loads(path.read_text()).items()} if path.is_file() else {}
    found = dict(held)
    if new := tuple(name for name in study.targets if tasks[name].full_name not in held):
        found |= scorer(model.path, None, new)
    if study.retain and not held:
        found |= scorer(model.path, None, study.retain, limit=study.retain_limit)
    if few_shot and not held:
        prompted = scorer(model.path, None, few_shot, shots=study.retain_shots, limit=study.retain_limit)
        found |= {shots_name(name, study.retain_shots): score for name, score in prompted.items()}
    if found != held or not path.is_file():
        write_atomic(path, json.dumps({name: score.as_json() for name, score in found.items()}).encode(), "the base is scored again")
    return {name: Score(**fields) for name, fields in json.loads(path.read_text()).items()}


def find_few_shot_tasks(
    study: Study, tasks: Mapping[str, Task], scored: Sequence[tuple[Task, Sequence[Doc]]], access: Access
) -> tuple[str, ...]:
    """Retention tasks that are also scored with few-shot examples: those with enough rows that are not scored.

    Raises AssayError if there is no such task.
    """
    if not study.retain_shots:
        return ()
    found = []
    for name in study.retain:
        split = tasks[name].shots.split
        scored_docs = next(docs for task, docs in scored if task is tasks[name])
        pool = read_docs(tasks[name], split, access) if split in tasks[name].rows.splits(access) else []
        found += [name] if len(without_overlap(pool, scored_docs)) >= study.retain_shots else []
    if not found:
        raise AssayError(
            "no retention task has rows for few-shot examples", where="retain_shots", do="add a retention task with a train split"
        )
    return tuple(found)


def pick_precision() -> Literal["no", "bf16"]:
    """bf16 arithmetic on fp32 weights if the GPU supports it."""
    import torch

    return "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "no"


def scored_split(task: Task, access: Access) -> str:
    """The split that the pipeline scores."""
    return task.split or default_split(task, access)


def split_target(study: Study, task: Task, access: Access) -> tuple[list[Doc], list[Doc], tuple[str, int] | None, tuple[str, ...]]:
    """Training docs; docs that are not trained on, to choose the learning rate and to measure KL; the split and number of rows on which it
    is chosen (None: there is one learning rate); the labels of excluded training docs.

    The learning rate is chosen on the validation split if that is not the scored one, else on the first rows of the training split,
    which are then not trained on. Training rows that the task also scores are excluded: repeats across splits are common.
    """
    train, split = read_docs(task, "train", access), scored_split(task, access)
    scored = read_docs(task, split, access)
    chooses = len(study.rates) > 1 or bool(study.rate_seeds)
    has_validation = split != "validation" and "validation" in task.rows.splits(access)
    taken = 0 if has_validation or not chooses else study.held
    held = read_docs(task, "validation", access)[: study.held] if has_validation else train[:taken]
    remaining, repeated = split_overlap(train[taken:], [*held, *scored])
    used = remaining if study.all_rows else remaining[: study.examples]
    chosen_on = ("validation" if has_validation else "train", len(held)) if chooses else None
    return used, held or scored, chosen_on, tuple(map(doc_label, repeated))


def first_tokens(examples: Sequence[Example], most: int = 2048) -> list[Example]:
    """The first examples, at least one, with at most so many loss tokens: log-probabilities over the vocabulary take 0.2 MB a token."""
    total, kept = 0, list[Example]()
    for example in examples:
        total += example.loss_tokens
        if kept and total > most:
            break
        kept.append(example)
    return kept


def single_task(tasks: Sequence[Task], name: str) -> Task:
    if len(tasks) != 1:
        raise AssayError(f"{name!r} is a group of {len(tasks)} tasks", where="study", do="list the single tasks instead")
    return tasks[0]


def check_distinct(tasks: Mapping[str, Task]) -> None:
    """Raises AssayError if two names are the same task: it would be both target and retention task, or counted twice."""
    for name, count in Counter(task.full_name for task in tasks.values()).items():
        if count > 1:
            both = " and ".join(each for each, task in tasks.items() if task.full_name == name)
            raise AssayError(f"{both} are the same task", where="study", do="list every task once, as a target or for retention")


def retention_examples(
    study: Study, tasks: Mapping[str, Task], tokenizer: Any, positions: int, access: Access, scored: Sequence[tuple[Task, Sequence[Doc]]]
) -> tuple[list[Example], list[Example]]:
    """Training examples of the retention tasks in equal shares, to replay or protect, and other examples to measure KL on.

    Scored items are excluded, except a task's own items if it has no other rows (the toy's sums: only a hundred exist).
    """
    pools: dict[str, list[Example]] = {}
    probes: list[Example] = []
    for name in study.retain:
        task = tasks[name]
        if "train" not in task.rows.splits(access):
            continue
        others = without_overlap(read_docs(task, "train", access), [doc for other, docs in scored if other is not task for doc in docs])
        docs = without_overlap(others, next(docs for other, docs in scored if other is task)) or others
        if not docs:
            continue
        each = study.probes // max(1, len(study.retain))
        examples = task_examples(task, docs[: study.examples + each], tokenizer, positions, study.chat)
        probes += first_tokens(examples[:each], 2048 // len(study.retain))
        pools[name] = examples[each:] or examples
    equal = mix(pools, 1e9, study.examples, 0) if pools else []
    return equal, probes


def read_neutral(name: str, access: Access) -> list[str]:
    """Neutral texts, from a file or from a task's scored split."""
    if Path(name).is_file() or Path(name).suffix == ".txt":
        return read_texts(Path(name))
    task = single_task(find_tasks([name], access), name)
    return [doc.answer for doc in read_docs(task, scored_split(task, access), access)]


def neutral_text(study: Study, texts: Sequence[str], tokenizer: Any, positions: int) -> tuple[list[Example], float, int]:
    """Windows of the study's texts up to its token limit; UTF-8 bytes per loss token; the number of texts used. The other texts are
    never measured on and may be replayed."""
    if not study.text:
        return [], 0.0, 0
    chosen: list[Example] = []
    size = tokens = used = 0
    for text in texts:
        examples = text_examples([text], tokenizer, positions)
        tokens += sum(example.loss_tokens for example in examples)
        if chosen and tokens > study.text_tokens:
            break
        chosen += examples
        size += len(text.encode())
        used += 1
    if not chosen:
        raise AssayError("no text found", where=study.text, do="give a file or a task with texts of several words")
    return chosen, size / sum(example.loss_tokens for example in chosen), used
