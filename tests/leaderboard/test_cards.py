"""Tables as cards in narrow windows."""

from __future__ import annotations

from assay.leaderboard.charts.cards import MOST, OPEN, cards
from assay.leaderboard.data import frames


def test_a_card_has_the_labels_and_formats_of_the_table() -> None:
    table = frames.DataFrame({"name": ["<b>a</b>", "c"], "p": [0.00012, float("nan")], "share": [0.5, 1.0], "n": [1234.4, 2.0]})
    config = {"p": {"label": "p (Holm)", "type_config": {"type": "number", "format": "%.4f"}}, "n": "items"}
    config["share"] = {"label": None, "type_config": {"type": "progress", "format": "percent"}}
    html = cards(table, ["name", "p", "share", "n", "absent"], config, ["items?item=1&of=a", "items?item=2"])
    assert "<b>" not in html and "&lt;b&gt;a" in html  # texts of models are escaped
    assert "<dt>p (Holm)</dt><dd>0.0001</dd>" in html and "<dt>items</dt><dd>1,234</dd>" in html and "<dd>50 %</dd>" in html
    assert html.count("<dt>p (Holm)</dt>") == 1  # a missing value has no line
    assert '<a href="items?item=1&amp;of=a">' in html


def test_many_rows_are_folded_and_very_many_left_out() -> None:
    html = cards(frames.DataFrame({"a": range(200), "b": range(200)}), (), {})
    assert html.count("<article>") == MOST and html.index("<details>") > html.index(f"<div>{OPEN - 1}</div>")
    assert f"{MOST - OPEN} more of {200 - OPEN}" in html
    assert "<details>" not in cards(frames.DataFrame({"a": range(OPEN)}), (), {})
