"""The fuzzers: everything that reads files which people bring."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pyarrow
import pyarrow.csv
import pyarrow.parquet
from fakes import make_model, place, write_task
from fuzzing import Fuzzer
from hypothesis import strategies as st
from material import damaged, json_files, mutants, to_bytes

from assay import Plan, evaluate
from assay.harness.checking import check_run
from assay.harness.cli.exchanging import FORMATS
from assay.harness.cli.running import print_run
from assay.harness.decide.compare import Comparison, Side, compare, side_of
from assay.harness.decide.decision import gate
from assay.harness.decide.policy import read_policy
from assay.harness.decide.stored_gate import Gate, append_gate, entry_of, gates
from assay.harness.engines.request import GenRequest
from assay.harness.engines.scripted import constant, hashed
from assay.harness.errors import AssayError
from assay.harness.exchange.every_eval_ever import export_every_eval_ever
from assay.harness.exchange.hugging_face import export_hf_yaml, export_model_index
from assay.harness.exchange.lm_eval import import_lm_eval
from assay.harness.exchange.lm_eval_export import export_lm_eval
from assay.harness.files.atomic import to_json
from assay.harness.files.places import Access, Surroundings
from assay.harness.model.find import inspect
from assay.harness.model.weights import read_header
from assay.harness.prompt.chat import render_chats
from assay.harness.prompt.tokens import Tokenizer, open_tokenizer
from assay.harness.reports.json_values import gate_json
from assay.harness.reports.results import notes
from assay.harness.run.merge import merge
from assay.harness.run.prepare import prepare_task
from assay.harness.run.scoring.measure import score_item
from assay.harness.run.scoring.results import score_run, scored_of
from assay.harness.run.scoring.verify import recompute, verify
from assay.harness.run.selection import select
from assay.harness.store import Run, check, find_run, index, list_runs, open_writer, query, read_run
from assay.harness.store.journal import FORMAT, encode, encode_record
from assay.harness.store.read import content_errors
from assay.harness.store.tables import items_table, samples_table, stat_tables, stats_table, to_parquet
from assay.harness.store.trials import read_trials
from assay.harness.task.task import Task
from assay.tasks import bigbench
from tests.sim.sides import flipped, right, side

PLAN = Plan(model="m", tasks=("t",))


@functools.cache
def model_folder() -> Path:
    return make_model(Path(tempfile.mkdtemp()) / "model")


class Letters:
    """A tokenizer of bytes, as strict about text as the real ones."""

    added_tokens_decoder: ClassVar[dict[int, Any]] = {}

    def __call__(self, texts: list[str], add_special_tokens: bool) -> dict[str, list[list[int]]]:
        return {"input_ids": [list(text.encode()) for text in texts]}


LETTERS = Tokenizer((), 0, "letters", Letters())


def score(tasks: Sequence[Task]) -> None:
    """A task's whole way without a model: rows, prompts, token ids, answers, statistics, tables, scores."""
    for task in tasks[:4]:
        prepared = prepare_task(task, PLAN, Access(), LETTERS, 1 << 20)
        items = [each.item for each in prepared.items]
        to_parquet(items_table(items))
        to_json(prepared.facts, "facts")
        answers = {False: hashed(1), True: constant(text="a 12. b")}
        records = {}
        for each in prepared.items:
            record = score_item(task, each, [answers[isinstance(request, GenRequest)](request) for request in each.requests])
            records[record.task, record.item] = record
        to_parquet(samples_table(items_table(items), records))
        tables = stat_tables(stats_table(items, records), "memory")
        to_json({"results": score_run([scored_of(prepared, 0)], (), tables, "scripted")}, "summary")


# Rows that are a task without code

ROWS = (
    [
        {"prompt": "2+2=", "choices": ["3", "4"], "answer": 1},
        {"prompt": "1+1=", "choices": ["2", "3"], "answer": "2", "id": "b", "group": "g"},
    ],
    [{"prompt": "Say hi:", "reference": ["hi", "Hi"]}, {"prompt": "Say ho:", "answer": "ho"}],
)


