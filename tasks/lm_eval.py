"""Any task of lm-evaluation-harness, as `lm-eval:NAME`: its prompts, filters and metrics, with assay's engines, intervals and gate.

`lm-eval:arc_challenge` is a task, `lm-eval:leaderboard` a group, `lm-eval:path/to/task.yaml` a file of your own, `lm-eval:FOLDER/NAME` a
name that the files of a folder define. `assay tasks lm-eval WORD` searches the names.

lm-eval's task objects are asked for their requests (`documents.py`), which go through assay's engines; the answers to one document go back
to `process_results` (`scores.py`), and its values become statistics that are stored as for any task. lm-eval is imported when a task is
loaded (`library.py`); the names are read from an index in the cache (`names.py`). A finished run is read, compared and gated without
lm-eval: its manifest holds the metrics. Only a metric with an aggregation of the task's own, and checking statistics again, need it.

It stands in `tasks`, not in `harness`, because it does what a benchmark family does: it says where rows come from, and how a row
becomes a Doc. `harness` knows it as it knows any other plugin: by its entry point.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from assay import Access, AssayError, Family, Generate, Layout, Loglikelihood, Perplexity, Shots, Task, Term, Total
from assay.harness.metrics.lm_eval import Scorer
from assay.tasks._lm_eval.documents import LmEvalRows, ask_of, plain, read_row
from assay.tasks._lm_eval.library import Group, Loaded, Reference, code_of, digest_of, file_of, load, refer, split_of
from assay.tasks._lm_eval.names import Name, folder, is_indexed, names_in, own_names, version
from assay.tasks._lm_eval.scores import metrics_of, scorers_of

CheckCode = Callable[[str, Path, bytes], None]
ASKS: Mapping[str, Callable[..., Loglikelihood | Generate | Perplexity]] = {
    "Loglikelihood": Loglikelihood,
    "Generate": Generate,
    "Perplexity": Perplexity,
}
LAYOUT = Layout(separator="", joint="")
"""lm-eval's continuations begin with their own delimiter."""


def from_reference(text: str, access: Access, check_code: CheckCode) -> Family:
    """The tasks that `lm-eval:text` names, with the means of its groups as totals.

    Raises AssayError where lm-eval is not installed or has no such task, and for tasks that cannot run here, with the reason.
    """
    reference = refer(text, access)
    for path in code_of(reference):
        check_code(reference.text, path, path.read_bytes())
    loaded = load(reference)
    means = [mean for group in loaded.groups for mean in totals_of(group)]
    tasks = tuple(task_of(reference, name, loaded, means) for name in loaded.tasks)
    return Family(reference.text, tasks, totals_from(tasks), about=f"{reference.name} of lm-eval {version()}")


def task_of(reference: Reference, name: str, loaded: Loaded, means: Sequence[tuple[str, str, Sequence[str] | None, bool, Group]]) -> Task:
    """One task object of lm-eval as a task, with the metrics that it has for its first document."""
    task, default = loaded.tasks[name], loaded.shots[name]
    repeats = int(task.get_config("repeats") or 1)
    rows = LmEvalRows(reference, name, split_of(task), "{}", default, default or 0)
    documents = rows.documents(task, limit=1)
    number, instances = next(iter(documents.items()))
    scorers = scorers_of(name, task, number, instances)
    simple = {scorer.name for scorer in scorers} <= {"acc", "acc_norm", "acc_bytes", "acc_mutual_info", "f1", "mcc", "brier_score"}
    own = callable(getattr(task.config, "process_results", None)) or task.OUTPUT_TYPE != "multiple_choice"
    ask = ask_of(name, documents, repeats, greedy=own or not simple)
    described = {
        "of": "lm_eval",
        "reference": reference.text,
        "task": name,
        "version": version(),
        "task_version": plain(task.VERSION),
        "yaml": digest_of(yaml_of(reference, task)),
        "split": rows.split,
        "default_shots": default,
        "repeats": repeats,
        "ask": [type(ask).__name__, asdict(ask)],
        "scorers": [scorer.as_json() for scorer in scorers],
        "means": [
            [total, scorer.name, by_size, len(group.leaves)]
            for total, metric, filters, by_size, group in means
            for scorer in scorers
            if name in group.leaves and belongs(scorer, metric, filters)
        ],
    }
    return described_task(reference, described)


def yaml_of(reference: Reference, task: Any) -> str:
    """The YAML file that defines a task."""
    source = (task.get_config("metadata") or {}).get("config_source", "")
    return source if source and Path(source).is_file() else file_of(reference)


