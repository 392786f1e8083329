"""Loads lm-eval's task objects by reference: a name of its index, a YAML file, or FOLDER/NAME for a name that a folder defines.

Data sets come from $ASSAY_DATA where it mirrors them, else from the hub, as everywhere in assay. What cannot run here is refused by name.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import logging
import random
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from assay import Access, AssayError, hub
from assay.tasks._lm_eval.names import Name, names_in, own_names, require

RANDOM_SEED, NUMPY_SEED = 0, 1234
"""lm-eval sets these before it loads tasks, whose code may shuffle choices."""
COPIES: Mapping[str, str] = {
    "super_glue": "aps/super_glue",
    "glue": "nyu-mll/glue",
    "gsm8k": "openai/gsm8k",
    "hellaswag": "Rowan/hellaswag",
    "piqa": "ybisk/piqa",
    "baber/piqa": "ybisk/piqa",
    "truthful_qa": "truthfulqa/truthful_qa",
    "winogrande": "allenai/winogrande",
    "hails/mmlu_no_train": "cais/mmlu",
    "SaylorTwift/bbh": "lukaemon/bbh",
    "imdb": "stanfordnlp/imdb",
}
"""Former names and copies of data sets that lm-eval's tasks read, and the data set that a mirror has."""


@dataclass(frozen=True, slots=True)
class Reference:
    """What `lm-eval:...` names. `home`: a user's folder of YAML files that defines `name`; `name` may be a YAML file."""

    name: str
    home: str
    access: Access

    @property
    def own(self) -> bool:
        """Whether it is one of lm-eval's own tasks: code of an installed package."""
        return not self.home and not is_yaml(self.name)

    @property
    def text(self) -> str:
        return f"lm-eval:{self.home + '/' if self.home else ''}{self.name}"


@dataclass(frozen=True, slots=True)
class Group:
    """A group of lm-eval's: its leaf tasks, and (metric, filters or None for all, weighted by size) of each of its means."""

    name: str
    leaves: tuple[str, ...]
    means: tuple[tuple[str, tuple[str, ...] | None, bool], ...]


@dataclass(frozen=True, slots=True)
class Loaded:
    """lm-eval's task objects by name, the groups over them, and the number of few-shot examples that each task sets (None: none)."""

    tasks: Mapping[str, Any]
    groups: tuple[Group, ...]
    shots: Mapping[str, int | None]


def is_yaml(text: str) -> bool:
    return text.endswith((".yaml", ".yml"))


def refer(text: str, access: Access) -> Reference:
    """The reference that stands after `lm-eval:`. A path is a YAML file, or a folder followed by a name."""
    path = Path(text).expanduser()
    if is_yaml(text):
        if not path.is_file():
            raise AssayError("no such file", where=f"lm-eval:{text:.200}", do="check the path")
        return Reference(str(path.resolve()), "", access)
    if "/" in text and path.parent.is_dir():
        home = path.parent.resolve()
        if path.name not in names_in(home, access):
            known = ", ".join(sorted(names_in(home, access))[:5]) or "none"
            raise AssayError(f"no task {path.name!r:.60} in this folder (there is: {known})", where=str(home), do="check the name")
        return Reference(path.name, str(home), access)
    return Reference(text, "", access)


def file_of(reference: Reference) -> str:
    """The YAML file of a reference; empty for a tag. Raises AssayError for an unknown name."""
    if is_yaml(reference.name):
        return reference.name
    names = names_in(Path(reference.home), reference.access) if reference.home else own_names(reference.access)
    return names[reference.name].file


def files_of(yaml: Path) -> list[Path]:
    """A YAML file, what it includes, and the Python files whose functions they name."""
    from lm_eval.tasks._yaml_loader import load_yaml

    config = load_yaml(yaml, resolve_func=False, recursive=False)
    includes = config.get("include") or []
    found = [yaml]
    for each in includes if isinstance(includes, list) else [includes]:
        found += files_of(yaml.parent / each)
    found += [path for text in texts_in(config) if (path := python_file(text, yaml.parent)) is not None]
    return list(dict.fromkeys(path.resolve() for path in found))


def texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from texts_in(each)
    elif isinstance(value, list):
        for each in value:
            yield from texts_in(each)