def lines(rows: Any) -> bytes:
    return b"\n".join(map(to_bytes, rows)) if isinstance(rows, list) else to_bytes(rows)


def read_rows(suffix: str) -> Any:
    def read(folder: Path, data: bytes) -> None:
        path = folder / f"rows{suffix}"
        path.write_bytes(data)
        score(select([str(path)], Access()).tasks)

    return read


CSVS = (b'prompt,choices,answer\n"2+2=","3|4",1\n"1+1=","[""2"", ""3""]",0\n', b"prompt,reference,id\nSay hi:,hi,a\nSay ho:,ho,b\n")
NAMES = ("prompt", "choices", "answer", "reference", "id", "group")
COLUMNS = (
    pyarrow.array(["2+2=", "1+1="]),
    pyarrow.array([["3", "4"], ["2", "3"]]),
    pyarrow.array([1, 0]),
    pyarrow.array([1.5, float("nan")]),
    pyarrow.array([None, None]),
    pyarrow.array(["a", None]),
    pyarrow.array([b"\xff", b""], pyarrow.binary()),
    pyarrow.array([{"a": 1}, {"a": 2}]),
    pyarrow.array([10**15, -(10**15)], pyarrow.timestamp("ns")),
    pyarrow.array([10**15, -(10**15)], pyarrow.timestamp("s")),
    pyarrow.array([10**18, -(10**18)], pyarrow.duration("s")),
    pyarrow.array([[("k", 1)], []], pyarrow.map_(pyarrow.string(), pyarrow.int64())),
    pyarrow.array([[], ["x"]]),
    pyarrow.array(["x", "x"]).dictionary_encode(),
)


@st.composite
def parquets(draw: st.DrawFn) -> bytes:
    names = draw(st.lists(st.sampled_from((*NAMES, "extra", "")), min_size=1, max_size=5))
    names += ["prompt"] * draw(st.booleans())
    table = pyarrow.table([draw(st.sampled_from(COLUMNS)) for _ in names], names=names)
    sink = io.BytesIO()
    pyarrow.parquet.write_table(table, sink, compression=draw(st.sampled_from(("zstd", "none", "snappy"))))
    return sink.getvalue()


# BIG-bench

SHEET = {
    "name": "made",
    "description": "made up",
    "keywords": [],
    "metrics": ["exact_str_match", "multiple_choice_grade", "log_likelihood", "bleu", "rouge", "macro_f1"],
    "preferred_score": "multiple_choice_grade",
    "output_regex": "[a-z]+",
    "stop_string": ".",
    "append_choices_to_input": True,
    "example_input_prefix": "Q: ",
    "task_prefix": "Do. ",
    "examples": [
        {"input": "one", "target_scores": {"a": 1, "b": 0}, "target": "a"},
        {"input": "two", "target_scores": {"a": 0, "b": 1}, "target": ["b", "B"]},
    ],
}
SHEETS = (
    SHEET,
    {**SHEET, "metrics": ["exact_str_match"], "preferred_score": "exact_str_match", "examples": [{"input": "q", "target": "a"}]},
    {
        **SHEET,
        "metrics": ["multiple_choice_grade"],
        "output_regex": None,
        "examples": [{"input": "q", "target_scores": {"x": 0.3, "y": 0.7}}],
    },
    {**SHEET, "metrics": ["numeric_match_with_0_1_relative_error", "sequence_f1"], "preferred_score": "sequence_f1"},
)


def read_bigbench(folder: Path, data: bytes) -> None:
    path = folder / "task.json"
    path.write_bytes(data)
    score(bigbench.from_path(path))


# Task files: code, so anything may happen in them; but what comes out is one clear error

