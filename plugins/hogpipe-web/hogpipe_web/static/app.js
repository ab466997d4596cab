// The page: what is chosen, where its data comes from, and what is drawn when.

import { Chart, swatch } from "/assets/chart.js";
import { Feed } from "/assets/feed.js";
import { formatAmount, formatBytes, formatCount, formatDuration, formatRate, formatShare } from "/assets/format.js";
import { Model } from "/assets/model.js";
import { showQuality, Table } from "/assets/table.js";

const $ = (id) => document.getElementById(id);
const RANGES = [["1h", "1 h", 3600], ["6h", "6 h", 21600], ["24h", "24 h", 86400], ["7d", "7 d", 604800]];
const THEMES = { auto: "as the system", light: "light", dark: "dark" };
const ICONS = {
  auto: "M10 3a7 7 0 1 0 .01 0M10 3v14M10 4.5a5.5 5.5 0 0 1 0 11z",
  light: "M10 6.5a3.5 3.5 0 1 0 .01 0M10 1.5v2M10 16.5v2M1.5 10h2M16.5 10h2M4 4l1.4 1.4M14.6 14.6 16 16M16 4l-1.4 1.4M5.4 14.6 4 16",
  dark: "M16.5 11.7A7 7 0 1 1 8.3 3.5a5.6 5.6 0 0 0 8.2 8.2z",
};

const settings = { unit: recall("unit") === "bytes" ? "bytes" : "bits" };
const model = new Model();
const chart = new Chart($("plot"), $("tip"), settings);
const table = new Table(settings, openGroup);
let status = null;
let view = null; // { by, where: [[dimension, values, label]…], range }
let lost = 0;
let request = null; // of a history
let refresh = 0;
let drawn = false;

const feed = new Feed({
  snapshot: (snapshot) => {
    model.takeSnapshot(snapshot, true);
    draw();
  },
  window: (change) => {
    model.takeChange(change);
    draw();
  },
  gap: ({ lost: count }) => {
    lost += count;
    showState("live");
  },
  live: () => {
    notice("");
    showState("live");
    if (!status?.host) readStatus();
  },
  lost: () => showState("away"),
  unauthorized: logIn,
  refused: (text) => {
    showState("refused");
    notice(text);
  },
});

// What is chosen, in the address, so that it can be shared and the browser's buttons work.

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  let where = [];
  try {
    where = JSON.parse(given.get("where") || "[]");
    if (!Array.isArray(where) || !where.every((one) => Array.isArray(one) && one.length === 3)) where = [];
  } catch {
    // not an address of this page
  }
  const known = status.dimensions.some((one) => one.name === given.get("by"));
  return { by: known ? given.get("by") : "program", where, range: readRange(given.get("range")) };
}

function readRange(text) {
  if (!status.history || !text) return "live";
  const isRange = RANGES.some(([name]) => name === text) || /^\d+-\d+$/.test(text);
  return isRange ? text : "live";
}

function go(change) {
  const next = { ...view, ...change };
  const parts = new URLSearchParams();
  if (next.by !== "program") parts.set("by", next.by);
  if (next.where.length) parts.set("where", JSON.stringify(next.where));
  if (next.range !== "live") parts.set("range", next.range);
  const hash = parts.size ? `#${parts}` : " ";
  history.pushState(null, "", parts.size ? hash : location.pathname);
  follow();
}

/** Shows what the address says. */
function follow() {
  view = readAddress();
  model.clear();
  table.reset();
  drawn = false;
  table.setTitle(titleOf(view.by));
  $("search").value = "";
  table.search("");
  showControls();
  request?.abort();
  clearTimeout(refresh);
  const where = Object.fromEntries(view.where.map(([name, values]) => [name, values]));
  if (view.range === "live") {
    showState("connecting");
    feed.start(view.by, where);
  } else {
    feed.stop();
    readHistory(where);
  }
}

async function readHistory(where) {
  const [since, until] = spanOf(view.range);
  showState("reading");
  request = new AbortController();
  const own = request;
  const question = new URLSearchParams({ by: view.by, where: JSON.stringify(where), since, until });
  try {
    const answer = await fetch(`/api/history?${question}`, { signal: own.signal });
    if (answer.status === 401) return logIn();
    const content = await answer.json();
    if (own !== request || own.signal.aborted) return;
    if (!answer.ok) {
      showState("failed");
      notice(content.error, () => follow());
      return;
    }
    notice("");
    model.takeSnapshot(content.picture, false);
    showState("past", content);
    draw();
    if (view.range.includes("-")) return;
    refresh = setTimeout(() => readHistory(where), Math.max(content.step * 1000, 15_000));
  } catch (error) {
    if (error.name === "AbortError") return;
    showState("away");
    refresh = setTimeout(() => readHistory(where), 3000);
  }
}

