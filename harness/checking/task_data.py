"""Reads what checks of a task need: rows, Docs, few-shot examples and rendered prompts. Faulty rows become findings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from assay.harness.checking.finding import Finding, Place
from assay.harness.errors import AssayError
from assay.harness.files.places import Access
from assay.harness.prompt.render import Rendered, render
from assay.harness.prompt.shots import choose_examples
from assay.harness.run.prepare import default_split, load_rows, read_doc, with_ids
from assay.harness.task.doc import Doc, Row
from assay.harness.task.task import Task


@dataclass(frozen=True, slots=True)
class TaskData:
    """A task with its rendered items. `numbers`: row numbers of `docs`; `pool`: docs of the split for few-shot examples and training;
    `few_shot`: the few-shot examples of every doc; `prompts`: the rendered prompts."""

    task: Task
    split: str
    rows: tuple[Row, ...]
    docs: tuple[Doc, ...]
    numbers: tuple[int, ...]
    pool_split: str
    pool: tuple[Doc, ...]
    few_shot: tuple[tuple[Doc, ...], ...]
    prompts: tuple[Rendered, ...]

    def place(self, index: int, note: str = "") -> Place:
        """The row and item id of the index-th doc."""
        return Place(self.numbers[index], self.docs[index].id, note)


def read_task_data(task: Task, access: Access, shots: int | None = None, split: str = "") -> tuple[TaskData | None, list[Finding]]:
    """Reads a task's data: the data (None if no item can be rendered) and findings about faulty rows.

    Raises AssayError if the data are missing.
    """
    name = task.full_name
    split = split or task.split or default_split(task, access)
    read = load_rows(task, split, access)
    findings: list[Finding] = []
    if not read.rows:
        return None, [Finding("rows", "E", name, f"split {split!r} is empty", "check the data")]
    if not read.complete:
        findings.append(Finding("data", "I", name, f"split {split!r} is incomplete: missing rows are not checked"))
    if load_rows(task, split, access).digest != read.digest:
        findings.append(Finding("rows", "E", name, f"split {split!r} gives different rows when read again", "make its rows deterministic"))
    docs, numbers = read_docs(task, read.rows, split, findings)
    if not docs:
        return None, findings
    pool_split = pool_of(task, split, access)
    pool_rows = load_rows(task, pool_split, access).rows if pool_split else ()
    pool = read_docs(task, pool_rows, pool_split, findings)[0]
    same = task.shots.order == "per_item" or task.shots.split == split  # examples are items of the scored split
    few_shot = few_shot_of(task, task.shots.count if shots is None else shots, docs, docs if same else pool, findings)
    if task.varies is not None:  # every form of an item, with the item's few-shot examples
        forms = [(index, form) for index, doc in enumerate(docs) for form in task.varies.make(doc)]
        docs, numbers, few_shot = (
            [form for _, form in forms],
            [numbers[index] for index, _ in forms],
            [few_shot[index] for index, _ in forms],
        )
    kept, prompts = rendered(task, docs, few_shot, numbers, findings)
    found = TaskData(
        task,
        split,
        read.rows,
        tuple(docs[index] for index in kept),
        tuple(numbers[index] for index in kept),
        pool_split,
        tuple(pool),
        tuple(few_shot[index] for index in kept),
        prompts,
    )
    return found if kept else None, findings


def read_docs(task: Task, rows: Sequence[Row], split: str, findings: list[Finding]) -> tuple[list[Doc], list[int]]:
    """The docs of all valid rows, with their row numbers."""
    docs: list[Doc] = []
    numbers: list[int] = []
    faults: list[Place] = []
    for number, row in enumerate(rows):
        try:
            docs.append(read_doc(task, row, split, number))
            numbers.append(number)
        except AssayError as error:
            faults.append(Place(number, note=f"{error.what}{f'; {error.do}' if error.do else ''}"))
    if faults:
        what = f"{len(faults)} of {len(rows)} rows of {split!r} cannot be read as a Doc"
        findings.append(Finding("doc", "E", task.full_name, what, "fix the rows or the task's doc function", tuple(faults)))
    return unique(task, docs, numbers, split, findings), numbers


def unique(task: Task, docs: list[Doc], numbers: list[int], split: str, findings: list[Finding]) -> list[Doc]:
    """Docs with unique ids; a repeated id becomes a finding and is replaced."""
    seen: dict[str, int] = {}
    places: list[Place] = []
    for index, doc in enumerate(docs):
        if doc.id and doc.id in seen:
            places.append(Place(numbers[index], doc.id, f"row {seen[doc.id]} has this id"))
            docs[index] = replace(doc, id="")
        elif doc.id:
            seen[doc.id] = numbers[index]
    if places:
        what = f"{len(places)} rows of {split!r} have the id of another row"
        findings.append(Finding("ids", "E", task.full_name, what, "give unique ids, or none", tuple(places)))
    return with_ids(docs, task)


def pool_of(task: Task, split: str, access: Access) -> str:
    """The split for few-shot examples and training, if the data have one besides the scored split; else empty."""
    if task.shots.order == "per_item":
        return ""
    there = task.rows.splits(access)
    return next((name for name in (task.shots.split, "train") if name in there and name != split), "")


def few_shot_of(task: Task, count: int, docs: list[Doc], pool: list[Doc], findings: list[Finding]) -> list[tuple[Doc, ...]]:
    """The few-shot examples of every doc; none, and a finding, if they cannot be drawn."""
    try:
        draw = choose_examples(task, count, pool, docs, seed=0)
        own = [Place(None, docs[index].id) for index in range(len(docs)) if draw.changed(index)]
        if own and pool is docs and task.shots.order != "per_item":
            what = f"{len(own)} of {len(docs)} items get other few-shot examples than the protocol's, which show the item's own question"
            findings.append(Finding("shots", "E", task.full_name, what, "draw few-shot examples from another split", tuple(own)))
        return [draw(index) for index in range(len(docs))]
    except AssayError as error:
        findings.append(Finding("shots", "E", task.full_name, error.what, error.do))
        return [()] * len(docs)


def rendered(
    task: Task, docs: Sequence[Doc], few_shot: Sequence[tuple[Doc, ...]], numbers: Sequence[int], findings: list[Finding]
) -> tuple[list[int], tuple[Rendered, ...]]:
    """Prompts of all docs that can be rendered, with their indices."""
    kept: list[int] = []
    prompts: list[Rendered] = []
    faults: list[Place] = []
    for index, doc in enumerate(docs):
        try:
            prompts.append(render(task, doc, few_shot[index]))
            kept.append(index)
        except AssayError as error:
            faults.append(Place(numbers[index], doc.id, error.what))
    if faults:
        what = f"{len(faults)} of {len(docs)} items cannot be rendered"
        findings.append(Finding("prompt", "E", task.full_name, what, "give each Doc what the task's ask needs", tuple(faults)))
    return kept, tuple(prompts)