TASK = """from assay import {imports}

def doc(row):
    return {doc}

TASKS = (Task({name}, {rows}, doc, {ask}, ({metric},){more}),)
"""
PARTS = {
    "imports": ("*", "Doc, Task, Choose, Generate, Perplexity, Regress, accuracy, exact_match, inline, jsonl, made", "nothing"),
    "doc": (
        'Doc("q", choices=("a", "b"), gold=0)',
        'Doc("q", references=("a",))',
        'Doc(row["x"])',
        'Doc("q", choices=("a", "b"), targets=(float("nan"), 1.0))',
        'Doc("q", choices=("a", "b"), targets=("x", None))',
        'Doc("q", choices=("a", ""), gold=True)',
        'Doc("q", choices=("a", "b"), gold=0, meta={1: object()})',
        'Doc("q", value=float("nan"))',
        'Doc("q", value="high")',
        'Doc("\\ud800", references=("\\ud800",))',
        "None",
        "row",
        "1/0",
        "doc(row)",
        '"x" * 10**12',
        "exit(3)",
        "raise_it",
    ),
    "name": ('"t"', '""', "None", "7", '"../../t"', '"\\ud800"', '"a" * 5000', "()"),
    "rows": (
        "inline(test=[{}, {}])",
        "inline(test=[])",
        "inline(test=[1, None])",
        "inline()",
        "inline(test=7)",
        'jsonl("no.jsonl")',
        'jsonl("../{split}.jsonl")',
        "None",
        "[{}]",
        "made(lambda split: 1 / 0)",
        "made(lambda split: None)",
        "made(lambda split: [{'x': float('nan')}])",
        "made(lambda split: [{'x': '\\ud800'}])",
        "made(lambda split: [{1: 2, 'b': {3}}])",
    ),
    "ask": (
        "Choose()",
        "Generate(8)",
        "Generate(-1)",
        "Generate('x')",
        "Perplexity()",
        'Regress(("1", "2"), (1.0, 2.0))',
        'Choose("best")',
        "None",
        "7",
        "Regress((), ())",
    ),
    "metric": ("accuracy", "exact_match", "None", "7", "lambda doc, output: 1"),
    "more": (
        "",
        ', split="test"',
        ", split=7",
        ", shots=None",
        ", layout=None",
        ", version='x'",
        ', protocol="p"',
        ", purpose=7",
        ", worked=7",
        ", nothing=1",
    ),
}


@st.composite
def task_files(draw: st.DrawFn) -> bytes:
    parts = {name: draw(st.sampled_from(choices)) if draw(st.booleans()) else choices[0] for name, choices in PARTS.items()}
    return TASK.format(**parts).encode(errors="surrogatepass")


def read_task_file(folder: Path, data: bytes) -> None:
    path = folder / "task.py"
    path.write_bytes(data)
    score(select([str(path)], Access()).tasks)


# Runs


@functools.cache
def whole_run() -> dict[str, bytes]:
    """A complete run's files, of a task that is here, and the journal that it came from."""
    home = Path(tempfile.mkdtemp())
    bundle = evaluate(Plan(str(model_folder()), (str(write_task(home, 4)),), engine="scripted"), place(home))
    run = read_run(bundle)
    head = encode({"journal": FORMAT, "run": run.id, "manifest": run.files["manifest.json"]}, "journal")
    journal = b"".join([head, *map(encode_record, run.records())])
    return {**{path.name: path.read_bytes() for path in bundle.iterdir()}, "journal.jsonl": journal}


@functools.cache
def good_side() -> Side:
    """The run as one side of a comparison."""
    bundle = Path(tempfile.mkdtemp()) / "good"
    lay(bundle, whole_run())
    return side_of(read_run(bundle), Access())


def lay(bundle: Path, files: Mapping[str, bytes]) -> None:
    bundle.mkdir(parents=True)
    for name, data in files.items():
        (bundle / name).write_bytes(data)


def read_store(root: Path) -> None:
    """Everything that reads a store, on what a stranger put there: one clear error does not hide what comes after it."""
    access = Access()
    every(
        *(partial(find_run, root, run.id or "x") for run in list_runs(root)),
        lambda: index(root, verify=verify(access)),
        lambda: check(root, lambda run: recompute(run, access)),
        lambda: query(root, "SELECT * FROM leaderboard"),
        *(step for path in sorted((root / "runs").iterdir()) for step in reads_of(path, root / "out")),
    )


