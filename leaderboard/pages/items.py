"""Items: exactly what was sent, what came back, and every model's answer to it."""

from __future__ import annotations

import json
from pathlib import Path

import streamlit as st

from assay.leaderboard.data import frames, live
from assay.leaderboard.data.queries import PAGE, Wanted
from assay.leaderboard.data.shown import plain, visible
from assay.leaderboard.pages import shell

OUTCOMES = ("right", "wrong", "unparsed", "truncated", "error")
MARKS = {True: "right", False: "wrong"}


def choose() -> Wanted:
    """The filters; all of them are in the URL."""
    cells, runs = shell.cells(), shell.read("runs")
    runs = runs[runs.status == "complete"]
    names = {f"{label}": tuple(sorted(set(part.run_id))) for label, part in cells.groupby("label")}
    names.update({label: (run,) for run, label in shell.run_labels(runs).items()})
    tasks = sorted(set(shell.read("task_names").task))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        model = st.selectbox("Model or run", list(names), index=None, key="who", bind="query-params", placeholder="any", width=300)
        task = st.selectbox("Task", tasks, index=None, key="task", bind="query-params", placeholder="any", width=260)
        text = ""
        if shell.items_shown():  # a search would tell what is hidden
            text = st.text_input("Text", key="text", bind="query-params", placeholder="in prompt, answer or id", width=260)
    outcome = st.pills("Outcome", OUTCOMES, key="outcome", bind="query-params")
    return Wanted(names.get(str(model), ()), task or "", outcome or "", text.strip())


