// The picture of a span: groups, rows, windows. Filled by a snapshot, changed by windows.
// No document here: the server's messages.py describes what comes in.

export const REST = 0;
const COLORS = 8;

export class Model {
  constructor() {
    this.clear();
  }

  clear() {
    this.groups = new Map([[REST, { id: REST, label: "others", detail: "", values: null }]]);
    this.rows = new Map();
    this.windows = [];
    this.sums = [0, 0, 0, 0, 0];
    this.losses = null;
    this.present = [];
    this.live = true;
    this.empty = true;
    this.colors = new Map(); // id -> 0 … COLORS - 1
  }

  takeSnapshot(snapshot, live) {
    const colors = new Map([...this.colors].map(([id, color]) => [this.key(id), color]));
    this.clear();
    this.live = live;
    this.empty = false;
    this.addGroups(snapshot.groups);
    for (const [id, color] of this.groups.size ? [...this.groups.keys()].map((id) => [id, colors.get(this.key(id))]) : []) {
      if (color !== undefined) this.colors.set(id, color);
    }
    this.addRows(snapshot.rows);
    const top = [...snapshot.top].sort((a, b) => a[0] - b[0]);
    const ids = Int32Array.from(top, (one) => one[0]);
    this.windows = snapshot.windows.map(([start, end], index) => ({
      start,
      end,
      transmit: snapshot.totals[0][index],
      receive: snapshot.totals[1][index],
      ids,
      sent: Float64Array.from(top, (one) => one[1][index]),
      got: Float64Array.from(top, (one) => one[2][index]),
    }));
    this.takeState(snapshot);
  }

  takeChange(change) {
    for (const id of change.removed) {
      this.rows.delete(id);
      this.groups.delete(id);
      this.colors.delete(id);
    }
    this.addGroups(change.groups);
    for (const row of this.rows.values()) row.transmit = row.receive = 0;
    this.addRows(change.rows);
    const active = change.rows.filter((row) => row[1] || row[2]).sort((a, b) => a[0] - b[0]);
    this.windows.push({
      start: change.window[0],
      end: change.window[1],
      transmit: change.total[0],
      receive: change.total[1],
      ids: Int32Array.from(active, (row) => row[0]),
      sent: Float64Array.from(active, (row) => row[1]),
      got: Float64Array.from(active, (row) => row[2]),
    });
    this.windows.splice(0, change.expired);
    this.takeState(change);
  }

  takeState({ sums, losses, present }) {
    this.sums = sums;
    this.losses = losses;
    this.present = present;
    this.chooseColors();
  }

  key(id) {
    const group = this.groups.get(id);
    return group ? JSON.stringify(group.values) : "";
  }

  addGroups(groups) {
    for (const [id, label, detail, values] of groups) this.groups.set(id, { id, label, detail, values });
  }

  addRows(rows) {
    for (const [id, transmit, receive, sent, got, listener, inferred, none] of rows) {
      if (id === REST && !sent && !got) this.rows.delete(id);
      else this.rows.set(id, { id, transmit, receive, sent, got, listener, inferred, none });
    }
  }

  /** The largest groups keep their colors while they are among the largest. */
  chooseColors() {
    const top = this.top(COLORS);
    const keep = new Set(top);
    for (const id of this.colors.keys()) if (!keep.has(id)) this.colors.delete(id);
    const used = new Set(this.colors.values());
    for (const id of top) {
      if (this.colors.has(id)) continue;
      for (let color = 0; color < COLORS; color += 1) {
        if (used.has(color)) continue;
        this.colors.set(id, color);
        used.add(color);
        break;
      }
    }
  }

  /** The ids of the largest groups of the span, the largest first. */
  top(most) {
    const found = [];
    for (const row of this.rows.values()) {
      if (row.id === REST) continue;
      const size = row.sent + row.got;
      if (found.length === most && size <= found[most - 1].size) continue;
      found.push({ id: row.id, size });
      found.sort((a, b) => b.size - a.size || a.id - b.id);
      if (found.length > most) found.pop();
    }
    return found.map((one) => one.id);
  }

  get span() {
    return this.windows.length ? this.windows.at(-1).end - this.windows[0].start : 0;
  }

  get measured() {
    return this.windows.reduce((sum, one) => sum + one.end - one.start, 0);
  }

  get newest() {
    return this.windows.at(-1);
  }

  /** Rates of the newest window; of a history those of its whole span. */
  rates(row) {
    const seconds = this.live ? this.newest.end - this.newest.start : this.measured;
    if (!seconds) return [null, null];
    return this.live ? [row.transmit / seconds, row.receive / seconds] : [row.sent / seconds, row.got / seconds];
  }

  /** Returns [transmit, receive] of a group in a window. */
  moved(window, id) {
    let low = 0;
    let high = window.ids.length - 1;
    while (low <= high) {
      const middle = (low + high) >> 1;
      if (window.ids[middle] === id) return [window.sent[middle], window.got[middle]];
      if (window.ids[middle] < id) low = middle + 1;
      else high = middle - 1;
    }
    return [0, 0];
  }

  /**
   * Columns for the chart: times, then for each of `ids` and for the rest the rates received and
   * transmitted. A pause between windows is a gap (null).
   */
  columns(ids) {
    const times = [];
    const got = ids.map(() => []).concat([[]]);
    const sent = ids.map(() => []).concat([[]]);
    const add = (time, received, transmitted) => {
      times.push(time);
      received.forEach((value, index) => got[index].push(value));
      transmitted.forEach((value, index) => sent[index].push(value));
    };
    const gap = got.map(() => null);
    let previous = null;
    for (const window of this.windows) {
      const seconds = window.end - window.start;
      if (seconds <= 0) continue;
      if (previous && window.start - previous.end > Math.max(0.5, 0.5 * seconds)) {
        add(previous.end + 0.001, gap, gap);
      }
      let restGot = window.receive;
      let restSent = window.transmit;
      const received = [];
      const transmitted = [];
      for (const id of ids) {
        const [out, into] = this.moved(window, id);
        restGot -= into;
        restSent -= out;
        received.push(into / seconds);
        transmitted.push(out / seconds);
      }
      received.push(Math.max(restGot, 0) / seconds);
      transmitted.push(Math.max(restSent, 0) / seconds);
      // A window that stands alone still has a width.
      if (!previous || window.start - previous.end > Math.max(0.5, 0.5 * seconds)) add(window.start + 0.002, received, transmitted);
      add(window.end, received, transmitted);
      previous = window;
    }
    return { times, got, sent };
  }
}
