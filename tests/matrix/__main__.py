"""Makes the matrix and writes it as a table: python -m tests.matrix [WORDS of rows] [--write results/models/README.md]"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.matrix.compare import EXACT, MEDIAN, Outcome, run_row
from tests.matrix.rows import ROWS, Row

HEAD = f"""# Models that assay scores exactly, and those that it refuses

Every row is a tiny random model made from its configuration, with a tokenizer, and an adapter where one is named. assay's transformers
engine scores continuations of prompts of 10 to 90 tokens its fast way; beside it stands one plain forward per continuation through the
library's own classes (`AutoModelForCausalLM`, `AutoModelForImageTextToText`, peft), with the ids of the tokenizer's own call. In fp32 no
token may differ by more than {EXACT:g} nats, and greedy generation must give the same tokens; in 16 bits the median difference must stay
below {MEDIAN:g} nats.
A refusal must be one line with the words that are true of the case.

Made by `python -m tests.matrix --write results/models/README.md`. "Before": what commit 0914e09, from before these
cases were known, did with the same rows (exit code 0 where nothing else is said); empty: the same as today.
Faults that are not of one model: [FAULTS.md](FAULTS.md).
"""


def line(row: Row, outcome: Outcome) -> str:
    result = outcome.text if outcome.off < 0 else f"{outcome.text}, {outcome.off:.1e} nats"
    cells = (
        row.model,
        row.tokenizer,
        row.adapter,
        row.change,
        row.dtype,
        outcome.route,
        "yes" if outcome.good else "NO",
        result,
        row.before,
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*", help="only rows whose name contains one of these")
    parser.add_argument("--write", type=Path, help="file for the table")
    options = parser.parse_args()
    lines, bad = [], 0
    for row in ROWS:
        if options.words and not any(word in row.name for word in options.words):
            continue
        with tempfile.TemporaryDirectory() as home:
            try:
                outcome = run_row(row, Path(home))
            except Exception as error:  # a row that cannot be built or run is a wrong row
                outcome = Outcome(False, -1.0, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200])
        bad += not outcome.good
        lines.append(line(row, outcome))
        print(f"{'ok ' if outcome.good else 'BAD'} {row.name}: {outcome.text} {outcome.off:.1e} {outcome.route}", flush=True)
    summary = f"{len(lines)} rows, {len(lines) - bad} as they must be."
    print(summary)
    if options.write:
        head = "| model | tokenizer | adapter | changed | type | route | right | result | before |"
        options.write.write_text("\n".join((HEAD, summary, "", head, "|---" * 9 + "|", *lines, "")))
    return bool(bad)


sys.exit(main())
