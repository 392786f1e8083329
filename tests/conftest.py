"""Test layout: plain `pytest` needs no network, hub, GPU or data; what it leaves out it says at the end.

Marks: model (the real built-in model), vllm, data (ASSAY_DATA), browser. A marked test whose means are missing is left out,
unless ASSAY_REQUIRE names its mark: then it fails. CI requires all.

On a machine with a GPU the tests of the tuners use it; `ASSAY_TEST_DEVICE=cuda pytest tests/contracts` holds the transformers engine to its
contract there.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

import pytest

MODEL = Path(os.environ.get("ASSAY_CACHE") or Path.home() / ".cache" / "assay") / "models" / "smollm2-135m-instruct"

MEANS = {
    "model": (lambda: (MODEL / "config.json").is_file(), "the built-in model (assay demo fetches it)"),
    "vllm": (lambda: importlib.util.find_spec("vllm") is not None, "vLLM"),
    "data": (lambda: bool(os.environ.get("ASSAY_DATA")), "benchmark data in $ASSAY_DATA"),
    "lm_eval": (lambda: importlib.util.find_spec("lm_eval") is not None, "lm-eval (pip install 'assay[lm-eval]')"),
    "ray": (lambda: importlib.util.find_spec("ray") is not None, "Ray"),
    "browser": (lambda: bool(shutil.which("chromium") and importlib.util.find_spec("playwright")), "Chromium and Playwright"),
}
left_out: dict[str, int] = {}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    required = set(filter(None, os.environ.get("ASSAY_REQUIRE", "").split(",")))
    kept, dropped = [], []
    for item in items:
        missing = [mark for mark, (there, _) in MEANS.items() if item.get_closest_marker(mark) and mark not in required and not there()]
        for mark in missing:
            left_out[mark] = left_out.get(mark, 0) + 1
        (dropped if missing else kept).append(item)
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = kept


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for mark, count in left_out.items():
        terminalreporter.write_line(f"left out: {count} tests that need {MEANS[mark][1]}")


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real benchmark data (mark: data)."""
    return Path(os.environ["ASSAY_DATA"])


@pytest.fixture(scope="session")
def builtin_model() -> Path:
    """The real built-in model's folder (mark: model)."""
    assert (MODEL / "config.json").is_file(), "run `assay demo` once: it brings the built-in model"
    return MODEL
