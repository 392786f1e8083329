"""Items: the exact prompt of every item and every model's response."""

from __future__ import annotations

import json
from pathlib import Path

import streamlit as st

from assay.leaderboard.data import bundles, frames
from assay.leaderboard.data.queries import PAGE, ItemFilter
from assay.leaderboard.data.safe_text import plain, visible
from assay.leaderboard.pages import shell

OUTCOMES = ("right", "wrong", "unparsed", "truncated", "error")


def read_filters() -> ItemFilter:
    """The selected filters; all are in the URL."""
    cells, runs = shell.cells(), shell.read("runs")
    runs = runs[runs.status == "complete"]
    names = {f"{label}": tuple(sorted(set(part.run_id))) for label, part in cells.groupby("label")}
    names.update({label: (run,) for run, label in shell.run_labels(runs).items()})
    tasks = sorted(set(shell.read("task_names").task))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        model = st.selectbox("Model or run", list(names), index=None, key="who", bind="query-params", placeholder="any", width=300)
        task = st.selectbox("Task", tasks, index=None, key="task", bind="query-params", placeholder="any", width=260)
        text = ""
        if shell.items_shown():  # a search would reveal hidden texts
            text = st.text_input("Text", key="text", bind="query-params", placeholder="in prompt, response or item id", width=260)
    outcome = st.pills("Outcome", OUTCOMES, key="outcome", bind="query-params")
    return ItemFilter(names.get(str(model), ()), task or "", outcome or "", text.strip())


