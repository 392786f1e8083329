"""Every data set of our tasks is listed with where it was checked, and is pinned where a public place names a revision."""

from __future__ import annotations

import re

from catalogue import data_rows, places

from assay.harness.task.catalogue import families
from assay.harness.task.fetch import data_sets
from assay.harness.task.hub import Hub


def all_data_sets() -> list[Hub]:
    return data_sets(task.rows for name, family in families() if name.startswith("assay.") for task in family.tasks)


def test_every_data_set_has_a_place() -> None:
    used = {hub.repo for hub in all_data_sets()}
    assert used <= set(places()) and set(places()) - used == {"google/BIG-bench", "SaylorTwift/bbh"}


def test_a_data_set_is_pinned_where_its_revision_is_known() -> None:
    for repo, revision, checked, note in data_rows():
        pinned = re.fullmatch(r"`[0-9a-f]{40}`", revision) is not None
        assert pinned == ("name the revision" in checked), repo
        assert pinned or note, f"{repo} has no revision: its note must say why"


def test_one_data_set_is_read_at_one_revision() -> None:
    by_repo: dict[str, set[str | None]] = {}
    for hub in all_data_sets():
        by_repo.setdefault(hub.repo, set()).add(hub.revision)
    assert all(len(revisions) == 1 for revisions in by_repo.values()), by_repo