def reads_of(path: Path, out: Path) -> list[Callable[[], object]]:
    """Everything that reads one run."""
    exports = (export_lm_eval, export_every_eval_ever, export_model_index)
    return [
        lambda: read_run(path).items(),
        lambda: read_run(path).records(),
        lambda: read_run(path).stats(),
        lambda: read_run(path).summary(),
        lambda: notes(read_run(path).manifest, read_run(path).summary()["results"]),
        lambda: compare(good_side(), side_of(read_run(path), Access())),
        lambda: check_run(read_run(path), Access()),
        *(partial(export_of, write, path, out / str(number)) for number, write in enumerate(exports)),
        lambda: cite(path, out / "cited"),
        lambda: join(path, out),
    ]


def cite(path: Path, folder: Path) -> None:
    """This run is of no data set of the hub, which is said; what else is wrong comes out of the other exports too."""
    with suppress(AssayError):
        export_of(export_hf_yaml, path, folder)


def export_of(write: Callable[[Run, Path], object], path: Path, folder: Path) -> None:
    with content_errors(path):  # as the command does
        write(read_run(path), folder)


def join(path: Path, out: Path) -> None:
    """A whole run is no part to merge, which is said."""
    with suppress(AssayError):
        merge([path], Surroundings(out / "merged", out, None, True))


def every(*steps: Callable[[], object]) -> None:
    """Takes all steps, and raises the first clear error of any."""
    first: AssayError | None = None
    for step in steps:
        try:
            step()
        except AssayError as error:
            first = first or error
    if first is not None:
        raise first


def read_journal(folder: Path, data: bytes) -> None:
    bundle = folder / "runs" / "20260101-000000-aaaa"
    lay(bundle, {**{name: whole_run()[name] for name in ("manifest.json", "items.parquet")}, "journal.jsonl": data})
    run = read_run(bundle)
    run.records()
    run.stats()
    with open_writer(bundle) as writer:
        writer.done()


@st.composite
def journals(draw: st.DrawFn) -> bytes:
    """Lines whose checksums are right, though their content need not be."""
    import zlib

    made = []
    for number, line in enumerate(whole_run()["journal.jsonl"].splitlines()):
        value = json.loads(line[9:])
        payload = to_bytes(draw(mutants(value)) if draw(st.integers(0, 5 if number == 0 else 1)) == 0 else value)
        made.append(b"%08x %s\n" % (zlib.crc32(payload), payload))
    return b"".join(made)


@st.composite
def tables(draw: st.DrawFn, name: str) -> bytes:
    """A Parquet file with a column of another kind, left out or with other content."""
    table = pyarrow.parquet.read_table(io.BytesIO(study() if name == "trials.parquet" else whole_run()[name]))
    for _ in range(draw(st.integers(0, 2))):
        if not table.num_columns:
            break
        at = draw(st.integers(0, table.num_columns - 1))
        act, name = draw(st.integers(0, 3)), table.column_names[at]
        if act == 0:
            table = table.remove_column(at)
        elif act == 1:
            table = table.set_column(
                at, name, pyarrow.array([draw(st.sampled_from((None, "x", "", "i1", "\u202e")))] * len(table), pyarrow.string())
            )
        elif act == 2:
            table = table.set_column(at, name, pyarrow.array([draw(st.floats() | st.none())] * len(table), pyarrow.float64()))
        else:
            rows = [draw(st.lists(st.floats(), max_size=3) | st.none()) for _ in range(len(table))]
            table = table.set_column(at, name, pyarrow.array(rows, pyarrow.list_(pyarrow.float64())))
    if draw(st.integers(0, 5)) == 0:
        table = table.slice(draw(st.integers(0, 4)))
    sink = io.BytesIO()
    pyarrow.parquet.write_table(table, sink)
    return sink.getvalue()


