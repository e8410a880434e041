// Table of scans, light and dark theme. The report can be read without this script.
"use strict";
document.documentElement.classList.add("scripted");

// --- light and dark --------------------------------------------------------------------------------------------------

const memory = {
  // A page in a sandboxed frame has no localStorage: `values` keeps the entries until the page is closed.
  values: {},
  get isLasting() {
    try { localStorage.setItem("medhybrid-test", "1"); localStorage.removeItem("medhybrid-test"); return true; } catch { return false; }
  },
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
    const {found, decision, state: rowState} = row.dataset, isDone = rowState !== "failed";
    const isKept = {
      "": true, failed: !isDone, look: rowState === "look", found: isDone && found === "1", empty: isDone && found === "0",
      unmarked: isDone && !decision,
    }[state];
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
