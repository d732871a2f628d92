"use strict";
// Tables are sorted by a click on the name of a column, or with the keyboard; a second time, the other way round.
function numberOf(text) {
  // The first number of a text that begins with one, such as 1,697 (46 %) or [-0.1, 0.2]
  const found = /^[[(+<]?\s*(-?\d+(\.\d+)?(e[-+]?\d+)?)/i.exec(text.replaceAll(",", ""));
  return found ? Number(found[1]) : NaN;
}
function compare(one, other) {
  const numbers = [numberOf(one), numberOf(other)];
  if (!Number.isNaN(numbers[0]) && !Number.isNaN(numbers[1])) return numbers[0] - numbers[1];
  return one.localeCompare(other, undefined, { numeric: true });
}
function isEmpty(text) { return text === "" || text === "-"; }
function sortRows(table, header) {
  const column = header.cellIndex;
  const ascending = header.getAttribute("aria-sort") !== "ascending";
  for (const other of header.parentElement.cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const body = table.tBodies[0];
  const rows = Array.from(body.rows, row => [row.cells[column].textContent.trim(), row]);
  rows.sort(([one], [other]) => {
    if (isEmpty(one) || isEmpty(other)) return isEmpty(one) - isEmpty(other);
    return ascending ? compare(one, other) : compare(other, one);
  });
  body.append(...rows.map(([, row]) => row));
}
for (const table of document.querySelectorAll(".table table")) {
  if (table.tBodies[0].rows.length < 3) continue;
  for (const header of table.tHead.querySelectorAll("th")) {
    const button = document.createElement("button");
    button.type = "button";
    button.title = "sort";
    button.append(...header.childNodes);
    button.addEventListener("click", () => sortRows(table, header));
    header.append(button);
  }
}
// Folded sections are printed too.
let opened = [];
window.addEventListener("beforeprint", () => {
  opened = Array.from(document.querySelectorAll("main details:not([open])"));
  for (const section of opened) section.open = true;
});
window.addEventListener("afterprint", () => { for (const section of opened) section.open = false; });
// A link to a folded section opens it.
for (const link of document.querySelectorAll("nav a")) {
  link.addEventListener("click", () => {
    const target = document.getElementById(link.hash.slice(1));
    if (target instanceof HTMLDetailsElement) target.open = true;
  });
}
