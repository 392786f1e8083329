"""Style and script of the matrix: tints, frozen first column, cards on narrow screens; sorting, folding, tooltips."""

from __future__ import annotations

CSS = """
.matrix { font-size: .875rem; color: var(--ink); }
.matrix .scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; outline-offset: 2px; }
.matrix table { border-collapse: separate; border-spacing: 0; width: 100%; font-variant-numeric: tabular-nums; }
.matrix th, .matrix td { padding: 5px 8px; text-align: left; border: 0; border-top: 1px solid var(--line); min-width: 0; }
.matrix th, .matrix td { white-space: nowrap; vertical-align: middle; }
.matrix thead th { background: var(--soft); border-top: 0; font-weight: 600; vertical-align: bottom; }
.matrix thead tr:first-child th.group { border-left: 1px solid var(--line); text-align: center; }
.matrix small { display: block; font-size: .75rem; font-weight: 400; color: var(--quiet); }
.matrix .n { text-align: center; }
.matrix th.model { position: sticky; left: 0; z-index: 2; background: var(--paper); border-right: 1px solid var(--line); font-weight: 400; }
.matrix thead th.model { background: var(--soft); z-index: 3; }
.matrix .who { display: flex; gap: 8px; align-items: center; max-width: 260px; }
.matrix .who > div { min-width: 0; overflow: hidden; }
.matrix a.name { display: block; overflow: hidden; text-overflow: ellipsis; font-weight: 600; color: var(--ink); }
.matrix a { color: inherit; text-decoration: none; }
.matrix td a { display: block; margin: -5px -8px; padding: 5px 8px; }
.matrix a:hover { text-decoration: underline; }
.matrix button { all: unset; cursor: pointer; }
.matrix button:focus-visible, .matrix a:focus-visible { outline: 2px solid var(--link); outline-offset: -2px; }
.matrix [aria-sort=ascending] button[data-sort]::after { content: " ↑"; }
.matrix [aria-sort=descending] button[data-sort]::after { content: " ↓"; }
.matrix td button { display: block; box-sizing: border-box; width: calc(100% + 16px); margin: -5px -8px; padding: 5px 8px; }
.matrix td button { text-align: center; }
.matrix th button[data-fold]::before { content: "▸ "; color: var(--quiet); }
.matrix th button[data-fold][aria-expanded=true]::before { content: "▾ "; }
.matrix a.open { margin-left: 4px; color: var(--link); visibility: hidden; }
.matrix th:hover a.open, .matrix a.open:focus { visibility: visible; }
.matrix .tier { border-left: 4px solid var(--mark); padding-left: 6px; }
.matrix .mean { font-weight: 600; }
.matrix .shut { display: none; }
.matrix tbody tr:hover th.model { background: var(--soft); }
.matrix .t0 { background: transparent; }
.matrix .t1 { background: color-mix(in srgb, var(--tint) 13%, transparent); }
.matrix .t2 { background: color-mix(in srgb, var(--tint) 23%, transparent); }
.matrix .t3 { background: color-mix(in srgb, var(--tint) 34%, transparent); }
.matrix .t4 { background: color-mix(in srgb, var(--tint) 52%, transparent); }
.matrix td.lead { font-weight: 650; }
.matrix td.none { color: var(--quiet); background: repeating-linear-gradient(135deg, transparent 0 5px, var(--soft) 5px 10px); }
.matrix .guess { font-style: italic; color: var(--quiet); text-decoration: underline dotted; }
.matrix .key { display: flex; flex-wrap: wrap; align-items: center; gap: 4px 6px; margin: 8px 0 0; color: var(--quiet); font-size: .8rem; }
.matrix .key > span:not(:first-child) { margin-left: 8px; }
.matrix .pair { white-space: nowrap; }
.matrix .swatch { width: 22px; height: 14px; border: 1px solid var(--line); border-radius: 3px; text-align: center; line-height: 12px; }
.matrix button[data-all] { margin-left: auto; color: var(--link); text-decoration: underline; }
.matrix .swatch + .swatch { margin-left: -4px !important; }
.matrix .bar { position: sticky; bottom: 8px; margin: 8px auto 0; width: fit-content; display: flex; gap: 12px; padding: 8px 14px;
  background: var(--ink); color: var(--paper); border-radius: 8px; z-index: 5; }
.matrix [hidden] { display: none !important; }
.matrix .bar a { font-weight: 650; text-decoration: underline; }
.matrix .tooltip { position: fixed; z-index: 99; pointer-events: none; white-space: pre-line; max-width: 320px; padding: 6px 10px;
  background: var(--ink); color: var(--paper); border-radius: 6px; font-size: .8rem; }
@media (max-width: 640px) {
  .matrix table, .matrix tbody { display: block; width: auto; }
  .matrix thead { display: none; }
  .matrix tbody tr { display: grid; grid-template-columns: repeat(auto-fill, minmax(86px, 1fr)); gap: 6px; }
  .matrix tbody tr { padding: 10px; border-top: 1px solid var(--line); }
  .matrix tbody tr:first-child { border-top: 0; }
  .matrix tbody th.model { position: static; grid-column: 1 / -1; padding: 0; border: 0; }
  .matrix .who { max-width: none; }
  .matrix tbody td { display: block; border: 1px solid var(--line); border-radius: 5px; padding: 3px 8px; }
  .matrix tbody td::before { content: attr(data-head); display: block; font-size: .7rem; font-weight: 400; font-style: normal;
    color: inherit; white-space: normal; overflow-wrap: anywhere; line-height: 1.2; }
  .matrix tbody td.shut { display: none; }
  .matrix .tier { border-left: 0; border-bottom: 3px solid var(--mark); padding-left: 0; }
}
"""

