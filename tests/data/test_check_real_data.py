"""`assay check` raises no error on published benchmarks. Run: ASSAY_DATA=... pytest -m data tests/data/test_check_real_data.py"""

from __future__ import annotations

from pathlib import Path

import pytest

from assay import Access
from assay.harness.checking import check_tasks
from assay.harness.run.selection import select

NAMES = (
    "glue/cola",
    "glue/rte",
    "glue/stsb",
    "superglue/copa",
    "superglue/wsc",
    "mmlu/anatomy",
    "bbh/word_sorting",
    "bigbench/conlang_translation",
    "bigbench/emoji_movie",
    "bigbench/logical_deduction",
    "helm/truthfulqa",
    "helm/openbookqa",
    "helm/bold/gender",
    "helm/flores/eng_Latn-spa_Latn",
)


@pytest.mark.data
@pytest.mark.parametrize("name", NAMES)
def test_a_published_task_has_no_error(name: str, data_root: Path) -> None:
    access = Access(data_root, allow_partial=True, offline=True)
    checked = check_tasks(select([name], access).tasks, access)
    assert not [finding for each in checked for finding in each.findings if finding.level == "E"]
    assert all(each.facts for each in checked)


@pytest.mark.data
def test_the_known_overlap_of_openbookqa_is_found(data_root: Path) -> None:
    """Fourteen test questions stand in its train split, with their choices in another order."""
    access = Access(data_root, allow_partial=True, offline=True)
    (checked,) = check_tasks(select(["helm/openbookqa@helm-classic"], access).tasks, access)
    (finding,) = [each for each in checked.findings if each.check == "train-overlap"]
    assert len(finding.places) == 14 and finding.level == "W"