@st.composite
def bundles(draw: st.DrawFn) -> dict[str, bytes]:
    """A run as a stranger may make one: contents changed, every hash right (mostly)."""
    files = dict(whole_run())
    manifest, summary = json.loads(files["manifest.json"]), json.loads(files["summary.json"])
    for name in sorted(draw(st.sets(st.sampled_from(("items.parquet", "samples.parquet", "item_stats.parquet")), max_size=2))):
        files[name] = draw(damaged(tables(name)) if draw(st.integers(0, 3)) == 0 else tables(name))
    manifest["items_sha256"] = hashlib.sha256(files["items.parquet"]).hexdigest()
    if draw(st.booleans()):
        manifest = draw(mutants(manifest))
    files["manifest.json"] = to_bytes(manifest)
    if draw(st.booleans()):
        files["summary.json"] = to_bytes(draw(mutants(summary)))
    done = json.loads(files["DONE"])
    done["files"] = {name: hashlib.sha256(files[name]).hexdigest() for name in done["files"]}
    files["DONE"] = to_bytes(draw(mutants(done)) if draw(st.integers(0, 5)) == 0 else done)
    if draw(st.booleans()):
        del files["journal.jsonl"]
    return files


def read_bundle(folder: Path, files: dict[str, bytes]) -> None:
    lay(folder / "runs" / json.loads(whole_run()["manifest.json"])["run"], files)
    read_store(folder)


# Trials of tuning studies


@functools.cache
def study() -> bytes:
    rows = [
        {"study": "s", "run_id": f"r{n}", "method": "lora", "task": "t", "seed": n, "lr": 1e-3, "gain": 0.1 * n, "seconds": 1.0}
        for n in range(3)
    ]
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    return sink.getvalue()


def read_study(folder: Path, data: bytes) -> None:
    path = folder / "studies" / "s" / "trials.parquet"
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    index(folder)
    query(folder, "SELECT * FROM tuning")
    read_trials(path)


# Policies

POLICY = {
    "margin": 1.0,
    "task_margin": 3.0,
    "alpha": 0.05,
    "tasks": ["a", "b"],
    "critical": ["a"],
    "margins": {"a": 2.0},
    "relative": {"a": 0.5},
    "weights": {"a": 1.0},
    "on_inconclusive": "fail",
    "tried": 3,
}


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(key))} = {toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return {None: "nan"}.get(value, json.dumps(value)) if not isinstance(value, float) else repr(value)


def policy_bytes(value: Any) -> bytes:
    rows = value.items() if isinstance(value, dict) else [("margin", value)]
    return "\n".join(f"{json.dumps(str(key))} = {toml(inner)}" for key, inner in rows).encode(errors="surrogatepass")


@functools.cache
def compared() -> Comparison:
    scores = right(400)
    return compare(side({"a": scores, "b": scores}), side({"a": flipped(scores, 9, 4), "b": flipped(scores, 20)}, "v2"))


def read_policies(folder: Path, data: bytes) -> None:
    """A policy that is read decides, and its decision can be stored and printed as JSON."""
    path = folder / "gate.toml"
    path.write_bytes(data)
    policy = read_policy(path)
    decision = gate(compared(), policy, tried=policy.tried or 1)
    json.dumps(gate_json(decision, compared(), decision.exit_code(policy)), allow_nan=False)
    append_gate(folder, entry_of(Gate(compared(), decision, policy)))
    gates(folder)


# Models


def header_bytes(value: Any) -> bytes:
    text = to_bytes(value)
    return len(text).to_bytes(8, "little") + text + bytes(32)


HEADER = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
    "b": {"dtype": "F16", "shape": [8], "data_offsets": [16, 32]},
}


def read_safetensors(folder: Path, data: bytes) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(data)
    read_header(path)


@functools.cache
def model_files() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in model_folder().iterdir()}


@st.composite
def models(draw: st.DrawFn) -> dict[str, bytes]:
    files = dict(model_files())
    for name in sorted(draw(st.sets(st.sampled_from(("config.json", "tokenizer_config.json", "tokenizer.json")), min_size=1, max_size=2))):
        files[name] = draw(json_files(json.loads(files[name])))
    if draw(st.integers(0, 5)) == 0:
        index = {"weight_map": {"model.norm.weight": "model-1.safetensors"}}
        files["model.safetensors.index.json"] = draw(json_files(index))
        files["model-1.safetensors"] = files.pop("model.safetensors")
    return files


