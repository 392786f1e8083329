"""BIG-bench: any task in its JSON schema, scored by its own rules; the 24 tasks of BIG-bench Lite and their total.

`bigbench/strategyqa` has the task's preferred metric; `bigbench/strategyqa/generate` has its metrics of generated text, if any.
Subtasks are named `bigbench/bbq_lite_json/age_ambig`; the score of a task is the mean over its subtasks.
Data: `$ASSAY_DATA/google__BIG-bench/<task>[/<subtask>]/task.json`, or any folder or file as `bigbench:path`. `assay fetch bigbench-lite`
brings the task files of google/BIG-bench, which are those of the source package bigbench 1.0.0 (SHA-256 in bigbench_files.json).
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

from assay import Access, AssayError, Family, Published, Task, Term, Total, Worked
from assay.tasks._bigbench_json import TaskFile, read_json, read_task_file, task_files_in, tasks_of

FOLDER = "google__BIG-bench"
URL = "https://raw.githubusercontent.com/google/BIG-bench/092b196c1f8f14a54bbc62f24759d43bde46dd3b/bigbench/benchmark_tasks"
"""The last commit: the repository was archived in 2026."""
LITE = (
    "auto_debugging",
    "bbq_lite_json",
    "code_line_description",
    "conceptual_combinations",
    "conlang_translation",
    "emoji_movie",
    "formal_fallacies_syllogisms_negation",
    "hindu_knowledge",
    "known_unknowns",
    "language_identification",
    "linguistics_puzzles",
    "logic_grid_puzzle",
    "logical_deduction",
    "misconceptions_russian",
    "novel_concepts",
    "operators",
    "parsinlu_reading_comprehension",
    "play_dialog_same_or_different",
    "repeat_copy_logic",
    "strange_stories",
    "strategyqa",
    "symbol_interpretation",
    "vitaminc_fact_verification",
    "winowhy",
)
OTHERS = (
    "anachronisms",
    "arithmetic",
    "causal_judgment",
    "cause_and_effect",
    "common_morpheme",
    "crash_blossom",
    "crass_ai",
    "date_understanding",
    "disambiguation_qa",
    "dyck_languages",
    "empirical_judgments",
    "english_proverbs",
    "entailed_polarity",
    "evaluating_information_essentiality",
    "fantasy_reasoning",
    "figure_of_speech_detection",
    "geometric_shapes",
    "gre_reading_comprehension",
    "hhh_alignment",
    "identify_odd_metaphor",
    "implicit_relations",
    "intent_recognition",
    "irony_identification",
    "key_value_maps",
    "logical_args",
    "logical_sequence",
    "metaphor_boolean",
    "movie_recommendation",
    "navigate",
    "object_counting",
    "odd_one_out",
    "penguins_in_a_table",
    "phrase_relatedness",
    "physics",
    "reasoning_about_colored_objects",
    "rephrase",
    "riddle_sense",
    "ruin_names",
    "salient_translation_error_detection",
    "simple_arithmetic_json",
    "simple_arithmetic_json_multiple_choice",
    "snarks",
    "sports_understanding",
    "sufficient_information",
    "temporal_sequences",
    "tracking_shuffled_objects",
    "understanding_fables",
    "undo_permutation",
    "unit_interpretation",
    "word_sorting",
)
NAMES = ("bigbench-lite", "bigbench", *(f"bigbench/{name}" for name in (*LITE, *OTHERS)))
TASKS: tuple[Task, ...] = ()
FAMILIES: tuple[Family, ...] = ()


@functools.cache
def worked_examples() -> dict[str, tuple[Worked, ...]]:
    """Examples written by us with their exact prompt and answer, by task."""
    rows = json.loads((Path(__file__).parent / "bigbench_worked.json").read_text(encoding="utf-8"))
    return {name: tuple(Worked(example["row"], example["prompt"], example["answer"]) for example in found) for name, found in rows.items()}


def root(access: Access, name: str) -> Path:
    """The folder of all tasks. Raises AssayError if it is missing."""
    if access.data is None or not (access.data / FOLDER).is_dir():
        raise AssayError(
            "BIG-bench's task files are missing",
            where=name,
            do=f"run: assay fetch {name} --to DIR, then set ASSAY_DATA=DIR; or name a file as bigbench:path/to/task.json",
        )
    return access.data / FOLDER


def family_of(task: str, folder: Path, origin: str) -> Family:
    """The main tasks of a task folder's subtasks; several have the mean of their normalised scores as total."""
    files = task_files_in(folder, origin)
    name = f"bigbench/{task}"
    tasks = tuple(main_task(file, f"{name}/{sub}" if sub else name) for sub, file in files.items())
    total = Total(name, tuple(Term(found.full_name, "normalized", 1 / len(tasks)) for found in tasks))
    return Family(name, tasks, (total,) if "" not in files else ())


