"""Items: each item's prompt, gold answer and the responses of all models, to read one after the other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import streamlit as st

from assay.leaderboard.data import bundles, frames
from assay.leaderboard.data.queries import PAGE, ItemFilter
from assay.leaderboard.data.safe_text import folder, plain, visible
from assay.leaderboard.pages import reading, shell

OUTCOMES = ("right", "wrong", "unparsed", "truncated", "error")
AGREEMENTS = {"some": "models differ", "all": "all models right", "none": "all models wrong"}


def read_filters() -> ItemFilter:
    """The selected filters; all are in the URL."""
    cells, runs = shell.cells(), shell.read("runs")
    runs = runs[runs.status == "complete"]
    names = {f"{label}": tuple(sorted(set(part.run_id))) for label, part in cells.groupby("label")}
    names.update({label: (run,) for run, label in shell.run_labels(runs).items()})
    tasks = sorted(set(shell.read("task_names").task))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        model = st.selectbox("Model or run", list(names), index=None, key="who", bind="query-params", placeholder="any", width=260)
        task = st.selectbox("Task", tasks, index=None, key="task", bind="query-params", placeholder="any", width=240)
        text = ""
        if shell.items_shown():  # a search would reveal hidden texts
            text = st.text_input("Text", key="text", bind="query-params", placeholder="in prompt, response or item id", width=240)
        outcome = st.pills("Outcome", OUTCOMES, key="outcome", bind="query-params")
        agreement = st.pills("Agreement", list(AGREEMENTS), key="agree", bind="query-params", format_func=AGREEMENTS.get)
    return ItemFilter(names.get(str(model), ()), task or "", outcome or "", text.strip(), agreement=agreement or "")


def listing(item_filter: ItemFilter) -> Any:
    """The page of matching responses; None if there is none."""
    page = int(st.session_state.get("page", 1))
    count, rows = shell.read("item_page", item_filter, page)
    if not count:
        shell.empty("No item matches these filters. Remove a filter.")
        return None
    pages = min((count + PAGE - 1) // PAGE, 2000)
    st.caption(f"{count:,} responses" + (f", {PAGE} per page" if pages > 1 else "") + ". Click a row to read it.")
    labels = shell.run_labels(shell.read("runs"))
    shown = rows.assign(
        Outcome=[reading.SIGNS.get(found := reading.outcome(row), found) for row in rows.itertuples()],
        Model=[labels.get(run, run).split(" · ")[0] for run in rows.run_id],
        Response=[visible(text, 200) for text in rows.output],
        Gold=[visible(text, 200) for text in rows.gold],
        Prompt=[visible(str(text).rstrip().split("\n\n")[-1][-200:]) for text in rows.prompt],  # its own part, after the examples
        Item=[visible(text, 60) for text in rows.item_id],
        Task=[visible(text, 60) for text in rows.task],
    )
    order = ["Outcome", "Item", "Model", "Task", "Response", "Gold", "Prompt"]
    config: dict[str, Any] = {name: st.column_config.TextColumn(width="small") for name in ("Outcome", "Item", "Gold")}
    event = shell.table(
        shown,
        column_order=order,
        column_config=config,
        hide_index=True,
        on_select="rerun",
        selection_mode="single-row",
        key="rows",
        height=shell.fitting(len(rows), 6),
        alt="Responses",
        links=[shell.address("items", of=row.task, item=row.item_id, run=row.run_id) for row in rows.itertuples()],
    )
    if pages > 1:
        st.pagination(pages, key="page", bind="query-params")
    picked = event.selection.rows
    if picked and picked[0] < len(rows):
        row = rows.iloc[picked[0]]
        key = (row.task, row.item_id, row.run_id)
        if key != st.session_state.get("picked"):  # else the selection is older than a step to another item
            st.session_state.picked = st.session_state.chosen_item = key
            st.rerun()
    return rows


def steps(rows: Any, task: str, item: str, run: str) -> None:
    """Buttons for the previous and the next response of the list."""
    keys = list(zip(rows.task, rows.item_id, rows.run_id, strict=True))
    here = next((place for place, key in enumerate(keys) if key[:2] == (task, item) and run in ("", key[2])), -1)
    with st.container(horizontal=True, vertical_alignment="center"):
        back = st.button("← Previous", shortcut="p", disabled=here <= 0, help="Key p")
        following = st.button("Next →", shortcut="n", disabled=here + 1 >= len(keys), help="Key n")
        name = shell.run_labels(shell.read("runs")).get(run, "").split(" · ")[0]
        row = f"Row {here + 1} of {len(keys)} on this page: item {plain(item, 40)}, response of {plain(name, 60)}"
        st.caption(row if here >= 0 else "not in the list above")
    if back or following:
        st.session_state.chosen_item = keys[here + (1 if following else -1)]
        st.rerun()


def detail(task: str, item: str, run: str) -> None:
    """One item: prompt, gold answer and every model's response."""
    responses = shell.read("responses", task, item)
    if not len(responses):
        shell.empty(f"No indexed run has item {item} of {task}. Choose an item in the table above.")
        return
    labels = shell.run_labels(responses)
    right = (responses.correct.fillna(0) >= 0.5).sum()
    row = responses[responses.run_id == run].iloc[0] if run in set(responses.run_id) else responses.iloc[0]
    st.header(f"{plain(task, 80)}, item {plain(item, 80)}")
    st.caption(f"{right} of {len(responses)} runs are right · cluster {plain(row.item_cluster, 80)}")
    left, right_column = st.columns([3, 2])
    with left:
        st.markdown("**Prompt**")
        reading.prompt(str(row.prompt), shell.other_prompts(row.run_id, task, item))
    with right_column:
        st.markdown("**Gold answer**")
        st.code(visible(row.gold, 4000, lines=True) or "(hidden)", language=None, wrap_lines=True)
        st.markdown(f"**Response** of {plain(labels[row.run_id].split(' · ')[0], 60)} ({reading.outcome(row)})")
        st.code(visible(row.output, 20000, lines=True) or "(empty)", language=None, wrap_lines=True)
        if row.error:
            st.code(visible(row.error, 2000, lines=True), language=None, wrap_lines=True)
    st.markdown(f"**All {len(responses)} runs**")
    ordered = responses.sort_values("correct", ascending=False, kind="stable")
    counts = responses.model.value_counts()
    reading.answers([answer(each, each.run_id if counts[each.model] > 1 else "") for each in ordered.itertuples()])
    if shell.items_shown():
        st.session_state.run = row.run_id  # the run whose response is shown
        st.selectbox(
            "Run",
            list(labels),
            key="run",
            bind="query-params",
            format_func=lambda each: labels.get(each, str(each)),
            on_change=keep,
            args=(task, item),
        )
        bundle_facts(row, task, item)


