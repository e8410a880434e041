// Table of scans, review marks, light and dark theme. The report can be read without this script.
"use strict";
document.documentElement.classList.add("scripted");

// --- light and dark --------------------------------------------------------------------------------------------------

const memory = {
  // A page in a sandboxed frame has no localStorage: `values` keeps the entries until the page is closed.
  values: {},
  get(key) { try { return localStorage.getItem(key); } catch { return this.values[key] ?? null; } },
  set(key, value) { this.values[key] = value; try { localStorage.setItem(key, value); } catch { /* kept in `values` */ } },
};

const root = document.documentElement;
if (memory.get("medhybrid-theme")) root.dataset.theme = memory.get("medhybrid-theme");
document.getElementById("theme").addEventListener("click", () => {
  const isDark = getComputedStyle(root).colorScheme === "dark";
  root.dataset.theme = isDark ? "light" : "dark";
  memory.set("medhybrid-theme", root.dataset.theme);
});

// --- the table of scans ----------------------------------------------------------------------------------------------

const table = document.getElementById("cases");

function sortBy(header) {
  const column = header.cellIndex, isNumber = header.dataset.sort === "number";
  const isDown = header.getAttribute("aria-sort") === "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", isDown ? "descending" : "ascending");
  const value = (row) => isNumber ? Number(row.cells[column].dataset.value) : row.cells[column].textContent.trim();
  const compare = (a, b) => isNumber ? value(a) - value(b) : value(a).localeCompare(value(b), undefined, {numeric: true});
  const rows = [...table.tBodies[0].rows].sort((a, b) => isDown ? compare(b, a) : compare(a, b));
  table.tBodies[0].append(...rows);
}

function filter() {
  const words = document.getElementById("find").value.toLowerCase(), state = document.getElementById("show").value;
  let n = 0;
  for (const row of table.tBodies[0].rows) {
    const isMarked = Boolean(marks[row.dataset.case]);
    const isKept = state === "" || (state === "unmarked" ? !isMarked && row.dataset.state !== "failed" : row.dataset.state === state);
    row.hidden = !(isKept && row.textContent.toLowerCase().includes(words));
    n += !row.hidden;
  }
  document.getElementById("shown").textContent = `${n} of ${table.tBodies[0].rows.length}`;
}

if (table) {
  for (const header of table.tHead.rows[0].cells) {
    if (!header.dataset.sort) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = header.textContent;
    button.addEventListener("click", () => sortBy(header));
    header.replaceChildren(button);
  }
  document.getElementById("find").addEventListener("input", filter);
  document.getElementById("show").addEventListener("change", filter);
}

// --- marks -----------------------------------------------------------------------------------------------------------

// If `medhybrid review` serves the page, the server saves the marks; otherwise the browser keeps them until they are downloaded.
const key = `medhybrid-review-${root.dataset.key}-${root.dataset.folder}`;
const marks = JSON.parse(memory.get(key) ?? "{}");
const unsent = new Set(JSON.parse(memory.get(`${key}-unsent`) ?? "[]"));  // cases whose marks were not sent, because the server did not answer
let isServed = false;

// Return the mark of a case. A mark of an earlier mask of the case does not count.
function markOf(place) {
  const mark = marks[place.dataset.case];
  return mark && (!mark.of || mark.of === place.dataset.of) ? mark : undefined;
}

function show() {
  for (const row of table?.tBodies[0].rows ?? []) {
    const mark = markOf(row), cell = row.querySelector(".mark");
    cell.replaceChildren();
    if (!mark) continue;
    const badge = document.createElement("span");
    badge.className = `badge ${mark.decision.replace(" ", "-")}`;
    badge.textContent = mark.decision;
    if (mark.comment) badge.title = mark.comment;
    cell.append(badge);
  }
  for (const form of document.querySelectorAll("form.review")) {
    const mark = markOf(form.closest(".case"));
    for (const radio of form.elements.decision) radio.checked = radio.value === mark?.decision;
    if (document.activeElement !== form.elements.comment) form.elements.comment.value = mark?.comment ?? "";
  }
  if (table) filter();
}

function say(text) {
  for (const place of document.querySelectorAll(".saved")) place.textContent = text;
}

function remember() {
  memory.set(key, JSON.stringify(marks));
  show();
}

async function send(name, mark) {
  const body = JSON.stringify({case: name, mark: mark ?? null}), headers = {"Content-Type": "application/json"};
  const answer = await fetch(new URL(root.dataset.marks, location.href), {method: "POST", headers, body}).catch(() => null);
  if (answer === null) unsent.add(name); else unsent.delete(name);
  memory.set(`${key}-unsent`, JSON.stringify([...unsent]));
  if (answer === null) say("Not saved: the server does not answer. The mark is kept in this browser.");
  else say(answer.ok ? `${Object.keys(marks).length} marks saved` : `Not saved: the server refused the mark of ${name} (${answer.status}).`);
}

function keep(name, mark) {
  if (mark) marks[name] = mark; else delete marks[name];
  remember();
  if (isServed) send(name, mark); else say(`${Object.keys(marks).length} marks, saved in this browser only`);
}

for (const form of document.querySelectorAll("form.review")) {
  const {case: name, of} = form.closest(".case").dataset;
  const change = () => {
    const decision = form.elements.decision.value;
    if (!decision) return;
    keep(name, {decision, comment: form.elements.comment.value.trim(), reviewer: memory.get("medhybrid-reviewer") ?? "", time: new Date().toISOString(), of});
  };
  form.addEventListener("change", change);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.querySelector(".clear").addEventListener("click", () => keep(name, null));
}

const reviewer = document.getElementById("reviewer");
if (reviewer) {
  reviewer.value = memory.get("medhybrid-reviewer") ?? "";
  reviewer.addEventListener("input", () => memory.set("medhybrid-reviewer", reviewer.value.trim()));
  document.getElementById("download").addEventListener("click", () => {
    const text = JSON.stringify({format: 1, key: root.dataset.key, marks}, null, 1);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], {type: "application/json"}));
    link.download = "review.json";
    link.click();
    URL.revokeObjectURL(link.href);
  });
}
window.addEventListener("storage", (event) => {
  if (event.key !== key) return;
  Object.keys(marks).forEach((name) => delete marks[name]);
  Object.assign(marks, JSON.parse(event.newValue ?? "{}"));
  show();
});
show();
if (location.protocol.startsWith("http")) {  // not in MLflow's frame, whose address has no server for marks
  fetch(new URL(root.dataset.marks, location.href)).then((answer) => answer.ok ? answer.json() : null).then((saved) => {
    if (!saved?.marks) return;
    isServed = true;
    for (const name of Object.keys(marks)) if (!unsent.has(name)) delete marks[name];
    for (const [name, mark] of Object.entries(saved.marks)) if (!unsent.has(name)) marks[name] = mark;
    for (const name of unsent) send(name, marks[name]);
    remember();
  }).catch(() => {});
}
