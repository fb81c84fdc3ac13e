// Adds sorting, a filter, the selection of a result, and the clips of a cell to a page that reads without it.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const make = (name, text, className) => {
    const element = document.createElement(name);
    if (text !== undefined) element.textContent = text;
    if (className) element.className = className;
    return element;
  };
  for (const hidden of document.querySelectorAll(".control[hidden], .hint[hidden]")) hidden.hidden = false;

  const body = document.getElementById("ablation").tBodies[0];

  // Sorting: a button in each heading; unknown values come last in either direction.
  const language = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });
  const key = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.value === undefined ? cell.textContent.trim() : cell.dataset.value;
  };
  const sort = (table, heading) => {
    const numeric = heading.classList.contains("n");
    const first = heading.dataset.best === "high" ? "descending" : "ascending";
    const current = heading.getAttribute("aria-sort");
    const order = !current ? first : current === "ascending" ? "descending" : "ascending";
    const sign = order === "ascending" ? 1 : -1;
    const column = heading.cellIndex;
    const rows = [...table.tBodies[0].rows].map((row) => ({ row, value: key(row, column) }));
    rows.sort((a, b) => {
      if (a.value === "" || b.value === "") return (a.value === "") - (b.value === "");
      if (!numeric) return sign * language.compare(a.value, b.value);
      const left = Number(a.value), right = Number(b.value);
      return Number.isNaN(left) || Number.isNaN(right) ? sign * language.compare(a.value, b.value) : sign * (left - right);
    });
    for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", order);
    table.tBodies[0].append(...rows.map((item) => item.row));
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    for (const heading of table.tHead.rows[0].cells) {
      const button = make("button");
      button.type = "button";
      button.append(...heading.childNodes);
      button.addEventListener("click", () => sort(table, heading));
      heading.append(button);
    }
  }

  // The filter: a row must contain every word.
  const filter = document.getElementById("filter");
  const rows = [...body.rows];
  const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  filter.addEventListener("input", () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      row.hidden = !words.every((word) => texts.get(row).includes(word));
      shown += !row.hidden;
    }
    document.getElementById("filter-count").textContent = words.length ? `${shown} of ${rows.length} results` : "";
  });

  // One of the other results at a time.
  const chosen = document.getElementById("chosen");
  const panels = [...document.querySelectorAll(".panel")];
  const choose = () => {
    for (const panel of panels) panel.hidden = panel.id !== chosen.value;
  };
  if (chosen) {
    chosen.addEventListener("change", choose);
    choose();
  }

  // The clips of a cell.
  const picture = (row) => {
    const uri = data.thumbnails[row];
    if (uri) {
      const image = make("img");
      image.src = uri;
      image.alt = "";
      return image;
    }
    const shown = document.querySelector(`#mistakes [data-clip="${row}"]`);
    if (shown) {
      const copy = shown.cloneNode(true);
      copy.removeAttribute("data-clip");
      return copy;
    }
    return data.pictures ? make("span", "no thumbnail", "placeholder") : "";
  };
  const list = (table, cell, button) => {
    const panel = table.dataset.panel;
    const [actual, predicted] = [Number(cell.dataset.true), Number(cell.dataset.predicted)];
    const place = table.closest("section").querySelector(".cell-clips");
    for (const other of table.querySelectorAll("button")) other.setAttribute("aria-pressed", String(other === button));
    const items = make("ul", undefined, "clips");
    data.clips.forEach((name, row) => {
      if (data.true[row] !== actual || data.predicted[panel][row] !== predicted) return;
      const item = make("li");
      item.append(picture(row), make("span", name, "name"), make("span", `confidence ${Math.round(100 * data.confidence[panel][row])} %`));
      items.append(item);
    });
    const title = `${data.classes[actual]}, predicted ${data.classes[predicted]}: ${items.children.length} clip${items.children.length === 1 ? "" : "s"}`;
    place.replaceChildren(make("h5", title), items);
  };
  for (const table of document.querySelectorAll("table.confusion[data-panel]")) {
    for (const cell of table.querySelectorAll("td")) {
      if (cell.dataset.clips === "0") continue;
      const button = make("button");
      button.type = "button";
      button.setAttribute("aria-pressed", "false");
      button.setAttribute("aria-label", `${cell.title}; show them`);
      button.append(...cell.childNodes);
      button.addEventListener("click", () => list(table, cell, button));
      cell.append(button);
    }
  }
})();