def keep(task: str, item: str) -> None:
    """Stays with an item when another run is chosen for it."""
    st.session_state.chosen_item = (task, item, st.session_state.run)


def answer(row: Any, run: str) -> str:
    """One response as HTML; a thinking part in it is folded. `run` is named where a model has several."""
    thought, end, text = str(row.output).rpartition("</think>")
    name = " · ".join(filter(None, (visible(folder(row.model), 60), run)))
    return reading.article(name, reading.outcome(row), reading.safe(text.strip() if end else text), thought.replace("<think>", "").strip())


def load_record(bundle: str, task: str, item: str) -> bundles.ItemRecord | None:
    return bundles.item_record(Path(bundle), task, item)


cached_record = st.cache_data(max_entries=32, show_spinner=False)(load_record)


def bundle_facts(row: Any, task: str, item: str) -> None:
    """Log-likelihoods of the choices and tokens of the prompt, read from the run's bundle."""
    if not st.toggle("Log-likelihoods and tokens", key="deep", bind="query-params", help="Reads the run's bundle and verifies its hashes."):
        return
    found = cached_record(str(shell.root() / str(row.bundle)), task, item)
    if found is None:
        shell.empty("The run's bundle has no such item. To check the store, run:", "assay store check")
        return
    facts = shell.read("runs").set_index("run_id").loc[row.run_id]
    if found.choices and bundles.loglikelihoods(found.output):
        choices(found, Path(str(facts.model_path)))
    elif "logprob" in found.output:
        st.caption(f"Log-probability of the response: {found.output['logprob']:.2f} nats; it is stored as a sum, not per token.")
    for thought in found.output.get("thoughts", ()):
        with st.expander(f"Thinking ({thought.get('tokens', 0):,} tokens)"):
            st.code(visible(thought.get("text", ""), 20000, lines=True), language=None, wrap_lines=True)
    st.caption(f"Hash of the token ids: {plain(found.key)}. Few-shot examples: {plain(', '.join(found.shots)) or 'none'}.")
    pieces = bundles.token_pieces(Path(str(facts.model_path)), found.prompt)
    if pieces is None:
        st.caption("The prompt's tokens are not shown: the model's tokenizer is not on this machine.")
    else:
        st.markdown(f"**{len(pieces)} prompt tokens** (piece⟨id⟩, without added special tokens)")
        st.code(" ".join(f"{visible(piece)}⟨{number}⟩" for number, piece in pieces[:4000]), language=None, wrap_lines=True)
    with st.expander("Stored document and output"):
        st.code(
            visible(json.dumps({"doc": found.doc, "output": found.output}, indent=1, ensure_ascii=False), 20000, lines=True),
            language="json",
        )


