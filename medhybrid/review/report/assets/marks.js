// Review marks. If `medhybrid review` serves the page, the server saves them; otherwise this browser keeps them until they are downloaded.
"use strict";

const key = `medhybrid-review-${root.dataset.key}-${root.dataset.folder}`;
const marks = JSON.parse(memory.get(key) ?? "{}");
const unsent = new Set(JSON.parse(memory.get(`${key}-unsent`) ?? "[]"));  // cases whose marks a server has not confirmed
const forms = [...document.querySelectorAll("form.review")];
const asking = document.getElementById("ask-reviewer");
let isServed = false, sending = Promise.resolve();  // marks are sent one after the other: the last one of a case stays

// Return the mark of a case. A mark of an earlier mask of the case does not count.
function markOf(place) {
  const mark = marks[place.dataset.case];
  return mark && (!mark.of || mark.of === place.dataset.of) ? mark : undefined;
}

function badgeOf(mark) {
  const badge = document.createElement("span"), text = mark.decision ?? "comment";
  badge.className = `badge ${text.replace(" ", "-")}`;
  badge.textContent = text;
  if (mark.comment) badge.title = mark.comment;
  return badge;
}

function show() {
  for (const row of table?.tBodies[0].rows ?? []) {
    const mark = markOf(row);
    row.querySelector(".mark")?.replaceChildren(...(mark ? [badgeOf(mark)] : []));
    row.dataset.decision = mark?.decision ?? "";
  }
  for (const form of forms) {
    const mark = markOf(form.closest(".case"));
    for (const radio of form.elements.decision) radio.checked = radio.value === mark?.decision;
    if (document.activeElement !== form.elements.comment) form.elements.comment.value = mark?.comment ?? "";
    const correcting = form.parentElement.querySelector("details.correct");
    if (correcting && mark?.decision === "to correct") correcting.open = true;
  }
  const name = memory.get("medhybrid-reviewer");
  for (const button of document.querySelectorAll(".reviewer")) button.textContent = name ? `Reviewer: ${name}` : "Reviewer: not given";
  showProgress();
  if (table) filter();
}

// --- progress and where the marks are kept ----------------------------------------------------------------------------

function nDownloaded() {
  const saved = JSON.parse(memory.get(`${key}-downloaded`) ?? "{}");
  return Object.keys(marks).filter((name) => saved[name] === marks[name].time).length;
}

function showProgress() {
  const rows = [...(table?.tBodies[0].rows ?? [])].filter((row) => row.dataset.state !== "failed");
  const n = rows.length ? rows.filter((row) => row.dataset.decision).length : Object.values(marks).filter((mark) => mark.decision).length;
  const nMasks = rows.length || Number(document.querySelector("[data-masks]")?.dataset.masks ?? forms.length);
  for (const place of document.querySelectorAll(".progress")) place.textContent = `${Math.min(n, nMasks)} of ${nMasks} reviewed`;
  for (const place of document.querySelectorAll(".kept")) place.textContent = whereKept();
  for (const button of document.querySelectorAll(".download")) button.hidden = isServed;
}

function whereKept() {
  if (isServed) return "Marks are saved beside the masks, in review.json.";
  const nMarks = Object.keys(marks).length, nOpen = nMarks - nDownloaded();
  const place = memory.isLasting
    ? "Marks stay in this browser only, also when the page is opened again."
    : "This browser keeps no marks: they are lost when the page is closed or loaded again.";
  const remedy = "Download them when you have finished, and put review.json beside report.html.";
  if (nMarks === 0) return `${place} ${remedy}`;
  return nOpen === 0 ? `${place} All marks are downloaded.` : `${place} Not downloaded: ${nOpen} of ${nMarks} marks. ${remedy}`;
}

function say(text) {
  for (const place of document.querySelectorAll(".saved")) place.textContent = text;
}

window.addEventListener("beforeunload", (event) => {
  if (!isServed && !memory.isLasting && Object.keys(marks).length > nDownloaded()) event.preventDefault();
});

function download(event) {
  const text = JSON.stringify({format: 1, key: root.dataset.key, marks}, null, 1);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], {type: "application/json"}));
  link.download = "review.json";
  link.click();
  URL.revokeObjectURL(link.href);
  if (!memory.isLasting) {  // a frame without storage may refuse downloads, too, and the page is not told
    offerText(event.target, text);
    return;
  }
  memory.set(`${key}-downloaded`, JSON.stringify(Object.fromEntries(Object.entries(marks).map(([name, mark]) => [name, mark.time]))));
  showProgress();
}