SCRIPT = """
function liveMatrix(root, go) {
  const table = root.querySelector("table"), bar = root.querySelector(".bar");
  const tip = document.createElement("div");
  tip.className = "tooltip"; tip.hidden = true; tip.setAttribute("role", "status"); root.append(tip);
  const fold = (name, open) => {
    const head = root.querySelector(`[data-family=${name}]`), count = +head.dataset.count;
    if (count < 2) return;
    root.querySelectorAll(`.task.${name}`).forEach(each => each.classList.toggle("shut", !open));
    root.querySelectorAll(`.family.${name}`).forEach(each => each.classList.toggle("shut", open));
    head.colSpan = open ? count : 1;
    const button = head.querySelector("[data-fold]");
    if (button) button.setAttribute("aria-expanded", open);
  };
  const folded = root.classList.contains("folded") || matchMedia("(max-width: 640px)").matches;
  root.querySelectorAll("[data-family]").forEach(head => fold(head.dataset.family, !folded));
  const open = name => root.querySelector(`[data-family=${name}] [data-fold]`).getAttribute("aria-expanded") === "true";
  const all = root.querySelector("[data-all]");
  all.hidden = !root.querySelector("[data-fold]");
  if (!folded) all.textContent = "Fold all";
  const sort = head => {
    const row = [...head.parentElement.children], kind = head.querySelector("[data-sort]").dataset.sort;
    const down = head.getAttribute("aria-sort") !== "descending" && !(head.classList.contains("rank") && !head.hasAttribute("aria-sort"));
    root.querySelectorAll("[aria-sort]").forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const top = head.parentElement === table.tHead.rows[0];
    const before = [...table.tHead.rows[0].children].filter(each => each.rowSpan === 2).length;
    const column = row.indexOf(head) + (top ? 0 : before);
    const key = each => kind === "text" ? each.dataset.label : parseFloat(each.cells[column].dataset.v);
    const order = (a, b) => typeof a === "string" ? a.localeCompare(b) * (down ? -1 : 1)
      : isNaN(a) ? (isNaN(b) ? 0 : 1) : isNaN(b) ? -1 : (a - b) * (down ? -1 : 1);
    [...table.tBodies[0].rows].sort((a, b) => order(key(a), key(b))).forEach(each => table.tBodies[0].append(each));
  };
  const ticked = () => [...root.querySelectorAll("input:checked")].map(each => each.dataset.model);
  root.addEventListener("click", event => {
    const link = event.target.closest("[data-go]"), button = event.target.closest("button");
    if (link && go && !event.ctrlKey && !event.metaKey && !event.shiftKey) { event.preventDefault(); go(link.dataset.go); }
    else if (button && button.dataset.fold) fold(button.dataset.fold, !open(button.dataset.fold));
    else if (button && "all" in button.dataset) {
      const open = button.textContent === "Unfold all";
      root.querySelectorAll("[data-family]").forEach(head => fold(head.dataset.family, open));
      button.textContent = open ? "Fold all" : "Unfold all";
    }
    else if (button && button.dataset.sort) sort(button.closest("th"));
  });
  root.addEventListener("change", () => {
    const names = ticked(), link = bar.querySelector("a");
    bar.hidden = !names.length;
    bar.querySelector("span").textContent = names.length < 2 ? "Tick another model to compare" : names.length + " models";
    link.hidden = names.length < 2;
    const state = {first: names[0], second: names[1] || "", more: names.slice(2)};
    const query = [["first", state.first], ["second", state.second], ...state.more.map(name => ["more", name])];
    link.href = "compare?" + new URLSearchParams(query);
    link.dataset.go = JSON.stringify({page: "compare", state});
  });
  const show = event => {
    const cell = event.target.closest("[data-tip]");
    tip.hidden = !cell;
    if (!cell) return;
    tip.textContent = cell.dataset.tip;
    const box = cell.getBoundingClientRect();
    tip.style.left = Math.max(4, Math.min(box.left, innerWidth - tip.offsetWidth - 8)) + "px";
    tip.style.top = (box.bottom + tip.offsetHeight + 8 > innerHeight ? box.top - tip.offsetHeight - 4 : box.bottom + 4) + "px";
  };
  root.addEventListener("mouseover", show);
  root.addEventListener("focusin", show);
  root.addEventListener("mouseleave", () => { tip.hidden = true; });
}
"""
