"""The matrix of models and tasks as HTML, for the Board and for the published page. All texts are escaped here."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from urllib.parse import urlencode

from assay.leaderboard.charts.drawing import escaped
from assay.leaderboard.data.matrix import LEVELS, Cell, Head, Matrix, Row

MOST_OPEN = 12
"""More tasks than this are folded into the means of their families until clicked."""


def link(page: str, state: Mapping[str, str], text: str, kind: str = "", linked: bool = True) -> str:
    """A link to a page of the leaderboard; `text` is HTML. `data-go` is what the Board opens without loading the page again."""
    if not linked:
        return f'<span class="{kind}">{text}</span>' if kind else text
    go = escaped(json.dumps({"page": page, "state": dict(state)}))
    return f'<a class="{kind}" href="{escaped(f"{page}?{urlencode(state)}")}" data-go="{go}">{text}</a>'


def sortable(text: str, value: str, kind: str = "", span: str = "") -> str:
    """A header cell with a button that sorts by the column; `text` is HTML."""
    return f'<th scope="col" class="{kind}" {span}><button type="button" data-sort="{value}">{text}</button></th>'


def attribute(value: float) -> str:
    return "" if not math.isfinite(value) else f"{value:.9g}"


def tooltip(lines: Iterable[str]) -> str:
    """The attribute of a tooltip. Lines are escaped one by one: a line break inside of an untrusted text must not start a line."""
    return f'data-tip="{"&#10;".join(map(escaped, lines))}"'


def score_cell(row: Row, cell: Cell | None, head: str, kind: str, linked: bool) -> str:
    """One cell; `head` is the task or family, shown where the table is drawn as cards."""
    name = f'data-head="{escaped(head)}"'
    if cell is None:
        return f'<td class="n none {kind}" {name} data-v=""><span title="not scored">–</span></td>'
    shade = f"t{cell.tint}" + (" lead" if cell.tint == LEVELS else "") + (" guess" if cell.guessing else "")
    text = escaped(cell.text)
    if not cell.task:  # a family's mean unfolds its tasks
        text = f'<button type="button" data-fold="{kind.split()[-1]}">{text}</button>'
    else:
        wrong = {} if cell.perfect else {"outcome": "wrong"}
        text = link("items", {"who": row.label, "task": cell.task} | wrong, text, linked=linked)
    return f'<td class="n {shade} {kind}" {name} data-v="{attribute(cell.value)}" {tooltip(cell.tip)}>{text}</td>'


def body_row(matrix: Matrix, row: Row, linked: bool, ranked: bool) -> str:
    named = escaped(row.label)
    tick = f'<input type="checkbox" data-model="{named}" aria-label="Select {named} to compare">' if linked else ""
    detail = " · ".join(filter(None, (row.detail, row.partial)))
    name = link("model", {"model": row.label}, escaped(row.label), "name", linked)
    parts = [f'<tr data-label="{escaped(row.label)}"><th scope="row" class="model">']
    parts.append(f'<div class="who">{tick}<div>{name}<small>{escaped(detail)}</small></div></div></th>')
    parts += rank_cells(row) if ranked else []
    start = 0
    for number, (family, count) in enumerate(matrix.families):
        if count > 1:
            parts.append(score_cell(row, row.families[number], f"{family} mean, chance 0", f"family f{number}", linked))
        for place in range(start, start + count):
            kind = f"task f{number}" if count > 1 else f"single f{number}"
            head = matrix.heads[place]
            parts.append(
                score_cell(
                    row, row.cells[place], head.short if count > 1 or head.short == family else f"{family} {head.short}", kind, linked
                )
            )
        start += count
    return "".join(parts) + "</tr>"


def rank_cells(row: Row) -> list[str]:
    """The rank interval with the tier's colour, and the score with its interval."""
    mark = "≈ " if row.partial and row.tier else ""
    tip = [f"95 % rank interval: {row.rank}; tier {row.tier}" if row.tier else "not ranked"]
    tip += [f"ranked on {row.partial}, adjusted for their difficulty"] if mark else []
    limits = f"<small>{escaped(row.limits)}</small>" if row.limits else ""
    return [
        f'<td class="n rank" data-head="rank" data-v="{attribute(row.best)}" {tooltip(tip)}>'
        f'<span class="tier c{(row.tier - 1) % 8 if row.tier else 7}">{escaped(row.rank)}</span></td>',
        f'<td class="n mean" data-head="score" data-v="{attribute(row.value)}">{mark}{escaped(row.score)}{limits}</td>',
    ]


def task_head(head: Head, number: int, single: bool, linked: bool) -> str:
    notes = [f"chance {head.chance:.0f}"] if math.isfinite(head.chance) and head.chance > 0 else []
    why = ["ceiling: the intervals of two or more models reach 99 points"] if head.ceiling else []
    about = tooltip([head.column, *notes, *why, "click: sort"])
    notes += ["ceiling"] if head.ceiling else []
    kind = f"n {'single' if single else 'task'} f{number}"
    text = f"<span {about}>{escaped(head.short, 18)}</span><small>{'<br>'.join(notes) or '&nbsp;'}</small>"
    page = link("task", {"column": head.column}, "↗", "open", linked)
    page = page.replace("<a ", f'<a aria-label="Task {escaped(head.column)}" ', 1) if linked else ""
    return sortable(text, "number", kind).replace("</th>", f"{page}</th>")


def html(matrix: Matrix, linked: bool = True, ranked: bool = True) -> str:
    """The table. `linked`: cells, models and tasks lead to their pages, and models can be ticked to compare them. `ranked`: with ranks
    and scores."""
    folded = len(matrix.heads) > MOST_OPEN
    top = [sortable("Model", "text", "model", 'rowspan="2"')]
    if ranked:
        top.append(sortable("Rank<small>95 %</small>", "number", "n rank", 'rowspan="2"'))
        top.append(sortable("Score<small>95 % CI</small>", "number", "n mean", 'rowspan="2"'))
    second, start = [], 0
    for number, (family, count) in enumerate(matrix.families):
        title = escaped(family, 24)
        if count > 1:
            state = f'data-fold="f{number}" aria-expanded="{"false" if folded else "true"}"'
            title = f'<button type="button" {state}>{title}<small>{count} tasks</small></button>'
            second.append(sortable("mean<small>chance 0</small>", "number", f"n family f{number}"))
        span = f'data-family="f{number}" data-count="{count}" colspan="{count + (count > 1)}"'
        top.append(f'<th scope="colgroup" class="group" {span}>{title}</th>')
        second += [task_head(head, number, count == 1, linked) for head in matrix.heads[start : start + count]]
        start += count
    rows = "".join(body_row(matrix, row, linked, ranked) for row in matrix.rows)
    bar = '<div class="bar" hidden><span></span><a href="compare">Compare</a></div>' if linked else ""
    behind = "".join(f'<span class="swatch t{level}"></span>' for level in reversed(range(LEVELS)))
    key = (
        '<p class="key"><span class="swatch t4 lead"></span>best, or not significantly worse'
        f"{behind}further behind<span class='pair'>–&nbsp; not scored</span>"
        "<span class='pair'><span class='guess'>12.3</span>&nbsp; not significantly above chance</span>"
        '<button type="button" data-all>Unfold all</button></p>'
    )
    return (
        f'<div class="matrix{" folded" if folded else ""}"><div class="scroll" tabindex="0" role="region" aria-label="Models and tasks">'
        f"<table><thead><tr>{''.join(top)}</tr><tr>{''.join(second)}</tr></thead><tbody>{rows}</tbody></table></div>{bar}{key}</div>"
    )