function spanOf(range) {
  if (range.includes("-")) return range.split("-").map(Number);
  const now = Date.now() / 1000;
  return [now - RANGES.find(([name]) => name === range)[2], now];
}

function openGroup(group) {
  const where = view.where.filter(([name]) => name !== view.by);
  where.push([view.by, group.values, group.detail ? `${group.label} ${group.detail}` : group.label]);
  const asked = new Set(where.map(([name]) => name));
  const order = ["remote", "domain", "network", "port", "process", "unit", "program", "user", "transport", "interface"];
  const by = order.find((name) => !asked.has(name) && isPresent(name)) ?? view.by;
  go({ where, by });
}

const present = new Set();
const isPresent = (name) => present.has(name);
const titleOf = (name) => status.dimensions.find((one) => one.name === name)?.title ?? name;

// Drawing, at most once a frame.

function draw(force = false) {
  if (!view) return;
  if (draw.pending) {
    draw.force ||= force;
    return;
  }
  draw.pending = true;
  draw.force = force;
  requestAnimationFrame(() => {
    draw.pending = false;
    const forced = draw.force;
    draw.force = false;
    for (const name of model.present) {
      if (!present.has(name)) {
        present.add(name);
        showChoices();
      }
    }
    chart.draw(model, forced);
    table.draw(model);
    showSigns();
    showLegend();
    showGrouping();
    if (!drawn && model.windows.length) {
      drawn = true;
      performance.mark("hogpipe-drawn");
    }
  });
}

function showSigns() {
  const newest = model.newest;
  const seconds = !newest ? 0 : model.live ? newest.end - newest.start : model.measured;
  const [sent, got] = !newest ? [null, null] : model.live ? [newest.transmit, newest.receive] : model.sums;
  $("receive").textContent = seconds ? formatRate(got / seconds, settings.unit) : "";
  $("transmit").textContent = seconds ? formatRate(sent / seconds, settings.unit) : "";
  const [transmit, receive, listener, inferred, none] = model.sums;
  const whole = transmit + receive;
  const bytes = { exact: whole - listener - inferred - none, listener, inferred, none };
  showQuality($("quality"), Object.values(bytes));
  $("qualities").replaceChildren(
    ...Object.entries(bytes).map(([name, part]) => {
      const item = document.createElement("li");
      item.dataset.quality = name;
      item.append(name, " ", Object.assign(document.createElement("b"), { textContent: whole ? formatShare(part, whole) : "" }));
      return item;
    }),
  );
  showLosses();
  const span = model.windows.length ? formatDuration(model.live ? model.span : model.measured) : "";
  $("plot").setAttribute("aria-label", `Traffic over ${span || "time"}: received above the axis, transmitted below`);
}

function showLosses() {
  const losses = model.losses;
  const box = $("dropped").closest(".sign");
  if (!losses) {
    $("dropped").textContent = "";
    $("dropped-detail").textContent = model.empty ? "" : "not reported";
    box.classList.remove("bad");
    return;
  }
  const bad = losses.dropped + losses.undecoded + losses.events_lost;
  box.classList.toggle("bad", losses.dropped > 0);
  $("dropped").textContent = losses.dropped < 1e5 ? formatCount(losses.dropped) : formatAmount(losses.dropped, "").trim();
  const details = [];
  if (losses.dropped) details.push(`${formatShare(losses.dropped, losses.dropped + losses.packets)} of packets`);
  if (losses.undecoded) details.push(`${formatCount(losses.undecoded)} undecoded`);
  if (losses.events_lost) details.push(`${formatCount(losses.events_lost)} socket events lost`);
  if (losses.sink_dropped) details.push(`${formatCount(losses.sink_dropped)} records, of sinks`);
  if (losses.pending_bytes) details.push(`${formatBytes(losses.pending_bytes)} pending`);
  $("dropped-detail").textContent = details.join(" · ") || (bad ? "" : losses.packets ? `of ${losses.packets < 1e5 ? formatCount(losses.packets) : formatAmount(losses.packets, "").trim()} packets` : "no loss");
  const own = [];
  if (losses.cpu_seconds !== null && model.measured) own.push(`hogpipe uses ${((100 * losses.cpu_seconds) / model.measured).toFixed(1)} % of a core`);
  if (losses.memory_bytes !== null) own.push(`${own.length ? "" : "hogpipe uses "}${formatBytes(losses.memory_bytes)} of memory`);
  $("own").textContent = own.join(" and ");
}