def python_file(text: str, home: Path) -> Path | None:
    """The file that `!function module.name` imports: lm-eval's reader gives FOLDER/module.name."""
    module = text.removeprefix(f"{home}/").rpartition(".")[0]
    if not text.startswith(f"{home}/") or not module or len(text) > 1000:
        return None
    path = home / f"{module.replace('.', '/')}.py"
    return path if path.is_file() else None


def code_of(reference: Reference) -> list[Path]:
    """The files of a user's task that run as code: its YAML (whose templates are programs) and its functions; none of lm-eval's own."""
    require()
    if reference.own:
        return []
    if reference.home:  # a group may name any task of the folder
        return [path for each in sorted(Path(reference.home).rglob("*.y*ml")) for path in files_of(each)]
    return files_of(Path(reference.name))


def digest_of(yaml: str) -> str:
    """The hash of a task's YAML file with all that it includes, and of its functions' files."""
    state = hashlib.sha256()
    for path in files_of(Path(yaml)) if yaml else ():
        state.update(path.name.encode() + b"\n" + path.read_bytes())
    return state.hexdigest()[:24]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without lm-eval's progress bars, prints and warnings, with the random numbers that it starts from, and with every template compiled
    once: lm-eval compiles it again for every document, which takes most of its time.
    """
    state, numbers, level = random.getstate(), np.random.get_state(), logging.root.manager.disable
    logging.disable(logging.WARNING)
    random.setstate(random.Random(RANDOM_SEED).getstate())  # for the code of lm-eval's tasks; put back at the end
    np.random.set_state(np.random.RandomState(NUMPY_SEED).get_state())
    try:
        with (
            warnings.catch_warnings(),
            templates_kept(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        random.setstate(state)
        np.random.set_state(numbers)
        logging.disable(level)


@functools.lru_cache(maxsize=1024)
def compiled(environment: Any, source: str) -> Any:
    return type(environment).from_string(environment, source)


@contextlib.contextmanager
def templates_kept() -> Iterator[None]:
    environment = getattr(sys.modules.get("lm_eval.utils"), "env", None)
    if environment is None or "from_string" in vars(environment):
        yield
        return
    environment.from_string = functools.partial(compiled, environment)
    try:
        yield
    finally:
        del environment.from_string


@functools.lru_cache(maxsize=64)
def load(reference: Reference) -> Loaded:
    """The task objects that a reference names, with their data sets. Raises AssayError naming the task and the reason."""
    require()
    with quiet():
        known: dict[str, Name] = {**(own_names(reference.access) if reference.own or names_others(reference) else {})}
        if reference.home:
            known |= names_in(Path(reference.home), reference.access)
        manager = manager_of(known)
        entry = known.get(reference.name)
        if entry is None and not is_yaml(reference.name):
            raise AssayError(f"lm-eval has no task {reference.name!r:.80}", do=f"search with: assay tasks lm-eval {reference.name:.40}")
        refuse_config(reference, entry)
        try:
            with mirrored(reference.access):
                found = manager.load([reference.name])
        except AssayError:
            raise
        except (Exception, SystemExit) as error:  # lm-eval and the code of its tasks may raise anything
            raise failure(reference, error) from error
    for name, task in found["tasks"].items():
        refuse_task(name, task)
    groups = [
        Group(
            group.name,
            tuple(task.task_name for task in group.get_all_tasks()),
            tuple((each.metric, filters(each.filter_list), bool(each.weight_by_size)) for each in group.aggregate_metric_list or ()),
        )
        for group in found.get("groups", {}).values()
    ]
    return Loaded(found["tasks"], tuple(groups), {name: task.get_config("num_fewshot") for name, task in found["tasks"].items()})


def manager_of(names: Mapping[str, Name]) -> Any:
    """lm-eval's TaskManager over these names, without reading all of its YAML files."""
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._index import Entry, Kind

    manager = TaskManager(include_defaults=False)
    kinds = {"task": Kind.TASK, "group": Kind.GROUP, "tag": Kind.TAG}
    for name in names.values():
        file = Path(name.file) if name.file else None
        manager.task_index[name.name] = Entry(name.name, kinds[name.kind], file, tags=set(name.members))
    return manager


def names_others(reference: Reference) -> bool:
    """Whether a user's reference is a group or a tag, which may name lm-eval's own tasks: their index is needed."""
    from lm_eval.tasks._yaml_loader import load_yaml

    file = file_of(reference)
    return not file or "group" in load_yaml(file, resolve_func=False)


