"""The gate for build servers: JUnit XML and GitHub's annotations and step summary."""

from __future__ import annotations

from xml.etree import ElementTree

from harness.compare import Comparison
from harness.gate import Decision
from harness.reports.words import aggregate_line, beside, causes, headline, interval, sign, signed


def junit(decision: Decision, comparison: Comparison) -> str:
    """One test case for the verdict and one per task: regressed is a failure, inconclusive is skipped."""
    suite = ElementTree.Element("testsuite", name="assay gate")
    cases = [("verdict", {"regressed": "lost", "inconclusive": "?", "pass": "ok"}[decision.verdict], "; ".join(decision.reasons))]
    for each in decision.tasks:
        state = "ok" if each.advisory else sign(each, decision.alpha)
        found = f"{signed(each.row.points * each.row.difference.delta)} ({interval(each.row)}){beside(each.row)}"
        cases.append((each.row.task, state, f"{found} {causes(each.row)}".strip()))
    for name, state, text in cases:
        case = ElementTree.SubElement(suite, "testcase", classname="assay.gate", name=clean(name))
        if state == "lost":
            ElementTree.SubElement(case, "failure", message=clean(text)).text = clean(headline(decision, comparison))
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
    level = {"pass": "notice", "inconclusive": "warning", "regressed": "error"}[decision.verdict]
    lines = [command(level, headline(decision, comparison), aggregate_line(decision))]
    for each in decision.tasks:
        if not each.advisory and sign(each, decision.alpha) == "lost":
            moved = f"{signed(each.row.points * each.row.difference.delta)} ({interval(each.row)}){beside(each.row)}"
            text = f"{moved}; lost items: {causes(each.row)}"
            lines.append(command("error", f"{each.row.task} regressed", text))
    return "\n".join(lines) + "\n"


def command(level: str, title: str, text: str) -> str:
    escaped = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    name = title.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A").replace(":", "%3A").replace(",", "%2C")
    return f"::{level} title={name}::{escaped}"