function showLegend() {
  const ids = chart.ids ?? [];
  const shape = JSON.stringify(ids.map((id) => [id, model.groups.get(id)?.label, model.colors.get(id)]));
  if ($("legend").dataset.shape === shape) return;
  const focused = $("legend").contains(document.activeElement) ? document.activeElement.dataset.id : null;
  $("legend").dataset.shape = shape;
  $("legend").replaceChildren(
    ...ids.map((id) => {
      const group = model.groups.get(id);
      const item = document.createElement("li");
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.id = String(id);
      button.append(swatch(model, id), group.label);
      if (group.detail) button.append(Object.assign(document.createElement("span"), { className: "detail", textContent: group.detail }));
      button.title = group.detail ? `${group.label} ${group.detail}` : group.label;
      if (group.values.at(-1) === null) button.addEventListener("click", () => openGroup(group));
      else button.disabled = true;
      item.append(button);
      return item;
    }),
  );
  if (focused !== null) $("legend").querySelector(`[data-id="${focused}"]`)?.focus();
}

/** Says what grouping is missing for what is asked. */
function showGrouping() {
  const dimension = status.dimensions.find((one) => one.name === view.by);
  if (model.empty || !model.live || !model.windows.length || isPresent(view.by)) {
    if ($("notice").dataset.kind === "grouping") notice("");
    return;
  }
  notice(`These records have no ${dimension.title.toLowerCase()}. To see it, add "${dimension.needs}" to group_by in the section [aggregation] of hogpipe's configuration, e.g. group_by = ["process", "${dimension.needs === "process" ? "remote" : dimension.needs}"].`, null, "grouping");
}

// The parts around.

function showControls() {
  showChoices();
  const ranges = [["live", "Live"]];
  if (status.history) ranges.push(...RANGES, ["custom", "…"]);
  const custom = view.range.includes("-");
  $("ranges").hidden = !status.history;
  $("ranges").replaceChildren(
    ...ranges.map(([name, title]) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = title;
      button.dataset.range = name;
      if (name === "custom") button.setAttribute("aria-label", "From and to");
      button.setAttribute("aria-pressed", String(name === view.range || (name === "custom" && custom)));
      button.addEventListener("click", () => (name === "custom" ? chooseBetween() : go({ range: name })));
      return button;
    }),
  );
  $("between").hidden = !custom;
  if (custom) setBetween(spanOf(view.range));
  $("path").hidden = !view.where.length;
  const crumbs = [crumb("All traffic", () => go({ where: [], by: view.where[0][0] }))];
  view.where.forEach(([name, , label], index) => {
    const last = index === view.where.length - 1;
    const text = `${titleOf(name)} `;
    const item = document.createElement("span");
    item.className = "crumb";
    item.append(Object.assign(document.createElement("span"), { className: "sep", textContent: "›" }), text);
    item.append(Object.assign(document.createElement("b"), { textContent: label }));
    const close = crumb("×", () => go({ where: view.where.filter((_one, at) => at !== index), by: last ? name : view.by }));
    close.setAttribute("aria-label", `Remove the filter ${text}${label}`);
    item.append(close);
    crumbs.push(item);
  });
  $("path").replaceChildren(...(view.where.length ? crumbs : []));
}

function crumb(text, act) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = text;
  button.addEventListener("click", act);
  return button;
}

function showChoices() {
  const options = status.dimensions.map(({ name, title }) => {
    const option = new Option(isPresent(name) || name === "program" || !model.live ? title : `${title} (not grouped by)`, name);
    option.selected = name === view.by;
    return option;
  });
  $("by").replaceChildren(...options);
}

function chooseBetween() {
  $("between").hidden = false;
  const span = view.range === "live" ? [Date.now() / 1000 - 3600, Date.now() / 1000] : spanOf(view.range);
  setBetween(span);
  $("since").focus();
}

function setBetween(span) {
  for (const [index, id] of ["since", "until"].entries()) {
    const moment = new Date(span[index] * 1000);
    $(id).value = new Date(moment - moment.getTimezoneOffset() * 60_000).toISOString().slice(0, 19);
  }
}

function showState(state, past = null) {
  const texts = {
    connecting: "connecting",
    live: lost ? `live, ${formatCount(lost)} updates skipped` : "live",
    away: "hogpipe does not answer; trying again",
    reading: "reading the history",
    failed: "the history cannot be read",
    refused: "no live events; trying again",
    past: past ? `history, ${formatDuration(past.covered)} measured` : "history",
  };
  $("state").dataset.state = state;
  if ($("state-text").textContent !== texts[state]) $("state-text").textContent = texts[state];
  document.body.classList.toggle("stale", state === "away");
}