function offerText(button, text) {
  document.querySelector(".marks-text")?.remove();
  const area = document.createElement("textarea");
  Object.assign(area, {className: "marks-text", readOnly: true, rows: 6, value: text});
  area.setAttribute("aria-label", "Content of review.json");
  button.after(area);
  area.select();
  say("If no file was saved, copy this text into review.json.");
}

for (const button of document.querySelectorAll(".download")) button.addEventListener("click", download);

// --- the reviewer, asked at the first mark ----------------------------------------------------------------------------

function askReviewer() {
  document.getElementById("reviewer").value = memory.get("medhybrid-reviewer") ?? "";
  asking.showModal();
}

asking?.querySelector("button").addEventListener("click", () => asking.close());
asking?.addEventListener("keydown", (event) => { if (event.key === "Enter") { event.preventDefault(); asking.close(); } });
asking?.addEventListener("close", () => {
  const name = document.getElementById("reviewer").value.trim();
  memory.set("medhybrid-reviewer", name);
  for (const form of forms) {  // the mark that was the reason to ask
    const {case: scan, of} = form.closest(".case").dataset, mark = marks[scan];
    if (name && mark && mark.of === of && !mark.reviewer) keep(scan, {...mark, reviewer: name});
  }
  show();
});
for (const button of document.querySelectorAll(".reviewer")) button.addEventListener("click", askReviewer);

// --- setting marks ----------------------------------------------------------------------------------------------------

function remember() {
  memory.set(key, JSON.stringify(marks));
  show();
}

function note(name, isSent) {
  if (isSent) unsent.delete(name); else unsent.add(name);
  memory.set(`${key}-unsent`, JSON.stringify([...unsent]));
}

async function send(name) {
  const mark = marks[name] ?? null, body = JSON.stringify({case: name, mark}), headers = {"Content-Type": "application/json"};
  const address = new URL(root.dataset.marks, location.href);
  const answer = await fetch(address, {method: "POST", headers, body, keepalive: true}).catch(() => null);
  if (answer && marks[name] === (mark ?? undefined)) note(name, true);
  if (answer === null) say("Not saved: the server does not answer. The mark is kept in this browser.");
  else say(answer.ok ? `${Object.keys(marks).length} marks saved` : `Not saved: the server refused the mark of ${name} (${answer.status}).`);
}

function keep(name, mark) {
  if (mark) marks[name] = mark; else delete marks[name];
  note(name, false);
  remember();
  if (isServed) sending = sending.then(() => send(name));
}

for (const form of forms) {
  const {case: name, of} = form.closest(".case").dataset;
  const change = () => {
    const decision = form.elements.decision.value || null, comment = form.elements.comment.value.trim();
    const isEmpty = !decision && !comment;
    const reviewer = memory.get("medhybrid-reviewer");
    keep(name, isEmpty ? null : {decision, comment, reviewer: reviewer ?? "", time: new Date().toISOString(), of});
    if (!isEmpty && reviewer === null) askReviewer();
  };
  form.addEventListener("change", change);
  form.addEventListener("submit", (event) => { event.preventDefault(); change(); });
  form.querySelector(".clear").addEventListener("click", () => { form.elements.comment.value = ""; keep(name, null); });
}

window.addEventListener("storage", (event) => {
  if (event.key !== key) return;
  Object.keys(marks).forEach((name) => delete marks[name]);
  Object.assign(marks, JSON.parse(event.newValue ?? "{}"));
  show();
});

// --- commands to correct a mask ---------------------------------------------------------------------------------------

for (const place of document.querySelectorAll(".command")) {
  const code = place.querySelector("code"), button = place.querySelector("button");
  if (location.protocol === "file:") {  // only the page from disk knows its folder
    const up = root.dataset.marks.startsWith("../") ? "../" : "./";
    const folder = decodeURIComponent(new URL(up, location.href).pathname);
    code.textContent = `cd '${folder.replaceAll("'", "'\\''")}' && ${code.textContent}`;
  }
  button.addEventListener("click", async () => {
    getSelection().selectAllChildren(code);
    const isCopied = await navigator.clipboard?.writeText(code.textContent).then(() => true, () => false) ?? document.execCommand("copy");
    button.textContent = isCopied ? "Copied" : "Press Ctrl+C";
  });
}

show();
if (location.protocol.startsWith("http")) {  // not in MLflow's frame, whose address has no server for marks
  fetch(new URL(root.dataset.marks, location.href)).then((answer) => answer.ok ? answer.json() : null).then((saved) => {
    if (!saved?.marks) return;
    isServed = true;
    for (const name of Object.keys(marks)) if (!unsent.has(name)) delete marks[name];
    for (const [name, mark] of Object.entries(saved.marks)) if (!unsent.has(name)) marks[name] = mark;
    for (const name of unsent) sending = sending.then(() => send(name));
    remember();
  }).catch(() => {});
}
