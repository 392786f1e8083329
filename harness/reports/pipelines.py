"""Gate results for CI: JUnit XML and GitHub annotations."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from assay.harness.decide.compare import Comparison, Row
from assay.harness.decide.decision import Decision
from assay.harness.decide.early_stopping import EarlyGate
from assay.harness.reports.escaping import printable
from assay.harness.reports.formatting import aggregate_line, causes, change, early_lines, headline, task_state

STATES = {"regressed": "lost", "inconclusive": "?", "pass": "ok"}
LEVELS = {"pass": "notice", "inconclusive": "warning", "regressed": "error"}


def junit(decision: Decision, comparison: Comparison) -> str:
    """JUnit XML with one test case for the verdict and one per task: regressed is a failure, inconclusive is skipped."""
    cases = [("verdict", STATES[decision.verdict], "; ".join(decision.reasons))]
    for each in decision.tasks:
        state = "ok" if each.advisory else task_state(each, decision.alpha)
        cases.append((each.row.task, state, change_and_causes(each.row, decision.alpha)))
    return suite_of(cases, headline(decision, comparison))


def early_junit(found: EarlyGate, head: str) -> str:
    """JUnit XML with one test case for the verdict; tasks have no verdicts of their own before every item is scored."""
    return suite_of([("verdict", STATES[found.verdict], "; ".join(early_lines(found)))], head)


def suite_of(cases: Sequence[tuple[str, str, str]], head: str) -> str:
    """A test suite from cases of name, state and text; `head` is the body of a failure."""
    suite = ElementTree.Element("testsuite", name="assay gate")
    for name, state, text in cases:
        case = ElementTree.SubElement(suite, "testcase", classname="assay.gate", name=printable(name))
        if state == "lost":
            ElementTree.SubElement(case, "failure", message=printable(text)).text = printable(head)
        elif state == "?":
            ElementTree.SubElement(case, "skipped", message=printable(f"inconclusive: {text}"))
        ElementTree.SubElement(case, "system-out").text = printable(text)
    states = [state for _, state, _ in cases]
    suite.set("tests", str(len(cases)))
    suite.set("failures", str(states.count("lost")))
    suite.set("skipped", str(states.count("?")))
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suite, encoding="unicode") + "\n"


def github(decision: Decision, comparison: Comparison) -> str:
    """GitHub workflow commands: one annotation for the verdict and one per lost task."""
    lines = [command(LEVELS[decision.verdict], headline(decision, comparison), aggregate_line(decision))]
    for each in decision.tasks:
        if not each.advisory and task_state(each, decision.alpha) == "lost":
            lines.append(command("error", f"{each.row.task} regressed", change_and_causes(each.row, decision.alpha)))
    return "\n".join(lines) + "\n"


def change_and_causes(row: Row, alpha: float) -> str:
    lost = f"; lost items: {causes(row)}" if row.causes else ""
    return f"{change(row, alpha)}{lost}"


def early_github(found: EarlyGate, head: str) -> str:
    return command(LEVELS[found.verdict], head, "; ".join(early_lines(found))) + "\n"


def command(level: str, title: str, text: str) -> str:
    """One workflow command. Its texts are escaped: they cannot start another command or send control characters to a terminal."""
    name, body = (printable(each).replace("%", "%25") for each in (title, text))
    return f"::{level} title={name.replace(':', '%3A').replace(',', '%2C')}::{body}"
