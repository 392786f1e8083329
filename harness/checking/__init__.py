"""Validity checks: is a task fit to measure with, and is a run's score to be believed? (`assay check`)"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from assay.harness.checking.answers import Answered, answer_findings
from assay.harness.checking.fields import field_findings
from assay.harness.checking.finding import Checked, Finding, Level, Place, gravest_first
from assay.harness.checking.items import item_findings
from assay.harness.checking.leaks import leak_findings
from assay.harness.checking.material import Material, gather
from assay.harness.checking.overlap import overlap_findings
from assay.harness.checking.scoring import scoring_findings
from assay.harness.decide.compare import mismatches, side_of
from assay.harness.errors import AssayError, Incomplete
from assay.harness.files.places import Access
from assay.harness.prompt.render import render
from assay.harness.run.scoring.stored_tasks import selection_of
from assay.harness.run.selection import select
from assay.harness.store import Run
from assay.harness.task.task import Task

__all__ = ["Checked", "Finding", "Level", "Place", "check_file", "check_run", "check_task", "check_tasks"]

EXAMPLES = 3


def check_task(task: Task, access: Access, shots: int | None = None, split: str = "") -> Checked:
    """Every check of one task that needs no model. Raises AssayError where its data are missing."""
    material, findings = gather(task, access, shots, split)
    findings += worked_findings(task)
    if material is None:
        return Checked(task.full_name, gravest_first(findings))
    scoring, scores = scoring_findings(material)
    findings += [*leak_findings(material), *item_findings(material), *overlap_findings(material), *field_findings(material), *scoring]
    facts = {
        "split": material.split,
        "items": len(material.docs),
        "shots": max(map(len, material.shown)),
        "ask": type(task.ask).__name__.lower(),
        "metric": task.metrics[0].name,
        **scores,
    }
    return Checked(task.full_name, gravest_first(findings), facts, examples_of(material))


def check_tasks(tasks: Sequence[Task], access: Access, shots: int | None = None, split: str = "") -> list[Checked]:
    """Every check of several tasks. Where one of many has no data, that is a finding of its own; a single one raises AssayError."""
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
    """What is wrong with the tasks of a file, gravest first; nothing for a sound one. For the tests of task authors."""
    checked = check_tasks(select([str(path)], Access()).tasks, Access())
    return tuple(finding for each in checked for finding in each.findings if finding.level != "I")


def worked_findings(task: Task) -> list[Finding]:
    """Worked examples that do not give the prompt or the answer that they promise."""
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
    what = f"{len(places)} of {len(task.worked)} worked examples do not hold"
    return [
        Finding(
            "worked", "E", task.full_name, what, "mend the example, or the doc function; a changed prompt raises the version", tuple(places)
        )
    ]


def examples_of(material: Material) -> tuple[dict[str, Any], ...]:
    """The first, middle and last prompt as they are sent."""
    last = len(material.docs) - 1
    return tuple(
        {
            "row": material.numbers[index],
            "id": material.docs[index].id,
            "prompt": material.prompts[index].prompt,
            "continuations": list(material.prompts[index].continuations),
            "gold": material.docs[index].answer if material.docs[index].labelled else "",
        }
        for index in sorted({0, last // 2, last})
    )


def check_run(run: Run, access: Access, baseline: Run | None = None) -> list[Checked]:
    """Every check of a run that needs no model, task by task; with a `baseline`, also whether the two may be compared.

    Raises Incomplete for a run that is not finished, AssayError where one of its tasks is no longer known.
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
    apart = comparability(run, baseline, access) if baseline is not None else {}
    found = []
    for facts in run.manifest["tasks"]:
        name = facts["name"]
        if name not in tasks:
            raise AssayError("the run's task is not known", where=name, do="install its plugin")
        if missing := [item.id for item in items[name] if (name, item.id) not in records]:
            raise AssayError(f"has no answer to {missing[0]!r}", where=f"{run.id}, {name}", do="assay store check tells what else is wrong")
        told = tuple(records[name, item.id] for item in items[name])
        answered = Answered(tasks[name], facts, tuple(items[name]), told, tuple(results[name]))
        findings = gravest_first([*answer_findings(answered), *apart.get(name, ())])
        shown = {"split": facts.get("split", ""), "items": len(told), "shots": facts.get("shots"), "results": list(answered.results)}
        found.append(Checked(name, findings, shown))
    return found


def comparability(run: Run, baseline: Run, access: Access) -> dict[str, list[Finding]]:
    """Fields in which the run and its baseline differ and must not."""
    one, two = side_of(baseline, access), side_of(run, access)
    found: dict[str, list[Finding]] = defaultdict(list)
    for each in mismatches(one, two, [name for name in one.tasks if name in two.tasks]):
        found[each.task].append(Finding("comparability", "E", each.task, str(each), "run both the same way"))
    return found
