// The table of groups: search, sort, keyboard. Rows beyond a page are made when they are asked for.

import { swatch } from "/assets/chart.js";
import { formatBytes, formatCount, formatRate, formatShare } from "/assets/format.js";
import { REST } from "/assets/model.js";

const PAGE = 100;
const COLUMNS = [
  { key: "name", title: "", className: "name", descending: false },
  { key: "receive", title: "↓ Receive", spoken: "Receive", className: "number", descending: true },
  { key: "transmit", title: "↑ Transmit", spoken: "Transmit", className: "number", descending: true },
  { key: "total", title: "Total", className: "number", descending: true },
  { key: "share", title: "Share", className: "number share", descending: true },
  { key: "quality", title: "Attribution", className: "quality-cell", descending: false },
];

export class Table {
  constructor(settings, open) {
    this.settings = settings;
    this.open = open; // called with a group
    this.body = document.getElementById("rows");
    this.count = document.getElementById("count");
    this.more = document.getElementById("more");
    this.sort = { key: "total", descending: true };
    this.text = "";
    this.limit = PAGE;
    this.elements = new Map();
    this.model = null;
    this.title = "";
    this.makeHead();
    this.more.addEventListener("click", () => {
      this.limit += 5 * PAGE;
      this.draw();
    });
    this.body.addEventListener("click", (event) => {
      const row = event.target.closest("tr");
      if (row && !getSelection().toString()) this.choose(row);
    });
    this.body.addEventListener("keydown", (event) => this.press(event));
  }

  makeHead() {
    const head = document.getElementById("head");
    this.heads = COLUMNS.map((column) => {
      const cell = document.createElement("th");
      cell.scope = "col";
      cell.className = column.className;
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = column.title;
      if (column.spoken) button.setAttribute("aria-label", column.spoken);
      button.addEventListener("click", () => this.sortBy(column));
      cell.append(button);
      head.append(cell);
      return { column, cell, button };
    });
    this.showSort();
  }

  sortBy(column) {
    const again = this.sort.key === column.key;
    this.sort = { key: column.key, descending: again ? !this.sort.descending : column.descending };
    this.showSort();
    this.draw();
  }