def described_task(reference: Reference, facts: Mapping[str, Any]) -> Task:
    """The task that these facts describe; its objects are loaded when its rows are read or its responses are scored."""
    scorers = [Scorer(**each) for each in facts["scorers"]]
    kind, settings = facts["ask"]
    ask = ASKS[kind](**{key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()})
    default = facts["default_shots"]
    rows = LmEvalRows(reference, facts["task"], facts["split"], json.dumps(facts), default, default or 0)
    return Task(
        name=f"lm-eval:{facts['task']}",
        rows=rows,
        doc=read_row,
        ask=ask,
        metrics=metrics_of(reference, facts["task"], facts["repeats"], scorers),
        split=facts["split"],
        shots=Shots(rows.shots, order="source"),
        layout=LAYOUT,
        version=version_number(facts["task_version"]),
        about=f"{facts['task']} of lm-eval {facts['version']}, version {facts['task_version']}",
        citation="https://github.com/EleutherAI/lm-evaluation-harness",
        notes=opaque_notes(scorers),
    )


def opaque_notes(scorers: Sequence[Scorer]) -> tuple[str, ...]:
    names = [scorer.name for scorer in scorers if scorer.aggregation == "opaque"]
    return (f"the task's own code combines {', '.join(names)}: intervals by block jackknife",) if names else ()


def version_number(version: Any) -> int:
    """lm-eval's version of a task as an integer: 1.0 is 1; 0 if it is none."""
    try:
        return int(float(version))
    except (TypeError, ValueError):
        return 0


def from_facts(facts: Sequence[Mapping[str, Any]], access: Access, check_code: CheckCode) -> Family:
    """The tasks and totals of a stored run, from its manifest alone. Code of a user is loaded only if it is needed and trusted here."""
    tasks = tuple(described_task(stored_reference(each, access, check_code), each) for each in facts)
    return Family("lm-eval", tasks, totals_from(tasks))


def stored_reference(facts: Mapping[str, Any], access: Access, check_code: CheckCode) -> Reference:
    """The reference in the facts of a stored run. Raises AssayError for code on this machine that its user has not named here."""
    text = str(facts["reference"]).partition(":")[2]
    path = Path(text)
    if "/" not in text:
        return Reference(text, "", access)
    found = Reference(text, "", access) if path.suffix in (".yaml", ".yml") else Reference(path.name, str(path.parent), access)
    if folder() is not None and Path(found.home or found.name).exists():
        for file in code_of(found):
            check_code(facts["reference"], file, file.read_bytes())
    return found


def totals_of(group: Group) -> list[tuple[str, str, Sequence[str] | None, bool, Group]]:
    """The name of the total of each of a group's means: the group's own for the first, with the metric's for the others."""
    return [
        (f"lm-eval:{group.name}" if place == 0 else f"lm-eval:{group.name}:{metric}", metric, filters, by_size, group)
        for place, (metric, filters, by_size) in enumerate(group.means)
    ]


def belongs(scorer: Scorer, metric: str, filters: Sequence[str] | None) -> bool:
    base, _, chosen = scorer.name.partition(",")
    return base == metric and (filters is None or (chosen or "none") in filters)


def totals_from(tasks: Sequence[Task]) -> tuple[Total, ...]:
    """The totals that the tasks' facts list. A group's mean over several filters is one total per filter."""
    found: dict[tuple[str, str], list[tuple[Term, bool]]] = {}
    for task in tasks:
        assert isinstance(task.rows, LmEvalRows)
        for total, metric, by_size, _ in task.rows.facts()["means"]:
            found.setdefault((total, metric.partition(",")[2]), []).append((Term(task.full_name, metric, 1.0), by_size))
    totals, names = [], set()
    for (name, chosen), terms in found.items():
        unique = name if name not in names else f"{name},{chosen}"
        names.add(unique)
        by_size = terms[0][1]
        weight = 1.0 if by_size else 1.0 / len(terms)
        totals.append(Total(unique, tuple(replace(term, weight=weight) for term, _ in terms), by_size))
    return tuple(totals)


def search(text: str, access: Access) -> list[Name]:
    """The names of lm-eval that contain all words of a text, in alphabetical order. Raises AssayError if lm-eval is not installed."""
    words = text.lower().split()
    return [name for name in own_names(access).values() if all(word in name.name.lower() for word in words)]


def suggest(name: str, access: Access) -> str:
    """What to run instead of an unknown task, if lm-eval has one of this name; how to find out, if it is not installed."""
    home = folder()
    if home is None:
        return "lm-eval's tasks run as lm-eval:NAME after: pip install 'assay[lm-eval]'"
    if is_indexed(access):
        found = name in own_names(access)
    else:  # making the index takes many seconds, too long for an error message
        found = "/" not in name and next(home.rglob(f"{name}.yaml"), None) is not None
    return f"did you mean lm-eval:{name}?" if found else ""


def include(home: Path, text: str, access: Access) -> str:
    """The name after `lm-eval:`, with the folder where that defines it."""
    if not home.is_dir():
        raise AssayError("no such folder", where=f"--include-path {home}", do="give a folder of YAML files")
    return f"{home.resolve()}/{text}" if text in names_in(home.resolve(), access) else text
