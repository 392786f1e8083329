"""Validity checks of tasks and stored runs (`assay check`)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from assay.harness.checking.fields import field_findings
from assay.harness.checking.finding import Checked, Finding, Level, Place, most_severe_first
from assay.harness.checking.items import item_findings
from assay.harness.checking.leaks import leak_findings
from assay.harness.checking.overlap import overlap_findings
from assay.harness.checking.responses import TaskRecords, response_findings
from assay.harness.checking.scoring import scoring_findings
from assay.harness.checking.task_data import TaskData, read_task_data
from assay.harness.decide.compare import mismatches, side_of
from assay.harness.errors import AssayError, Incomplete
from assay.harness.files.places import Access
from assay.harness.prompt.render import render
from assay.harness.run.prepare import unmeasurable
from assay.harness.run.scoring.stored_tasks import selection_of
from assay.harness.run.selection import select
from assay.harness.store import Run
from assay.harness.task.task import Task

__all__ = ["Checked", "Finding", "Level", "Place", "check_file", "check_run", "check_task", "check_tasks"]

EXAMPLES = 3


def check_task(task: Task, access: Access, shots: int | None = None, split: str = "") -> Checked:
    """Runs every check of a task that needs no model. Raises AssayError if its data are missing."""
    data, findings = read_task_data(task, access, shots, split)
    findings += worked_findings(task)
    if data is None:
        return Checked(task.full_name, most_severe_first(findings))
    scoring, scores = scoring_findings(data)
    findings += [*leak_findings(data), *item_findings(data), *overlap_findings(data), *field_findings(data), *scoring]
    findings += [Finding("metric", "W", task.full_name, line) for line in unmeasurable(task, data.docs)]
    facts = {
        "split": data.split,
        "items": len(data.docs),
        "shots": max(map(len, data.few_shot)),
        "ask": type(task.ask).__name__.lower(),
        "metric": task.metrics[0].name,
        **({"notes": list(task.notes)} if task.notes else {}),
        **scores,
    }
    return Checked(task.full_name, most_severe_first(findings), facts, examples_of(data))


def check_tasks(tasks: Sequence[Task], access: Access, shots: int | None = None, split: str = "") -> list[Checked]:
    """Checks several tasks. Missing data of one of many are a finding; of a single task they raise AssayError."""
    found = []
    for task in tasks:
        try:
            found.append(check_task(task, access, shots, split))
        except AssayError as error:
            if len(tasks) == 1:
                raise
            found.append(Checked(task.full_name, (Finding("data", "W", task.full_name, f"not checked: {error.what}", error.do),)))
    return found


def check_file(path: str | Path) -> tuple[Finding, ...]:
    """Errors and warnings about the tasks of a file, most severe first. For the tests of task authors."""
    checked = check_tasks(select([str(path)], Access()).tasks, Access())
    return tuple(finding for each in checked for finding in each.findings if finding.level != "I")


def worked_findings(task: Task) -> list[Finding]:
    """Worked examples whose prompt or answer differs from what the task renders."""
    places = []
    for number, worked in enumerate(task.worked):
        try:
            doc = task.doc(worked.row)
            whole = render(task, doc).prompt
        except Exception as error:  # the author's code may raise anything
            places.append(Place(number, note=f"{type(error).__name__}: {error}"))
            continue
        answer = doc.answer if doc.labelled else ""
        if worked.prompt not in (whole, doc.prompt):
            places.append(Place(number, note=f"the prompt is {whole!r:.200}"))
        elif worked.answer != answer:
            places.append(Place(number, note=f"the answer is {answer!r:.80}, not {worked.answer!r:.80}"))
    if not places:
        return []
    what = f"{len(places)} of {len(task.worked)} worked examples do not match"
    return [
        Finding(
            "worked",
            "E",
            task.full_name,
            what,
            "fix the example or the doc function; raise the version if the prompt changed",
            tuple(places),
        )
    ]


def examples_of(data: TaskData) -> tuple[dict[str, Any], ...]:
    """The first, middle and last prompt as the model gets them."""
    last = len(data.docs) - 1
    return tuple(
        {
            "row": data.numbers[index],
            "id": data.docs[index].id,
            "prompt": data.prompts[index].prompt,
            "continuations": list(data.prompts[index].continuations),
            "gold": data.docs[index].answer if data.docs[index].labelled else "",
        }
        for index in sorted({0, last // 2, last})
    )


def check_run(run: Run, access: Access, baseline: Run | None = None) -> list[Checked]:
    """Runs every check of a run that needs no model, per task; with a `baseline`, also whether the two are comparable.

    Raises Incomplete if the run is not complete, AssayError if one of its tasks is unknown.
    """
    if run.status != "complete":
        raise Incomplete("the run is not complete", where=run.id, do=f"assay resume {run.id}")
    tasks = {task.full_name: task for task in selection_of(run, access).tasks}
    items, results = defaultdict(list), defaultdict(list)
    for item in run.items():
        items[item.task].append(item)
    records = {(record.task, record.item): record for record in run.records()}
    for result in run.summary()["results"]:
        results[result["task"]].append(result)
    differing = comparability(run, baseline, access) if baseline is not None else {}
    found = []
    for facts in run.manifest["tasks"]:
        name = facts["name"]
        if name not in tasks:
            raise AssayError("unknown task of the run", where=name, do="install the plugin that defines it")
        if missing := [item.id for item in items[name] if (name, item.id) not in records]:
            raise AssayError(f"item {missing[0]!r} has no response", where=f"{run.id}, {name}", do="list all damage with assay store check")
        answers = tuple(records[name, item.id] for item in items[name])
        stored = TaskRecords(tasks[name], facts, tuple(items[name]), answers, tuple(results[name]))
        findings = most_severe_first([*response_findings(stored), *differing.get(name, ())])
        shown = {"split": facts.get("split", ""), "items": len(answers), "shots": facts.get("shots"), "results": list(stored.results)}
        found.append(Checked(name, findings, shown))
    return found


def comparability(run: Run, baseline: Run, access: Access) -> dict[str, list[Finding]]:
    """Findings for each field that must agree between a run and its baseline and does not."""
    one, two = side_of(baseline, access), side_of(run, access)
    found: dict[str, list[Finding]] = defaultdict(list)
    for each in mismatches(one, two, [name for name in one.tasks if name in two.tasks]):
        found[each.task].append(Finding("comparability", "E", each.task, str(each), "evaluate both with the same settings"))
    return found