def read_model(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (folder / name).write_bytes(data)
    ref = inspect("m", folder)
    opened = open_tokenizer(ref.path)
    opened.decode(opened.encode(["a b"])[0])


# A mirror of the hub

MIRROR = [
    {"file": "o__n/default/test.parquet", "rows": 2, "complete": True, "sha256": "x"},
    {"file": "other", "rows": 1, "complete": False},
]


def read_mirror(folder: Path, data: bytes) -> None:
    from assay.harness.task.hub import hub, manifest, mirror_table

    manifest.cache_clear()
    mirror_table.cache_clear()
    (folder / "MANIFEST.json").write_bytes(data)
    home = folder / "o__n" / "default"
    home.mkdir(parents=True)
    (home / "test.parquet").write_bytes(parquet_rows())
    hub("o/n").load("test", Access(folder))


@functools.cache
def parquet_rows() -> bytes:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"prompt": ["a", "b"]}), sink)
    return sink.getvalue()


# Chat templates

TEMPLATES = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}<|a|>{% endif %}",
    "{%- if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}{{ bos_token }}{{ messages | tojson(indent=2) }}",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% if ns.n > 3 %}{% break %}{% endif %}{% endfor %}",
    "{% macro say(x) %}{{ x | trim }}{% endmacro %}{% generation %}{{ say(messages[-1]['content']) }}{% endgeneration %}",
    "{{ strftime_now('%Y') }}{% for m in messages if m.role != 'x' %}{{ loop.index0 }}{{ m.content }}{% endfor %}",
)
PIECES = (
    "{{ ''.__class__.__mro__ }}",
    "{{ messages.append(1) }}",
    "{{ cycler.__init__.__globals__ }}",
    "{{ 'a' * 10**9 }}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{{ range(10**12) }}",
    "{% include '/etc/passwd' %}",
    "{% extends x %}",
    "{{ x | attr('__class__') }}",
    "{{ 1 / 0 }}",
    "{{ undefined.x.y }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ '%s' | format(messages) }}",
    "{{ '{0.__class__}'.format(1) }}",
    "\ud800",
    "\x00",
    "{%",
    "}}",
    "{{ lipsum(n=10**6) }}",
    "{{ strftime_now('%' * 10**6) }}",
    "{{ [1] * 10**9 }}",
    "{{ 9 ** 9 ** 9 }}",
    "{{ messages | map(attribute='role') | join }}",
)


@st.composite
def templates(draw: st.DrawFn) -> str:
    text = draw(st.sampled_from(TEMPLATES))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(text)))
        cut = draw(st.integers(0, 8))
        text = text[:at] + draw(st.sampled_from(PIECES) | st.text(alphabet="{}%|()[].'\"-_ ab1", max_size=6)) + text[at + cut :]
    return text


CHATS = [[{"role": "user", "content": "hi"}], [{"role": "user", "content": "a\n{{ 7*7 }}"}, {"role": "assistant", "content": "b"}]]


def read_template(folder: Path, text: str) -> None:
    LETTERS.encode(render_chats(text, {"bos_token": "<s>"}, CHATS, "model", seconds=1))


# lm-eval's results

