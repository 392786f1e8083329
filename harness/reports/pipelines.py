"""The gate for build servers: JUnit XML and GitHub's annotations and step summary."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from assay.harness.decide.compare import Comparison
from assay.harness.decide.decision import Decision
from assay.harness.decide.early_stopping import EarlyGate
from assay.harness.reports.words import aggregate_line, beside, causes, early_lines, headline, interval, sign, signed

STATES = {"regressed": "lost", "inconclusive": "?", "pass": "ok"}
LEVELS = {"pass": "notice", "inconclusive": "warning", "regressed": "error"}


def junit(decision: Decision, comparison: Comparison) -> str:
    """One test case for the verdict and one per task: regressed is a failure, inconclusive is skipped."""
    cases = [("verdict", STATES[decision.verdict], "; ".join(decision.reasons))]
    for each in decision.tasks:
        state = "ok" if each.advisory else sign(each, decision.alpha)
        found = f"{signed(each.row.points * each.row.difference.delta)} ({interval(each.row)}){beside(each.row)}"
        cases.append((each.row.task, state, f"{found} {causes(each.row)}".strip()))
    return suite_of(cases, headline(decision, comparison))


def early_junit(found: EarlyGate, head: str) -> str:
    """One test case for the verdict; single tasks have none before every item is asked."""
    return suite_of([("verdict", STATES[found.verdict], "; ".join(early_lines(found)))], head)


def suite_of(cases: Sequence[tuple[str, str, str]], head: str) -> str:
    """Cases as name, state and text; `head` is the long form of a failure."""
    suite = ElementTree.Element("testsuite", name="assay gate")
    for name, state, text in cases:
        case = ElementTree.SubElement(suite, "testcase", classname="assay.gate", name=clean(name))
        if state == "lost":
            ElementTree.SubElement(case, "failure", message=clean(text)).text = clean(head)
        elif state == "?":
            ElementTree.SubElement(case, "skipped", message=clean(f"inconclusive: {text}"))
        ElementTree.SubElement(case, "system-out").text = clean(text)
    states = [state for _, state, _ in cases]
    suite.set("tests", str(len(cases)))
    suite.set("failures", str(states.count("lost")))
    suite.set("skipped", str(states.count("?")))
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suite, encoding="unicode") + "\n"


def clean(text: str) -> str:
    """XML 1.0 has no control characters."""
    return "".join(character if character.isprintable() else " " for character in text)


def github(decision: Decision, comparison: Comparison) -> str:
    """Workflow commands: one annotation for the verdict, one per lost task."""
    lines = [command(LEVELS[decision.verdict], headline(decision, comparison), aggregate_line(decision))]
    for each in decision.tasks:
        if not each.advisory and sign(each, decision.alpha) == "lost":
            moved = f"{signed(each.row.points * each.row.difference.delta)} ({interval(each.row)}){beside(each.row)}"
            text = f"{moved}; lost items: {causes(each.row)}"
            lines.append(command("error", f"{each.row.task} regressed", text))
    return "\n".join(lines) + "\n"


def early_github(found: EarlyGate, head: str) -> str:
    return command(LEVELS[found.verdict], head, "; ".join(early_lines(found))) + "\n"


def command(level: str, title: str, text: str) -> str:
    """One workflow command; nothing in it can begin another, or reach a terminal as a control character."""
    name, body = (clean(each).replace("%", "%25") for each in (title, text))
    return f"::{level} title={name.replace(':', '%3A').replace(',', '%2C')}::{body}"