def choices(found: bundles.ItemRecord, folder: Path) -> None:
    """The choices with their log-likelihoods, and their tokens shaded by log-probability."""
    count, output = len(found.choices), found.output
    values = output.get("logprobs", ())
    table = frames.DataFrame(
        {
            "Choice": [visible(text, 300) for text in found.choices],
            "Chosen": [output.get("pick") == number for number in range(count)],
            "Gold": [found.doc.get("gold") == number for number in range(count)],
            "Log-likelihood": [*bundles.loglikelihoods(output), *[None] * count][:count],
            "Tokens": [*(output.get("tokens") or map(len, values)), *[None] * count][:count],
        }
    )
    shell.table(table, hide_index=True, alt="Choices with log-likelihoods")
    if values:
        several = any(len(each) > 1 for each in values)
        st.caption(
            "Tokens of each choice, the redder the less likely; beside it the log-likelihood, nats."
            + " Hover over a token for its own log-probability." * several
        )
        choices = [(bundles.choice_pieces(folder, text, len(each)), each) for text, each in zip(found.choices, values, strict=False)]
        reading.answers([reading.shaded(choices)])


def page() -> None:
    shell.head("Items", "Read items one after the other: the exact prompt, the gold answer, and every model's response.")
    if not shell.items_shown():
        st.caption("Prompts, gold and responses are hidden on an exposed leaderboard. To show them: `assay board --expose --show-items`")
    if (jump := st.session_state.pop("chosen_item", None)) is not None:
        st.session_state.of, st.session_state.item, st.session_state.run = jump
    chosen = read_filters()
    rows = listing(chosen)
    of, item = st.session_state.get("of"), st.session_state.get("item")
    with st.popover("Open an item by its id"):
        of = st.text_input("Task of the item", key="of", bind="query-params", placeholder="select a row above or enter a task")
        item = st.text_input("Item", key="item", bind="query-params", placeholder="item id")
    run = str(st.session_state.get("run") or "")
    if not item and rows is not None and len(rows):
        of, item, run = rows.task.iloc[0], rows.item_id.iloc[0], rows.run_id.iloc[0]
    if item and (of or chosen.task):
        if rows is not None:
            if not run:  # the first response to the item in the list, so that the row and the response agree
                run = next(iter(rows.run_id[(rows.task == (of or chosen.task)) & (rows.item_id == item)]), "")
            steps(rows, of or chosen.task, item, run)
        detail(of or chosen.task, item, run)


shell.run_page(page)