def listing(wanted: Wanted) -> None:
    page = int(st.session_state.get("page", 1))
    count, rows = shell.read("item_page", wanted, page)
    if not count:
        shell.empty("No item fits. Take a filter away.")
        return
    pages = min((count + PAGE - 1) // PAGE, 2000)
    st.caption(f"{count:,} answers" + (f", {PAGE} a page" if pages > 1 else ""))
    labels = shell.run_labels(shell.read("runs"))
    shown = rows.assign(
        Outcome=[outcome(row) for row in rows.itertuples()],
        Model=[labels.get(run, run).split(" · ")[0] for run in rows.run_id],
        **{name.title(): [visible(text, 200) for text in rows[name]] for name in ("prompt", "output", "gold")},
        Item=[visible(text, 60) for text in rows.item_id],
        Task=[visible(text, 60) for text in rows.task],
    )
    order = ["Outcome", "Item", "Model", "Task", "Output", "Gold", "Prompt"]
    event = shell.table(
        shown, column_order=order, hide_index=True, on_select="rerun", selection_mode="single-row", key="rows", height=320, alt="Answers"
    )
    if pages > 1:
        st.pagination(pages, key="page", bind="query-params")
    picked = event.selection.rows
    if picked and picked[0] < len(rows):
        row = rows.iloc[picked[0]]
        if (row.task, row.item_id) != (st.session_state.get("seen_task"), st.session_state.get("seen_item")):
            st.session_state.seen_task, st.session_state.seen_item = row.task, row.item_id
            st.session_state.wanted_item = (row.task, row.item_id)
            st.rerun()


def outcome(row: object) -> str:
    status, correct = getattr(row, "status", ""), getattr(row, "correct", None)
    if status != "scored":
        return str(status)
    return "–" if correct is None or correct != correct else MARKS[correct >= 0.5]


def detail(task: str, item: str) -> None:
    """One item: the question, then every answer."""
    answers = shell.read("answers", task, item)
    st.subheader("One item")
    if not len(answers):
        shell.empty(f"No indexed run has the item {item} of {task}.")
        return
    st.caption(f"{plain(item, 80)} of {plain(task, 80)}, cluster {plain(answers.item_cluster.iloc[0], 80)}")
    labels = shell.run_labels(answers)
    right = (answers.correct.fillna(0) >= 0.5).sum()
    st.markdown(f"**{right} of {len(answers)} runs are right.** Gold:")
    st.code(visible(answers.gold.iloc[0], 4000, lines=True) or "(hidden)", language=None, wrap_lines=True)
    table = answers.assign(
        Outcome=[outcome(row) for row in answers.itertuples()],
        Model=[visible(name, 60) for name in answers.model],
        Answer=[visible(text, 300) for text in answers.output],
        Engine=answers.engine,
        Run=answers.run_id,
    )
    shell.table(
        table, column_order=["Outcome", "Model", "Answer", "Engine", "Run"], hide_index=True, alt="Every model's answer to this item"
    )
    run = st.selectbox("Run", list(labels), key="run", bind="query-params", format_func=lambda each: labels.get(each, str(each)))
    row = answers[answers.run_id == run].iloc[0] if run in set(answers.run_id) else answers.iloc[0]
    left, right_column = st.columns(2)
    with left:
        st.markdown("**Sent**")
        st.code(visible(row.prompt, 20000, lines=True), language=None, wrap_lines=True)
    with right_column:
        st.markdown(f"**Came back** ({outcome(row)})")
        st.code(visible(row.output, 20000, lines=True) or "(nothing)", language=None, wrap_lines=True)
        if row.error:
            st.code(visible(row.error, 2000, lines=True), language=None, wrap_lines=True)
    if shell.items_shown():
        bundle_facts(row, task, item)


def from_bundle(bundle: str, task: str, item: str) -> live.Sent | None:
    return live.sent(Path(bundle), task, item)


FROM_BUNDLE = st.cache_data(max_entries=32, show_spinner=False)(from_bundle)


def bundle_facts(row: object, task: str, item: str) -> None:
    """Choices with log-probabilities and tokens, read from the bundle when asked for."""
    if not st.toggle(
        "Choices, log-probabilities and tokens", key="deep", bind="query-params", help="Reads the run's bundle and checks its hashes."
    ):
        return
    found = FROM_BUNDLE(str(shell.root() / str(row.bundle)), task, item)  # type: ignore[attr-defined]
    if found is None:
        shell.empty("The bundle has no such item.")
        return
    if found.choices and "loglikelihoods" in found.output:
        choices(found)
    st.caption(f"Hash of the token ids that were sent: {plain(found.key)}. Exemplars: {plain(', '.join(found.shots)) or 'none'}.")
    facts = shell.read("runs").set_index("run_id").loc[row.run_id]  # type: ignore[attr-defined]
    cut = live.tokens(Path(str(facts.model_path)), found.prompt)
    if cut is None:
        st.caption("The model's tokenizer is not on this machine: no tokens to show.")
    else:
        st.markdown(f"**{len(cut)} tokens** as the model's tokenizer cuts the prompt (without added special tokens)")
        st.code(" ".join(f"{visible(piece)}⟨{number}⟩" for number, piece in cut[:4000]), language=None, wrap_lines=True)
    with st.expander("Record and document as stored"):
        st.code(
            visible(json.dumps({"doc": found.doc, "output": found.output}, indent=1, ensure_ascii=False), 20000, lines=True),
            language="json",
        )


def choices(found: live.Sent) -> None:
    count, output = len(found.choices), found.output
    table = frames.DataFrame(
        {
            "Taken": [output.get("pick") == number for number in range(count)],
            "Gold": [found.doc.get("gold") == number for number in range(count)],
            "Choice": [visible(text, 300) for text in found.choices],
            "Log-probability": [*output["loglikelihoods"], *[None] * count][:count],
            "Tokens": [*output.get("tokens", []), *[None] * count][:count],
        }
    )
    shell.table(table, hide_index=True, alt="Choices with their log-probabilities")


def page() -> None:
    shell.head("Items", "Exactly what was sent and what came back, item by item, with every model's answer to the same question.")
    if not shell.items_shown():
        st.caption("Prompts, gold and answers are hidden on a board that other machines reach. `--show-items` shows them.")
    if (jump := st.session_state.pop("wanted_item", None)) is not None:
        st.session_state.of, st.session_state.item = jump
    wanted = choose()
    listing(wanted)
    with st.container(horizontal=True):
        of = st.text_input("Task of the item", key="of", bind="query-params", placeholder="tick a row above, or type a task", width=320)
        item = st.text_input("Item", key="item", bind="query-params", placeholder="id of an item", width=260)
    if item and (of or wanted.task):
        detail(of or wanted.task, item)


shell.guarded(page)