def filters(listed: Any) -> tuple[str, ...] | None:
    return None if listed is None else (listed,) if isinstance(listed, str) else tuple(listed)


def failure(reference: Reference, error: BaseException) -> AssayError:
    """Why lm-eval cannot load a task, in one line."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if isinstance(error, ImportError):
        fix = f"pip install {error.name}" if isinstance(error, ModuleNotFoundError) and error.name else "install that package"
        return AssayError(f"needs a package that is missing: {reason:.160}", where=reference.text, do=fix)
    do = "set ASSAY_DATA to a folder that mirrors the hub, go online, or fix the YAML file"
    return AssayError(f"lm-eval cannot load it: {type(error).__name__}: {reason:.200}", where=reference.text, do=do)


def refuse_config(reference: Reference, entry: Name | None) -> None:
    """Raises AssayError for a single task that cannot run here, before its data set is read."""
    from lm_eval.tasks._yaml_loader import load_yaml

    file = reference.name if is_yaml(reference.name) else entry.file if entry is not None else ""
    if file:
        try:
            config = load_yaml(file, resolve_func=False)
        except Exception as error:  # YAML of a user
            raise failure(reference, error) from error
        refuse(reference.name, config)


def refuse_task(name: str, task: Any) -> None:
    """Raises AssayError for a task object that cannot run here."""
    refuse(name, {key: getattr(task.config, key, None) for key in ("doc_to_image", "doc_to_audio", "unsafe_code", "generation_kwargs")})
    if getattr(task, "MULTIMODAL", False):
        refuse(name, {"doc_to_image": True})


def refuse(name: str, config: Mapping[str, Any]) -> None:
    reasons = {
        "doc_to_image": "it shows images, and assay evaluates text",
        "doc_to_audio": "it plays audio, and assay evaluates text",
        "unsafe_code": "its metric runs generated programs outside of assay's sandbox",
    }
    for key, reason in reasons.items():
        if config.get(key):
            do = "use a task of assay that runs programs in its sandbox, such as humaneval" if key == "unsafe_code" else "leave it out"
            raise AssayError(f"cannot be run: {reason}", where=f"lm-eval:{name}", do=do)
    settings = config.get("generation_kwargs") or {}
    if isinstance(settings, Mapping) and int(settings.get("num_beams") or 1) > 1:
        what = "cannot be run: it generates by beam search, which no engine of assay does"
        raise AssayError(what, where=f"lm-eval:{name}", do="leave it out")


@contextlib.contextmanager
def mirrored(access: Access) -> Iterator[None]:
    """`datasets.load_dataset` reads $ASSAY_DATA where it has the data set."""
    import datasets

    real = datasets.load_dataset

    def load_dataset(path: str, name: str | None = None, **options: Any) -> Any:
        files, column = mirror_files(path, name, access)
        if not files:
            return real(path, name, **options)
        found = real("parquet", data_files={split: str(file) for split, file in files.items()})
        return found.filter(lambda row: row[column] == name) if column else found

    datasets.load_dataset = load_dataset
    try:
        yield
    finally:
        datasets.load_dataset = real


def mirror_files(path: str, name: str | None, access: Access) -> tuple[dict[str, Path], str]:
    """The Parquet files of a data set's splits in the mirror, and the column that holds the config where the files hold all of them."""
    base = None if access.data is None else access.data / COPIES.get(path, path).replace("/", "__")
    if base is None or not base.is_dir():
        return {}, ""
    configs = sorted(each.name for each in base.iterdir() if each.is_dir())
    only = configs[0] if configs and (name in (None, "default") or len(configs) == 1) else ""
    chosen = name if name in configs else "all" if "all" in configs else only
    files = {file.stem: file for file in sorted((base / chosen).glob("*.parquet"))} if chosen else {}
    column = "subject" if chosen == "all" and name not in (None, "all") else ""
    return files, column


def is_complete(task: Any, split: str, access: Access) -> bool:
    """Whether the mirror's copy of a split has all rows. Raises Missing where it has not, without --allow-partial."""
    path, name = str(task.config.dataset_path), task.config.dataset_name
    files, _ = mirror_files(path, name, access)
    if split not in files:
        return True
    return hub(COPIES.get(path, path), files[split].parent.name).load(split, access).complete


def split_of(task: Any) -> str:
    """The split that lm-eval scores."""
    config = task.config
    return str(getattr(config, "test_split", None) or getattr(config, "validation_split", None) or "test")
