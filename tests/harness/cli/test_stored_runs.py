"""What commands say about stored runs: interrupted ones, folders without runs, baselines, models side by side, wrong options."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fakes import make_model, write_task
from test_cli import assay


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A limited run of a model after a whole one, and a whole one of another model."""
    home = tmp_path_factory.mktemp("home")
    for seed, name in enumerate(("one", "two")):
        make_model(home / name, seed)
    write_task(home, 40)
    found = assay(
        "run", "--model", "one,two", "--tasks", "sums.py", "--engine", "scripted", "--dtype", "float16", "--device", "cpu", home=home
    )
    (home / "printed").write_text(found.stdout)
    (home / "warned").write_text(found.stderr)
    assay("run", "--model", "one", "--tasks", "sums.py", "--engine", "scripted", "--limit", "5", home=home)
    return home


def test_several_models_are_printed_side_by_side(home: Path) -> None:
    last = (home / "printed").read_text().strip().splitlines()[-2:]
    assert last[0].split() == ["task", "metric", "one", "two"]
    assert re.fullmatch(r"sums\s+accuracy\s+0\.\d{3}\s+0\.\d{3}", last[1].strip())


def test_float16_on_a_cpu_warns(home: Path) -> None:
    assert "float16 on a CPU is slow" in (home / "warned").read_text()


def test_a_name_stands_for_the_whole_run_and_a_replaced_baseline_is_named(home: Path) -> None:
    first = assay("baseline", "set", "v1", "two", home=home).stdout
    assert "two on sums, 40 items" in first and "replaces" not in first
    second = assay("baseline", "set", "v1", "one", home=home).stdout
    assert "one on sums, 40 items" in second  # not the newer run with --limit 5
    assert "It replaces run" in second and "two on sums" in second


def test_store_ls_tells_interrupted_runs_and_wrong_folders(home: Path) -> None:
    bundle = sorted((home / "results" / "runs").iterdir())[0]
    listed = assay("store", "ls", home=home).stdout
    assert "40 items" in listed and "interrupted" not in listed
    done = (bundle / "DONE").read_bytes()
    (bundle / "DONE").unlink()
    listed = assay("store", "ls", home=home).stdout
    assert f"{bundle.name}  interrupted" in listed and re.search(rf"interrupted \d+ s ago. Resume it: assay resume {bundle.name}", listed)
    (bundle / "DONE").write_bytes(done)
    assert "no such folder" in assay("store", "ls", "--results", "nowhere", home=home, code=2).stderr
    assert "give the folder above" in assay("store", "ls", "--results", "results/runs", home=home, code=2).stderr


def test_an_option_out_of_range_is_explained_in_our_words(home: Path) -> None:
    found = assay("gate", "one", "--baseline", "two", "--margin", "0", home=home, code=2).stderr
    assert "--margin: must be at least 1e-06" in found and "Input should" not in found
    (home / "gate.toml").write_text("margin = 0\n")
    assert "margin: must be at least" in assay("gate", "one", "--baseline", "two", "--policy", "gate.toml", home=home, code=2).stderr
