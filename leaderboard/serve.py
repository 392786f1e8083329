"""Starts Streamlit's server: `python -m assay.leaderboard.serve` has the arguments of `streamlit`.

What the pages import takes two seconds, which the first visitor would wait for: it is imported while the server waits for one.
"""

from __future__ import annotations

import sys
import threading
from importlib import import_module

NEEDED = ("pandas", "altair", "duckdb", "scipy.stats", "assay.leaderboard.data.assembly", "assay.leaderboard.charts.charts")


def import_needed() -> None:
    for name in NEEDED:
        import_module(name)


def main() -> None:
    from streamlit.web.cli import main as streamlit

    threading.Thread(target=import_needed, daemon=True).start()
    sys.exit(streamlit(prog_name="streamlit"))


if __name__ == "__main__":
    main()
