"""A table as cards, for windows too narrow for its columns. All texts are escaped here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from assay.leaderboard.charts.drawing import escaped
from assay.leaderboard.data.frames import missing

OPEN, MOST = 12, 60
"""More rows are folded; still more are left to a wide window."""
WIDE = "wide-"
"""Start of the key of a container that is hidden where the cards are shown."""
STYLE = f"""<style>
.cards {{ display: none; }}
@media (max-width: 640px) {{
  [class*="st-key-{WIDE}"] {{ display: none; }}
  .cards {{ display: grid; gap: 6px; font-size: .84rem; font-variant-numeric: tabular-nums; }}
}}
.cards details {{ display: grid; gap: 6px; }}
.cards summary {{ cursor: pointer; margin: 4px 0; }}
.cards article {{ border: 1px solid color-mix(in srgb, currentColor 22%, transparent); border-radius: 6px; padding: 6px 10px;
  margin-bottom: 6px; }}
.cards article > :first-child {{ font-weight: 600; overflow-wrap: anywhere; color: inherit; }}
.cards dl {{ display: flex; flex-wrap: wrap; gap: 2px 12px; margin: 2px 0 0 !important; padding: 0 !important; font-size: inherit; }}
.cards dl div {{ display: flex; gap: 5px; min-width: 0; max-width: 100%; }}
.cards :is(dt, dd) {{ font-size: .84rem !important; margin: 0 !important; padding: 0 !important; }}
.cards dt {{ font-weight: 400; white-space: nowrap; color: color-mix(in srgb, currentColor 78%, transparent); }}
.cards dd {{ overflow-wrap: anywhere; min-width: 0; }}
</style>"""
"""Once per page."""


def shown(value: Any, form: str) -> str:
    """A cell's text: `form` is a format of Streamlit's columns (printf, or "percent")."""
    if missing(value):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if form == "percent":
        return f"{100 * value:.0f} %"
    if form.startswith("%") and not isinstance(value, str):
        return str(form % value)
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def cards(table: Any, order: Sequence[str], config: Mapping[str, Any], links: Sequence[str] = ()) -> str:
    """HTML of a frame's rows: the first column of `order` is the title, which leads to the row's link if there are `links`; `config` are
    Streamlit's column settings, of which names and number formats are used."""
    names = [name for name in order if name in table.columns] or list(table.columns)
    settings: list[dict[str, Any]] = [
        {"label": value} if isinstance(value := config.get(name), str) else dict(value or {}) for name in names
    ]
    heads = [str(each.get("label") or name) for each, name in zip(settings, names, strict=True)]
    forms = [str((each.get("type_config") or {}).get("format") or "") for each in settings]
    found = []
    for number, row in enumerate(table[names].head(MOST).astype(object).itertuples(index=False, name=None)):
        texts = [escaped(shown(value, form), 200) for value, form in zip(row, forms, strict=True)]
        title = f'<a href="{escaped(links[number])}">{texts[0]}</a>' if links else f"<div>{texts[0]}</div>"
        facts = (
            f"<div><dt>{escaped(head)}</dt><dd>{text}</dd></div>"
            for head, text in zip(heads[1:], texts[1:], strict=True)
            if text not in ("–", "")
        )
        found.append(f"<article>{title}<dl>{''.join(facts)}</dl></article>")
    rest = "".join(found[OPEN:])
    more = f" of {len(table) - OPEN:,}; the others in a wider window" if len(table) > MOST else ""
    fold = f"<details><summary>{len(found) - OPEN} more{more}</summary>{rest}</details>" if rest else ""
    return f'<div class="cards">{"".join(found[:OPEN])}{fold}</div>'
