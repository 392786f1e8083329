"""Every family on the real benchmark data of $ASSAY_DATA. Run: ASSAY_DATA=... pytest -m data tests/data"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fakes import make_model

from assay import Access, AssayError, Plan, Task, evaluate, read_run
from assay.harness.files.places import Surroundings
from assay.harness.prompt.tokens import Tokenizer, open_tokenizer
from assay.harness.run.prepare import prepare_task
from assay.harness.run.selection import select
from assay.harness.task.catalogue import families, module_names
from assay.tasks._core.choices import LAMBADA
from assay.tasks._core.generated import MMLU_PRO_TASKS
from assay.tasks._helm.legal import LEGAL_TASKS
from assay.tasks._helm.qa import BOOLQ, MATH_TASKS, MED_QA
from assay.tasks._helm.raft import RAFT_TASKS
from assay.tasks._helm.ranking import RANKING_TASKS
from assay.tasks._helm.reading import READING_TASKS
from assay.tasks._helm.summaries import CNN
from assay.tasks._helm.text import CIVIL_COMMENTS_TASKS
from assay.tasks._helm.translation import WMT_14_TASKS

pytestmark = pytest.mark.data
MISSING = {
    "glue/qqp": "the mirror has samples of the train set only",
    "glue/mnli_mismatched": "the mirror has no mismatched split",
    "glue/ax": "the mirror has no diagnostic set",
    "superglue/record": "the mirror has 64 train rows only",
    **{f"helm/bbq/{name}": "not in the mirror" for name in ("Gender_identity", "Race_ethnicity", "Race_x_SES", "Race_x_gender", "SES")},
    **{
        task.name: "not in the mirror"
        for task in (
            LAMBADA,
            *MMLU_PRO_TASKS,
            BOOLQ,
            MED_QA,
            CNN,
            *MATH_TASKS,
            *READING_TASKS,
            *CIVIL_COMMENTS_TASKS,
            *RAFT_TASKS,
            *RANKING_TASKS,
            *WMT_14_TASKS,
        )
    },
    "helm/xsum": "the mirror has no train split, from which HELM draws its examples",
    **{task.name: "the mirror has no test split" for task in LEGAL_TASKS},
}


def ours() -> list[Task]:
    found = {task.full_name: task for name, family in families() if name.startswith("assay.tasks.") for task in family.tasks}
    return [task for task in found.values() if task.purpose == "release"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return open_tokenizer(make_model(tmp_path_factory.mktemp("model")))


def test_every_static_task_reads_its_real_rows(tokenizer: Tokenizer, data_root: Path) -> None:
    access, faults = Access(data_root, allow_partial=True, offline=True), []
    for task in ours():
        plan = Plan(model="m", tasks=(task.full_name,), limit=20)
        try:
            prepared = prepare_task(task, plan, access, tokenizer, 1 << 20)
        except AssayError as error:
            if task.name not in MISSING:
                faults.append(str(error))
            continue
        assert task.name not in MISSING, f"{task.name} is there after all"
        assert prepared.items and prepared.facts["evidence"] in ("limited", "partial", "complete")
        assert all(each.requests for each in prepared.items)
    assert not faults, "\n".join(faults)


def test_a_split_that_is_not_whole_must_be_allowed(tokenizer: Tokenizer, data_root: Path) -> None:
    task = next(task for task in ours() if task.name == "helm/xsum")
    plan = Plan(model="m", tasks=(task.name,), limit=2, shots=0)
    with pytest.raises(AssayError, match=r"has 256 of the data set's 11334 rows.*--allow-partial"):
        prepare_task(task, plan, Access(data_root, offline=True), tokenizer, 1 << 20)
    assert prepare_task(task, plan, Access(data_root, True, True), tokenizer, 1 << 20).facts["evidence"] == "partial"


def test_every_bigbench_task_of_the_mirror_reads(tokenizer: Tokenizer, data_root: Path) -> None:
    access, faults = Access(data_root, offline=True), []
    listed = json.loads((data_root / "google__BIG-bench" / "tasks.json").read_text())
    names = sorted(listed) if isinstance(listed, dict) else sorted(row["task"] for row in listed)
    for name in names:
        try:
            for task in select([f"bigbench/{name}"], access).tasks[:2]:
                prepare_task(task, Plan(model="m", tasks=(task.full_name,), limit=5), access, tokenizer, 1 << 20)
        except AssayError as error:
            faults.append(str(error))
    assert not faults, "\n".join(faults)


def test_a_bigbench_folder_runs_by_its_path(data_root: Path) -> None:
    path = data_root / "google__BIG-bench" / "emoji_movie" / "task.json"
    by_path = select([f"bigbench:{path}"], Access()).tasks
    by_name = select(["bigbench/emoji_movie"], Access(data_root)).tasks
    offered = [[metric.name for metric in task.metrics] for task in by_path]  # every kind that the file allows
    assert by_name and all([metric.name for metric in task.metrics] in offered for task in by_name)


def test_a_changed_file_is_refused(tokenizer: Tokenizer, data_root: Path, tmp_path: Path) -> None:
    source, copy = (
        data_root / "aps__super_glue" / "copa" / "validation.parquet",
        tmp_path / "aps__super_glue" / "copa" / "validation.parquet",
    )
    copy.parent.mkdir(parents=True)
    data = bytearray(source.read_bytes())
    data[len(data) // 2] ^= 1
    copy.write_bytes(bytes(data))
    (tmp_path / "MANIFEST.json").write_text((data_root / "MANIFEST.json").read_text())
    task = select(["superglue/copa"], Access()).tasks[0]
    with pytest.raises(AssayError, match=r"differs from the hash in MANIFEST\.json"):
        prepare_task(task, Plan(model="m", tasks=("x",)), Access(tmp_path, offline=True), tokenizer, 1 << 20)


@pytest.mark.model
def test_the_real_model_on_real_data(builtin_model: Path, data_root: Path, tmp_path: Path) -> None:
    place = Surroundings(tmp_path / "results", tmp_path / "cache", data_root, True)
    names = ("superglue/copa", "glue/sst2", "mmlu/anatomy", "bigbench/strategyqa", "helm/multi30k", "helm/openbookqa")
    plan = Plan(model=str(builtin_model), tasks=names, engine="hf", limit=8, allow_partial=True)
    run = read_run(evaluate(plan, place))
    found = {result["task"].split("@")[0]: result for result in run.summary()["results"] if result["main"]}
    assert {name for name in names if any(task.startswith(name) for task in found)} == set(names)
    assert all(result["evidence"] in ("limited", "partial") for result in found.values())
    tokens = run.summary()["tokens"]
    assert tokens["computed"] < tokens["logical"]


def test_plugins_and_ours_are_found_alike() -> None:
    assert {
        "assay.tasks.glue",
        "assay.tasks.superglue",
        "assay.tasks.mmlu",
        "assay.tasks.bigbench",
        "assay.tasks.helm",
        "assay.tasks.bbh",
    } <= set(module_names())