function notice(text, again = null, kind = "") {
  const box = $("notice");
  if (box.dataset.text === text) return;
  box.dataset.text = text;
  box.dataset.kind = kind;
  box.hidden = !text;
  box.replaceChildren(text ?? "");
  if (again) box.append(" ", crumb("Try again", again));
}

function showTheme() {
  const theme = document.documentElement.dataset.theme;
  $("theme").setAttribute("aria-label", `Theme: ${THEMES[theme]}`);
  $("theme").title = `Theme: ${THEMES[theme]}`;
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 20 20");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", ICONS[theme]);
  svg.append(path);
  $("theme").replaceChildren(svg);
}

function nextTheme() {
  const names = Object.keys(THEMES);
  const theme = names[(names.indexOf(document.documentElement.dataset.theme) + 1) % names.length];
  document.documentElement.dataset.theme = theme;
  keep("theme", theme);
  showTheme();
  draw(true);
}

function setUnit(unit) {
  settings.unit = unit;
  keep("unit", unit);
  for (const button of document.querySelectorAll("[data-unit]")) button.setAttribute("aria-pressed", String(button.dataset.unit === unit));
  draw(true);
}

function recall(name) {
  try {
    return localStorage.getItem(`hogpipe-${name}`);
  } catch {
    return null; // storage is blocked
  }
}

function keep(name, value) {
  try {
    localStorage.setItem(`hogpipe-${name}`, value);
  } catch {
    // storage is blocked: the choice ends with the page
  }
}

// Access.

function logIn() {
  feed.stop();
  if (!$("login").open) $("login").showModal();
  $("token").focus();
}

async function sendToken(event) {
  event.preventDefault();
  $("wrong").textContent = "";
  try {
    const answer = await fetch("/login", { method: "POST", body: JSON.stringify({ token: $("token").value }) });
    if (!answer.ok) {
      $("wrong").textContent = (await answer.json()).error;
      $("token").select();
      return;
    }
  } catch {
    $("wrong").textContent = "hogpipe does not answer";
    return;
  }
  $("token").value = "";
  $("login").close();
  start();
}

async function readStatus() {
  const answer = await fetch("/api/status");
  if (answer.status === 401) return false;
  status = await answer.json();
  if (!answer.ok) throw new Error(status.error);
  $("host").textContent = status.host ?? "";
  document.title = status.host ? `${status.host} · hogpipe` : "hogpipe";
  $("logout").hidden = !status.token;
  return true;
}

async function start() {
  try {
    if (!(await readStatus())) return logIn();
  } catch {
    showState("away");
    setTimeout(start, 2000);
    return;
  }
  follow();
}

// What the user does.

$("by").addEventListener("change", () => go({ by: $("by").value }));
$("search").addEventListener("input", () => table.search($("search").value));
$("search").addEventListener("keydown", (event) => {
  if (event.key === "ArrowDown" || event.key === "Enter") {
    event.preventDefault();
    table.focusFirst();
  }
});
$("theme").addEventListener("click", nextTheme);
for (const button of document.querySelectorAll("[data-unit]")) button.addEventListener("click", () => setUnit(button.dataset.unit));
$("logout").addEventListener("click", async () => {
  await fetch("/logout", { method: "POST" });
  model.clear();
  table.reset();
  logIn();
});
$("between").addEventListener("submit", (event) => {
  event.preventDefault();
  const [since, until] = ["since", "until"].map((id) => Math.round(new Date($(id).value).getTime() / 1000));
  if (until > since) go({ range: `${since}-${until}` });
  else notice("The end is before the beginning.");
});
$("login-form").addEventListener("submit", sendToken);
$("login").addEventListener("cancel", (event) => event.preventDefault());
addEventListener("popstate", () => status && follow());
addEventListener("hashchange", () => status && follow());
addEventListener("beforeunload", () => feed.stop());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw(true));
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("login").open) return;
  const typing = event.target.matches("input, select, textarea");
  if (event.key === "Escape") {
    if ($("search").value) {
      $("search").value = "";
      table.search("");
    } else if (typing) event.target.blur();
    else if (view?.where.length) go({ where: view.where.slice(0, -1), by: view.where.at(-1)[0] });
    return;
  }
  if (typing) return;
  const act = { "/": () => $("search").focus(), g: () => $("by").focus(), t: nextTheme, u: () => setUnit(settings.unit === "bits" ? "bytes" : "bits") }[event.key];
  if (act) {
    event.preventDefault();
    act();
  } else if (event.key === "ArrowDown" && document.activeElement === document.body) {
    event.preventDefault();
    table.focusFirst();
  }
});

setUnit(settings.unit);
showTheme();
start();