  showSort() {
    for (const { column, cell } of this.heads) {
      if (column.key === this.sort.key) cell.setAttribute("aria-sort", this.sort.descending ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    }
  }

  setTitle(title) {
    this.heads[0].button.textContent = title;
  }

  search(text) {
    this.text = text.trim().toLowerCase();
    this.limit = PAGE;
    this.draw();
  }

  reset() {
    this.limit = PAGE;
    this.elements.clear();
    this.body.replaceChildren();
  }

  draw(model = this.model) {
    if (!model) return;
    this.model = model;
    const entries = [];
    for (const row of model.rows.values()) {
      const group = model.groups.get(row.id);
      if (!group) continue;
      if (this.text && !`${group.label} ${group.detail}`.toLowerCase().includes(this.text)) continue;
      const [transmit, receive] = model.rates(row);
      const size = row.sent + row.got;
      entries.push({ row, group, transmit, receive, total: size, share: size, quality: (size - row.none - row.inferred) / (size || 1), name: group.label });
    }
    entries.sort(this.compare());
    const whole = model.sums[0] + model.sums[1];
    const wanted = entries.slice(0, this.limit).map((entry) => this.show(entry, whole));
    this.place(wanted);
    this.more.hidden = entries.length <= this.limit;
    const shown = Math.min(entries.length, this.limit);
    const all = formatCount(entries.length);
    this.count.textContent = model.empty ? "" : entries.length === 0
      ? this.text ? "Nothing has this in its name." : "No traffic in this time."
      : shown < entries.length ? `${formatCount(shown)} of ${all} groups` : `${all} ${entries.length === 1 ? "group" : "groups"}`;
  }

  compare() {
    const { key, descending } = this.sort;
    const sign = descending ? -1 : 1;
    return (a, b) => {
      if ((a.row.id === REST) !== (b.row.id === REST)) return a.row.id === REST ? 1 : -1;
      const order = key === "name" ? a.name.localeCompare(b.name) : a[key] - b[key];
      return sign * order || b.total - a.total || a.row.id - b.row.id;
    };
  }

  /** Puts the rows in order, with as few moves as possible, so that focus and selection stay. */
  place(wanted) {
    const keep = new Set(wanted);
    for (const element of [...this.body.children]) {
      if (!keep.has(element)) {
        element.remove();
        this.elements.delete(Number(element.dataset.id));
      }
    }
    wanted.forEach((element, index) => {
      const there = this.body.children[index];
      if (there === element) return;
      const focused = element === document.activeElement;
      this.body.insertBefore(element, there ?? null);
      if (focused) element.focus({ preventScroll: true });
    });
    if (!this.body.querySelector("tr[tabindex='0']") && wanted.length) wanted[0].tabIndex = 0;
  }

  show({ row, group, transmit, receive, total }, whole) {
    let element = this.elements.get(row.id);
    if (!element) {
      element = this.make(row.id);
      this.elements.set(row.id, element);
    }
    const [name, received, transmitted, sum, share, quality] = element.children;
    const mark = swatch(this.model, row.id);
    const label = document.createElement("span");
    label.className = group.values?.slice(0, -1).every((value) => value === null) || row.id === REST ? "label absent" : "label";
    label.textContent = group.label;
    const detail = document.createElement("span");
    detail.className = "detail";
    detail.textContent = group.detail;
    if (element.dataset.shown !== `${group.label}\n${group.detail}\n${mark.dataset.color}`) {
      element.dataset.shown = `${group.label}\n${group.detail}\n${mark.dataset.color}`;
      name.replaceChildren(mark, label, detail);
      name.title = group.detail ? `${group.label} ${group.detail}` : group.label;
    }
    setText(received, receive ? formatRate(receive, this.settings.unit) : "");
    setText(transmitted, transmit ? formatRate(transmit, this.settings.unit) : "");
    setText(sum, formatBytes(total));
    setText(share, formatShare(total, whole));
    showQuality(quality.firstChild, [total - row.listener - row.inferred - row.none, row.listener, row.inferred, row.none]);
    return element;
  }

  make(id) {
    const element = document.createElement("tr");
    element.dataset.id = String(id);
    element.tabIndex = -1;
    for (const column of COLUMNS) {
      const cell = element.insertCell();
      cell.className = column.className;
      if (column.key === "name") cell.setAttribute("role", "rowheader");
    }
    const bar = document.createElement("div");
    bar.className = "quality";
    bar.setAttribute("role", "img");
    element.lastChild.append(bar);
    return element;
  }

  choose(element) {
    const group = this.model.groups.get(Number(element.dataset.id));
    if (group?.values && group.values.at(-1) === null) this.open(group);
  }

  focusFirst() {
    this.body.firstElementChild?.focus();
  }

  press(event) {
    const row = event.target.closest("tr");
    if (!row || event.ctrlKey || event.metaKey || event.altKey) return;
    const next = {
      ArrowDown: row.nextElementSibling,
      ArrowUp: row.previousElementSibling,
      Home: this.body.firstElementChild,
      End: this.body.lastElementChild,
    }[event.key];
    if (event.key === "Enter") {
      event.preventDefault();
      this.choose(row);
    } else if (next) {
      event.preventDefault();
      row.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    }
  }
}

const QUALITIES = ["exact", "listener", "inferred", "none"];

/** Shows bytes by quality as a bar, with a text for those who do not see it. */
export function showQuality(bar, bytes) {
  const whole = bytes.reduce((sum, one) => sum + one, 0);
  const parts = bytes.map((part, index) => (part > 0 ? `${QUALITIES[index]} ${formatShare(part, whole)}` : "")).filter(Boolean);
  const text = parts.join(", ");
  if (bar.getAttribute("aria-label") === text) return;
  bar.setAttribute("aria-label", text || "No traffic");
  bar.title = text;
  while (bar.children.length < QUALITIES.length) {
    const part = document.createElement("span");
    part.dataset.quality = QUALITIES[bar.children.length];
    bar.append(part);
  }
  bytes.forEach((part, index) => {
    bar.children[index].style.flexGrow = String(whole ? part / whole : 0);
    bar.children[index].classList.toggle("there", part > 0);
  });
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