def listing(item_filter: ItemFilter) -> None:
    page = int(st.session_state.get("page", 1))
    count, rows = shell.read("item_page", item_filter, page)
    if not count:
        shell.empty("No item matches these filters. Remove a filter.")
        return
    pages = min((count + PAGE - 1) // PAGE, 2000)
    st.caption(f"{count:,} responses" + (f", {PAGE} per page" if pages > 1 else ""))
    labels = shell.run_labels(shell.read("runs"))
    shown = rows.assign(
        Outcome=[outcome(row) for row in rows.itertuples()],
        Model=[labels.get(run, run).split(" · ")[0] for run in rows.run_id],
        Response=[visible(text, 200) for text in rows.output],
        Gold=[visible(text, 200) for text in rows.gold],
        Prompt=[visible(text, 200) for text in rows.prompt],
        Item=[visible(text, 60) for text in rows.item_id],
        Task=[visible(text, 60) for text in rows.task],
    )
    order = ["Outcome", "Item", "Model", "Task", "Response", "Gold", "Prompt"]
    event = shell.table(
        shown, column_order=order, hide_index=True, on_select="rerun", selection_mode="single-row", key="rows", height=320, alt="Responses"
    )
    if pages > 1:
        st.pagination(pages, key="page", bind="query-params")
    picked = event.selection.rows
    if picked and picked[0] < len(rows):
        row = rows.iloc[picked[0]]
        if (row.task, row.item_id) != (st.session_state.get("seen_task"), st.session_state.get("seen_item")):
            st.session_state.seen_task, st.session_state.seen_item = row.task, row.item_id
            st.session_state.chosen_item = (row.task, row.item_id)
            st.rerun()


def outcome(row: object) -> str:
    status, correct = getattr(row, "status", ""), getattr(row, "correct", None)
    if status != "scored":
        return str(status)
    return "–" if correct is None or correct != correct else "right" if correct >= 0.5 else "wrong"


def detail(task: str, item: str) -> None:
    """One item: gold, prompt and all responses."""
    responses = shell.read("responses", task, item)
    st.subheader("Item details")
    if not len(responses):
        shell.empty(f"No indexed run has item {item} of {task}. Choose an item in the table above.")
        return
    st.caption(f"Item {plain(item, 80)} of {plain(task, 80)}, cluster {plain(responses.item_cluster.iloc[0], 80)}")
    labels = shell.run_labels(responses)
    right = (responses.correct.fillna(0) >= 0.5).sum()
    st.markdown(f"**{right} of {len(responses)} runs are right.** Gold answer:")
    st.code(visible(responses.gold.iloc[0], 4000, lines=True) or "(hidden)", language=None, wrap_lines=True)
    table = responses.assign(
        Outcome=[outcome(row) for row in responses.itertuples()],
        Model=[visible(name, 60) for name in responses.model],
        Response=[visible(text, 300) for text in responses.output],
        Engine=responses.engine,
        Run=responses.run_id,
    )
    shell.table(table, column_order=["Outcome", "Model", "Response", "Engine", "Run"], hide_index=True, alt="All responses to this item")
    run = st.selectbox("Run", list(labels), key="run", bind="query-params", format_func=lambda each: labels.get(each, str(each)))
    row = responses[responses.run_id == run].iloc[0] if run in set(responses.run_id) else responses.iloc[0]
    left, right_column = st.columns(2)
    with left:
        st.markdown("**Prompt**")
        st.code(visible(row.prompt, 20000, lines=True), language=None, wrap_lines=True)
    with right_column:
        st.markdown(f"**Response** ({outcome(row)})")
        st.code(visible(row.output, 20000, lines=True) or "(empty)", language=None, wrap_lines=True)
        if row.error:
            st.code(visible(row.error, 2000, lines=True), language=None, wrap_lines=True)
    if shell.items_shown():
        bundle_facts(row, task, item)


def load_record(bundle: str, task: str, item: str) -> bundles.ItemRecord | None:
    return bundles.item_record(Path(bundle), task, item)


cached_record = st.cache_data(max_entries=32, show_spinner=False)(load_record)


def bundle_facts(row: object, task: str, item: str) -> None:
    """Log-likelihoods of the choices and tokens of the prompt, read from the run's bundle."""
    if not st.toggle("Log-likelihoods and tokens", key="deep", bind="query-params", help="Reads the run's bundle and verifies its hashes."):
        return
    found = cached_record(str(shell.root() / str(row.bundle)), task, item)  # type: ignore[attr-defined]
    if found is None:
        shell.empty("The run's bundle has no such item. To check the store, run:", "assay store check")
        return
    if found.choices and "loglikelihoods" in found.output:
        choices(found)
    st.caption(f"Hash of the token ids: {plain(found.key)}. Few-shot examples: {plain(', '.join(found.shots)) or 'none'}.")
    facts = shell.read("runs").set_index("run_id").loc[row.run_id]  # type: ignore[attr-defined]
    pieces = bundles.token_pieces(Path(str(facts.model_path)), found.prompt)
    if pieces is None:
        st.caption("Tokens not shown: the model's tokenizer is not on this machine.")
    else:
        st.markdown(f"**{len(pieces)} prompt tokens** (piece⟨id⟩, without added special tokens)")
        st.code(" ".join(f"{visible(piece)}⟨{number}⟩" for number, piece in pieces[:4000]), language=None, wrap_lines=True)
    with st.expander("Stored document and output"):
        st.code(
            visible(json.dumps({"doc": found.doc, "output": found.output}, indent=1, ensure_ascii=False), 20000, lines=True),
            language="json",
        )


def choices(found: bundles.ItemRecord) -> None:
    count, output = len(found.choices), found.output
    table = frames.DataFrame(
        {
            "Chosen": [output.get("pick") == number for number in range(count)],
            "Gold": [found.doc.get("gold") == number for number in range(count)],
            "Choice": [visible(text, 300) for text in found.choices],
            "Log-likelihood": [*output["loglikelihoods"], *[None] * count][:count],
            "Tokens": [*output.get("tokens", []), *[None] * count][:count],
        }
    )
    shell.table(table, hide_index=True, alt="Choices with log-likelihoods")


def page() -> None:
    shell.head("Items", "The exact prompt of every item and every model's response.")
    if not shell.items_shown():
        st.caption("Prompts, gold and responses are hidden on an exposed leaderboard. To show them: `assay board --expose --show-items`")
    if (jump := st.session_state.pop("chosen_item", None)) is not None:
        st.session_state.of, st.session_state.item = jump
    item_filter = read_filters()
    listing(item_filter)
    with st.container(horizontal=True):
        of = st.text_input("Task of the item", key="of", bind="query-params", placeholder="select a row above or enter a task", width=320)
        item = st.text_input("Item", key="item", bind="query-params", placeholder="item id", width=260)
    if item and (of or item_filter.task):
        detail(of or item_filter.task, item)


shell.run_page(page)