def main_task(file: TaskFile, name: str) -> Task:
    parts = name.split("/")
    worked = worked_examples().get("/".join(parts[1:])) or worked_examples().get(parts[1], ())
    return next(iter(tasks_of(file, name, worked).values()))


def collected(name: str, tasks: tuple[str, ...], access: Access) -> Family:
    """Several task folders as one family; its total is the mean over tasks of the mean over subtasks of the normalised score."""
    folder = root(access, name)
    missing = [task for task in tasks if not (folder / task / "task.json").is_file()]
    if missing:
        raise AssayError(f"missing task folders: {', '.join(missing)}", where=f"{name} ({folder})", do=f"run: assay fetch {name} --to DIR")
    found = [family_of(task, folder / task, f"{FOLDER}/{task}") for task in tasks]
    terms = tuple(Term(task.full_name, "normalized", 1 / len(found) / len(each.tasks)) for each in found for task in each.tasks)
    totals = (Total(name, terms), *(total for each in found for total in each.totals))
    return Family(name, tuple(task for each in found for task in each.tasks), totals)


def find_files(name: str) -> dict[str, Published]:
    """The task files of a name of ours by their place in a mirror; nothing for other names."""
    plain = name.partition("@")[0]
    head, _, rest = plain.partition("/")
    wanted = set(LITE) if plain == "bigbench-lite" else {*LITE, *OTHERS} if plain == "bigbench" else {rest.partition("/")[0]}
    if head not in ("bigbench", "bigbench-lite"):
        return {}
    hashes: dict[str, str] = json.loads((Path(__file__).parent / "bigbench_files.json").read_text(encoding="utf-8"))
    return {f"{FOLDER}/{path}": Published(f"{URL}/{path}", digest) for path, digest in hashes.items() if path.partition("/")[0] in wanted}


def find_family(name: str, access: Access) -> Family | None:
    """`bigbench-lite`, `bigbench` (every task in the data folder), `bigbench/<task>[/<subtask>][/<kind>]`; None for other names.

    Raises AssayError if the data are missing or invalid.
    """
    plain, _, protocol = name.partition("@")
    if protocol not in ("", "bigbench"):
        return None
    if plain == "bigbench-lite":
        return collected(plain, LITE, access)
    if plain == "bigbench":
        return collected(plain, tuple(sorted(path.parent.name for path in root(access, name).glob("*/task.json"))), access)
    head, _, rest = plain.partition("/")
    if head != "bigbench" or not rest:
        return None
    task, *below = rest.split("/")
    folder = root(access, name) / task
    if ".." in below or not task.isidentifier() or not (folder / "task.json").is_file():
        return None
    if not below:
        return family_of(task, folder, f"{FOLDER}/{task}")
    files = task_files_in(folder, f"{FOLDER}/{task}")
    sub, kinds = (below[0], below[1:]) if below[0] in files else ("", below)
    if sub not in files or len(kinds) > 1:
        return None
    made = tasks_of(files[sub], f"bigbench/{task}/{sub}" if sub else f"bigbench/{task}")
    if not kinds:
        return Family(plain, (main_task(files[sub], plain),))
    chosen = [found for kind, found in made.items() if kind == kinds[0]]
    return Family(plain, tuple(chosen)) if chosen else None


def from_path(path: Path) -> tuple[Task, ...]:
    """The tasks of a task.json file or a task folder at any path, with all their kinds of metrics."""
    folder, main = (path, path / "task.json") if path.is_dir() else (path.parent, path)
    name = folder.resolve().name if main.name == "task.json" else main.stem
    if "examples" in read_json(main):
        files = {"": read_task_file(main, str(main), main.stat().st_mtime_ns)}
    else:
        files = task_files_in(folder, str(folder))
    named = [(file, f"bigbench/{name}/{sub}" if sub else f"bigbench/{name}") for sub, file in files.items()]
    return tuple(task for file, full in named for task in tasks_of(file, full).values())