DOCUMENT = {
    "results": {
        "arc": {"alias": "arc", "acc,none": 0.5, "acc_stderr,none": 0.5},
        "gen": {"exact_match,strict": 1.0},
        "grp": {"acc,none": 0.5},
    },
    "groups": {"grp": {"acc,none": 0.5}},
    "group_subtasks": {"grp": ["arc"]},
    "configs": {
        "arc": {
            "task": "arc",
            "dataset_path": "o/n",
            "metric_list": [{"metric": "acc", "aggregation": "mean"}],
            "output_type": "multiple_choice",
        },
        "gen": {"task": "gen", "generation_kwargs": {"until": ["\n"]}},
    },
    "versions": {"arc": 1.0, "gen": 2},
    "n-shot": {"arc": 0, "gen": 3},
    "n-samples": {"arc": {"original": 2, "effective": 2}, "gen": {"original": 1, "effective": 1}},
    "higher_is_better": {"arc": {"acc": True}},
    "config": {"model": "hf", "model_args": {"pretrained": "m"}, "limit": None, "random_seed": 0, "model_num_parameters": 7},
    "date": 1700000000.0,
    "lm_eval_version": "0.4.13",
    "model_name": "m",
    "total_evaluation_time_seconds": "3.5",
}
CHOICE = {
    "doc": {"q": "x"},
    "target": "0",
    "arguments": {"gen_args_0": {"arg_0": "Q", "arg_1": " a"}, "gen_args_1": {"arg_0": "Q", "arg_1": " b"}},
    "resps": [[["-1.0", "False"]], [["-2.0", "False"]]],
    "filtered_resps": [["-1.0", "False"], ["-2.0", "False"]],
    "filter": "none",
    "metrics": ["acc"],
}
SAMPLES = [{"doc_id": 0, **CHOICE, "acc": 1.0}, {"doc_id": 1, **CHOICE, "target": "1", "acc": 0.0}]
SPOKEN = [
    {
        "doc_id": 0,
        "doc": {},
        "target": "7",
        "arguments": {"gen_args_0": {"arg_0": "Q", "arg_1": {"until": ["\n"]}}},
        "resps": [["7"]],
        "filtered_resps": ["7"],
        "filter": "strict",
        "exact_match": 1.0,
    }
]


@st.composite
def lm_evals(draw: st.DrawFn) -> tuple[bytes, bytes, bytes]:
    which = draw(st.integers(0, 3))
    whole = (to_bytes(DOCUMENT), lines(SAMPLES), lines(SPOKEN))
    return (
        draw(json_files(DOCUMENT)) if which in (0, 3) else whole[0],
        draw(damaged(mutants(SAMPLES).map(lines))) if which in (1, 3) else whole[1],
        draw(damaged(mutants(SPOKEN).map(lines))) if which == 2 else whole[2],
    )


def read_lm_eval(folder: Path, files: tuple[bytes, bytes, bytes]) -> None:
    home = folder / "in"
    home.mkdir()
    for name, data in zip(("results_2026.json", "samples_arc_2026.jsonl", "samples_gen_2026.jsonl"), files, strict=True):
        (home / name).write_bytes(data)
    place = Surroundings(folder / "results", folder / "cache", None, True)
    try:
        for bundle, _ in import_lm_eval(home, place):
            run = read_run(bundle)
            recompute(run, place.access())
            with Path(os.devnull).open("w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
                print_run(run, place, as_json=False)
                print_run(run, place, as_json=True)
            for number, export in enumerate(FORMATS.values()):
                with contextlib.suppress(AssayError):
                    export(run, folder / str(number))
    except AssayError:
        assert not list(place.results.glob("runs/*")), "a refused import leaves nothing behind"
        raise


def warm(name: str) -> None:
    """Imports and makes what the first input would wait for."""
    whole_run()
    if name == "model":
        read_model(Path(tempfile.mkdtemp()), model_files())
    if name == "parquet":
        parquet_rows()


FUZZERS = {
    "jsonl": Fuzzer(damaged(mutants(*ROWS).map(lines)), read_rows(".jsonl")),
    "csv": Fuzzer(damaged(st.sampled_from(CSVS)), read_rows(".csv")),
    "parquet": Fuzzer(damaged(parquets()), read_rows(".parquet")),
    "bigbench": Fuzzer(json_files(*SHEETS), read_bigbench),
    "task_file": Fuzzer(damaged(task_files()), read_task_file),
    "journal": Fuzzer(damaged(journals()), read_journal),
    "bundle": Fuzzer(bundles(), read_bundle),
    "trials": Fuzzer(damaged(tables("trials.parquet")), read_study),
    "policy": Fuzzer(damaged(mutants(POLICY).map(policy_bytes)), read_policies),
    "safetensors": Fuzzer(damaged(mutants(HEADER).map(header_bytes)), read_safetensors),
    "model": Fuzzer(models(), read_model),
    "chat": Fuzzer(templates(), read_template),
    "lm_eval": Fuzzer(lm_evals(), read_lm_eval),
    "mirror": Fuzzer(json_files(MIRROR), read_mirror),
}
