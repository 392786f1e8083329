"""Untrusted text (names, prompts, responses) is escaped in terminals, Markdown, CSV, LaTeX, XML and build logs."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from made_names import HOSTILE, NAMES

from assay.harness.cli import rich_safe
from assay.harness.cli.console import out
from assay.harness.exchange.hugging_face import yaml
from assay.harness.prompt import chat, chat_child
from assay.harness.reports.escaping import md, printable
from assay.harness.reports.pipelines import command
from assay.harness.reports.results import results_table
from assay.harness.reports.tables import grid, table
from assay.leaderboard.data.frames import DataFrame
from assay.leaderboard.documents import export


def result(name: str) -> dict[str, object]:
    return {"task": name, "metric": name, "value": 0.5, "low": 0.4, "high": 0.6, "n": 7, "shots": 0, "main": True}


def printed(capsys: pytest.CaptureFixture[str], value: object, **options: object) -> str:
    out().print(value, **options)  # type: ignore[arg-type]
    return capsys.readouterr().out


@pytest.mark.parametrize("name", NAMES)
def test_a_terminal_gets_no_sequence_of_theirs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for text in (
        printed(capsys, name, markup=False, soft_wrap=True),
        printed(capsys, results_table([result(name)])),
        printed(capsys, table(("task",), [(name,)])),
    ):
        assert all(sign.isprintable() or sign in "\n\u2060" for sign in text), ascii(text)
        assert not any(line.strip().startswith("::") for line in text.splitlines())
    assert rich_safe(name).isprintable()


def test_markup_of_theirs_is_not_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, results_table([result("[link=http://evil.example]x[/link] [/nope]")]))
    assert "[link=" in text and "[/nope]" in text


@pytest.mark.parametrize("name", NAMES)
def test_markdown_shows_the_name_and_nothing_else(name: str) -> None:
    for text in (md(name), grid((name,), [(name, name)])):
        bare = text.replace("\\\\", "").replace("\\<", "").replace("\\>", "").replace("\\[", "").replace("\\]", "").replace("\\`", "")
        for active in ("<img", "<script", "](", "http://", "https://", "`", "\x1b", "\u202e"):
            assert active not in bare, (active, text)
        assert " @acme" not in bare and not bare.startswith("@acme")
    assert "\n" not in md(name)
    lines = grid((name,), [(name, name)]).splitlines()
    assert len(lines) == 3, "a name ends no row"


def test_plain_names_stay_as_they_are() -> None:
    for name in ("mmlu/anatomy@lm-eval", "exact_match", "bigbench/emoji_movie@bigbench", "acme/Otter-7B", "Q4_K_M"):
        assert md(name) == name


@pytest.mark.parametrize("name", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "  =1"])
def test_a_spreadsheet_gets_no_formula(name: str) -> None:
    rows = list(csv.reader(io.StringIO(export.to_csv(DataFrame({"model": [name], name: [1.5]})).decode())))
    for cell in (rows[0][1], rows[1][0]):
        assert not cell.lstrip().startswith(("=", "+", "-", "@")), cell
    assert rows[1][1] == "1.5"


@pytest.mark.parametrize("name", NAMES)
def test_exports_hold_text(name: str) -> None:
    frame = DataFrame({"model": [name], "score": [0.5]})
    latex = export.to_latex(frame).decode()
    for sign in ("\\input{", "\\write18", "\\immediate"):
        assert sign not in latex
    assert all(sign.isprintable() or sign == "\n" for sign in export.to_markdown(frame).decode())
    assert len(export.to_markdown(frame).decode().splitlines()) == 3


@pytest.mark.parametrize("name", NAMES)
def test_a_build_log_gets_one_command(name: str) -> None:
    text = command("error", name, name)
    assert len(text.splitlines()) == 1 or "\n" not in text
    assert text.startswith("::error title=") and "\r" not in text and "\n" not in text
    title = text.removeprefix("::error title=").split("::")[0]
    assert "," not in title


@pytest.mark.parametrize("name", NAMES)
def test_junit_is_xml_whatever_the_names(name: str) -> None:
    case = ElementTree.Element("testcase", name=printable(name))
    case.text = printable(name)
    again = ElementTree.fromstring(ElementTree.tostring(case, encoding="unicode"))
    assert again.get("name") == printable(name)


@pytest.mark.parametrize("name", NAMES)
def test_yaml_for_the_hub_holds_one_text(name: str) -> None:
    text = yaml([{"notes": name}])
    assert text.count("\n") == 1
    assert json.loads(text.split("notes:", 1)[1]) == name


def test_hostile_names_are_what_they_should_be() -> None:
    assert {"\x1b", "\u202e", "<", "`", "|", "\n"} <= set("".join(NAMES)) and HOSTILE in NAMES


def test_chat_templates_give_what_transformers_gives(tmp_path: Path) -> None:
    """Our sandbox renders exactly as transformers does."""
    pytest.importorskip("transformers")
    from transformers.utils.chat_template_utils import render_jinja_template

    chats = [
        [{"role": "user", "content": "hi <b> é \u2028 {{ x }}"}],
        [{"role": "system", "content": " s "}, {"role": "user", "content": "a\n\nb"}, {"role": "assistant", "content": "c"}],
    ]
    templates = [
        "{% for m in messages %}\n  {{- '<|' + m.role + '|>' }}\n{{ m.content | trim }}{% endfor %}",
        "{% if add_generation_prompt %}\n<|a|>{% endif %}\n",
        "{{ bos_token }}{{ messages | tojson }}{{ messages | tojson(indent=2) }}{% if tools %}x{% endif %}",
        "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{% generation %}{{ m }}{% endgeneration %}{% endfor %}",
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}{{ strftime_now('%Y') }}",
    ]
    for text in templates:
        theirs, _ = render_jinja_template(conversations=chats, chat_template=text, add_generation_prompt=True, bos_token="<s>")
        assert chat.render_chats(text, {"bos_token": "<s>"}, chats, "model") == theirs
    assert chat_child.MEMORY == 1 << 30
