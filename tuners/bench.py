"""What all trials of a study share: data that must not be mixed up, and the untuned base's scores."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from harness import Access, AssayError, Doc, ModelRef, Task
from harness.pipeline import default_split, open_tokenizer
from tuners.batches import Example
from tuners.data import check_overlap, find_tasks, read_docs, read_texts, task_examples, text_examples, without_overlap
from tuners.design import Study
from tuners.mix import mix
from tuners.scoring import Score, Scorer, shots_name
from tuners.state import write_whole
from tuners.train import Recipe
from tuners.trial import Bench


def open_bench(study: Study, model: ModelRef, access: Access, scorer: Scorer, root: Path) -> Bench:
    """Read all data and score the base, once. Raises AssayError for missing splits and for training rows that are scored."""
    tasks = {name: one(find_tasks([name], access), name) for name in (*study.targets, *study.retain)}
    tokenizer = open_tokenizer(model.path)
    scored = [(task, read_docs(task, scored_split(task, access), access)) for task in tasks.values()]
    training, validation, choosing = {}, {}, {}
    for name in study.targets:
        train, held, choosing[name] = split_target(study, tasks[name], access)
        check_overlap(tasks[name], train, scored)
        training[name] = train
        validation[name] = task_examples(tasks[name], held[: study.probes], tokenizer, model.positions)
    protected, probes = kept_skills(study, tasks, tokenizer, model.positions, access, scored)
    shown = with_examples(study, tasks, scored, access)
    text, bytes_per_token = neutral_text(study, tokenizer, model.positions, access)
    return Bench(
        base=model.path, positions=model.positions, tokenizer=tokenizer, tasks=tasks, training=training, choosing=choosing,
        validation=validation, protected=protected, probes=probes, retain=study.retain,
        before=base_scores(study, model, scorer, root, shown),
        scorer=scorer, recipe=Recipe(lr=0.0, micro=study.micro, checkpoint_every=50, precision=pick_precision()), batch=study.batch,
        text=text, bytes_per_token=bytes_per_token, chooses=("rate",) if study.rate_seeds else ("grid",),
        retain_limit=study.retain_limit, retain_shots=study.retain_shots, shown=shown, keep_models=study.keep_models,
    )  # fmt: skip


def base_scores(study: Study, model: ModelRef, scorer: Scorer, root: Path, shown: tuple[str, ...] = ()) -> dict[str, Score]:
    """Scores of the untuned base, with their items; kept in `base.json`, so that a study that goes on compares with the same ones.

    Those of the tasks in `shown` are there with examples in the prompt too.
    """
    path = root / "base.json"
    if not path.is_file():
        found = scorer(model.path, None, study.targets)
        if study.retain:
            found |= scorer(model.path, None, study.retain, limit=study.retain_limit)
        if shown:
            prompted = scorer(model.path, None, shown, shots=study.retain_shots, limit=study.retain_limit)
            found |= {shots_name(name, study.retain_shots): score for name, score in prompted.items()}
        write_whole(path, json.dumps({name: score.as_json() for name, score in found.items()}).encode(), "the base is scored again")
    return {name: Score(**fields) for name, fields in json.loads(path.read_text()).items()}


def with_examples(study: Study, tasks: Mapping[str, Task], scored: Sequence[tuple[Task, Sequence[Doc]]], access: Access) -> tuple[str, ...]:
    """Retention tasks that are scored with examples in the prompt too: those with enough rows of which none is asked.

    Raises AssayError where there is no such task.
    """
    if not study.retain_shots:
        return ()
    found = []
    for name in study.retain:
        split = tasks[name].shots.split
        asked = next(docs for task, docs in scored if task is tasks[name])
        pool = read_docs(tasks[name], split, access) if split in tasks[name].rows.splits(access) else []
        found += [name] if len(without_overlap(pool, asked)) >= study.retain_shots else []
    if not found:
        raise AssayError("no retention task has rows to show as examples", where="retain_shots", do="name one with a train split")
    return tuple(found)


def pick_precision() -> Literal["no", "bf16"]:
    """bf16 arithmetic on fp32 weights where the GPU has it."""
    import torch

    return "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "no"


def scored_split(task: Task, access: Access) -> str:
    """The split that the pipeline scores."""
    return task.split or default_split(task, access)


def split_target(study: Study, task: Task, access: Access) -> tuple[list[Doc], list[Doc], tuple[str, int]]:
    """Training docs, the docs on which the rate is chosen, and where the pipeline finds those.

    They are the validation split where that is not the scored one, else the first rows of the training split, which are then
    not trained on. Training rows that are scored by the task are left out too: repeats across splits are common.
    """
    train = read_docs(task, "train", access)
    tested = scored_split(task, access)
    apart = tested != "validation" and "validation" in task.rows.splits(access)
    held = read_docs(task, "validation", access)[: study.held] if apart else train[: study.held]
    kept = without_overlap(train if apart else train[study.held :], [*held, *read_docs(task, tested, access)])
    return kept[: study.examples], held, ("validation" if apart else "train", len(held))


def one(tasks: Sequence[Task], name: str) -> Task:
    if len(tasks) != 1:
        raise AssayError(f"{name!r} stands for {len(tasks)} tasks", where="study", do="name single tasks as targets and for retention")
    return tasks[0]


def kept_skills(
    study: Study, tasks: Mapping[str, Task], tokenizer: Any, positions: int, access: Access, scored: Sequence[tuple[Task, Any]]
) -> tuple[list[Example], list[Example]]:
    """Training examples of the retention tasks, to replay or protect in equal shares, and other ones to measure KL on.

    Items that are scored are left out, unless a task has no others (all hundred sums of two digits).
    """
    pools: dict[str, list[Example]] = {}
    probes: list[Example] = []
    for name in study.retain:
        task = tasks[name]
        if "train" not in task.rows.splits(access):
            continue
        asked = next(docs for other, docs in scored if other is task)
        docs = without_overlap(read_docs(task, "train", access), asked) or read_docs(task, "train", access)
        each = study.probes // max(1, len(study.retain))
        examples = task_examples(task, docs[: study.examples + each], tokenizer, positions)
        probes += examples[:each]
        pools[name] = examples[each:] or examples
    equal = mix(pools, 1e9, study.examples, 0) if pools else []
    return equal, probes


def neutral_text(study: Study, tokenizer: Any, positions: int, access: Access) -> tuple[list[Example], float]:
    """Windows of the study's text up to its limit of tokens, and how many bytes a token with loss stands for."""
    if not study.text:
        return [], 0.0
    if Path(study.text).is_file() or Path(study.text).suffix == ".txt":
        texts = read_texts(Path(study.text))
    else:
        task = one(find_tasks([study.text], access), study.text)
        texts = [doc.answer for doc in read_docs(task, scored_split(task, access), access)]
    chosen: list[Example] = []
    size = left = 0
    for text in texts:
        examples = text_examples([text], tokenizer, positions)
        left += sum(example.loss_tokens for example in examples)
        if chosen and left > study.text_tokens:
            break
        chosen += examples
        size += len(text.encode())
    return chosen, size / sum(example.loss_tokens for example in chosen)
