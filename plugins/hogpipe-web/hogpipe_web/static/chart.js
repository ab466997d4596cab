// The stacked chart: received above the axis, transmitted below it.

import uPlot from "/assets/uPlot.esm.js";
import { formatMoment, formatRate, formatTick, formatTickRate } from "/assets/format.js";

// The rate of a window holds until its end: nothing between two windows is made up.
const untilThen = uPlot.paths.stepped({ align: -1 });

export class Chart {
  constructor(element, tip, settings) {
    this.element = element;
    this.tip = tip;
    this.settings = settings; // { unit }
    this.plot = null;
    this.shape = "";
    this.model = null;
    new ResizeObserver(() => this.resize()).observe(element);
    this.element.addEventListener("pointerleave", () => (this.tip.hidden = true));
  }

  /** Draws the model again. `force` after a change of theme or unit. */
  draw(model, force = false) {
    this.model = model;
    this.ids = [...model.colors.keys()].sort((a, b) => size(model, b) - size(model, a));
    const { times, got, sent } = model.columns(this.ids);
    this.values = { times, got, sent };
    const data = [times];
    // The whole stack first: smaller sums are painted over larger ones.
    const layers = this.ids.length + 1;
    for (const [side, sign] of [[got, 1], [sent, -1]]) {
      const sums = [];
      for (let layer = 0; layer < layers; layer += 1) {
        const below = sums[layer - 1];
        sums.push(side[layer].map((value, index) => (value === null ? null : sign * value + (below ? below[index] : 0))));
      }
      for (let layer = layers - 1; layer >= 0; layer -= 1) data.push(sums[layer]);
    }
    const shape = JSON.stringify([this.ids.map((id) => model.colors.get(id)), this.settings.unit]);
    if (!this.plot || force || shape !== this.shape) {
      this.shape = shape;
      this.make(data);
    } else {
      this.plot.setData(data);
    }
  }

  make(data) {
    this.plot?.destroy();
    const style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue(name).trim();
    const narrow = this.element.clientWidth < 480;
    const dense = data[0].length > 0.25 * this.element.clientWidth;
    const series = [{}];
    for (let side = 0; side < 2; side += 1) {
      for (let layer = this.ids.length; layer >= 0; layer -= 1) {
        const fill = layer === this.ids.length ? color("--rest") : color(`--series-${this.model.colors.get(this.ids[layer])}`);
        series.push({
          fill, stroke: color("--card"), width: dense ? 0 : 0.75, fillTo: () => 0, paths: untilThen, points: { show: false }, spanGaps: false,
        });
      }
    }
    const axis = { stroke: color("--faint"), font: "12px system-ui, sans-serif", ticks: { show: false } };
    this.plot = new uPlot(
      {
        ...this.measure(),
        padding: [10, 20, 0, 0],
        legend: { show: false },
        cursor: { y: false, points: { show: false }, drag: { x: false, y: false } },
        series,
        scales: { x: { time: true }, y: { range: (_plot, low, high) => [Math.min(low * 1.06, -8), Math.max(high * 1.06, 8)] } },
        axes: [
          {
            ...axis,
            grid: { show: false },
            size: 28,
            space: narrow ? 70 : 90,
            values: (_plot, splits, _axis, _space, distance) => splits.map((time) => formatTick(time, distance)),
          },
          {
            ...axis,
            size: narrow ? 66 : 78,
            space: 34,
            splits: (_plot, _axis, low, high) => splitRates(low, high, this.settings.unit === "bits" ? 8 : 1),
            grid: { stroke: color("--line"), width: 1 },
            values: (_plot, splits) => splits.map((value) => formatTickRate(Math.abs(value), this.settings.unit)),
          },
        ],
        hooks: {
          setCursor: [(plot) => this.point(plot)],
          drawAxes: [(plot) => drawZero(plot, color("--faint"))],
        },
      },
      data,
      this.element,
    );
  }

  measure() {
    const width = Math.max(this.element.clientWidth, 200);
    return { width, height: width < 480 ? 200 : 260 };
  }

  resize() {
    this.plot?.setSize(this.measure());
  }

  /** Shows the values under the pointer. */
  point(plot) {
    const index = plot.cursor.idx;
    const { times, got, sent } = this.values;
    if (index === null || index === undefined || plot.cursor.left < 0 || got[0]?.[index] === null || !times.length) {
      this.tip.hidden = true;
      return;
    }
    const lines = [];
    const title = document.createElement("h3");
    title.textContent = formatMoment(times[index], this.model.span > 86400);
    lines.push(title);
    const list = document.createElement("table");
    this.ids.concat([-1]).forEach((id, layer) => {
      const received = got[layer][index];
      const transmitted = sent[layer][index];
      if (!received && !transmitted) return;
      const row = list.insertRow();
      const name = row.insertCell();
      name.append(swatch(this.model, id), id < 0 ? "others" : this.model.groups.get(id)?.label ?? "");
      row.insertCell().textContent = received ? `↓ ${formatRate(received, this.settings.unit)}` : "";
      row.insertCell().textContent = transmitted ? `↑ ${formatRate(transmitted, this.settings.unit)}` : "";
    });
    lines.push(list);
    this.tip.replaceChildren(...lines);
    this.tip.hidden = false;
    const left = plot.over.offsetLeft + plot.cursor.left;
    const room = this.element.clientWidth - this.tip.offsetWidth - 8;
    this.tip.style.left = `${Math.max(4, Math.min(left + 16, left > room ? left - this.tip.offsetWidth - 16 : room))}px`;
  }
}

export function swatch(model, id) {
  const mark = document.createElement("span");
  mark.className = "swatch";
  const color = model.colors.get(id);
  mark.dataset.color = color === undefined ? "rest" : String(color);
  mark.setAttribute("aria-hidden", "true");
  return mark;
}

function size(model, id) {
  const row = model.rows.get(id);
  return row ? row.sent + row.got : 0;
}

function splitRates(low, high, factor) {
  const step = niceStep(((high - low) * factor) / 6) / factor;
  const splits = [];
  for (let at = Math.ceil(low / step); at * step <= high; at += 1) splits.push(at * step);
  return splits;
}

function niceStep(rough) {
  const power = 10 ** Math.floor(Math.log10(Math.max(rough, 1)));
  return [1, 2, 2.5, 5, 10].map((one) => one * power).find((one) => one >= rough);
}

function drawZero(plot, color) {
  const y = Math.round(plot.valToPos(0, "y", true));
  plot.ctx.save();
  plot.ctx.strokeStyle = color;
  plot.ctx.lineWidth = 1;
  plot.ctx.beginPath();
  plot.ctx.moveTo(plot.bbox.left, y);
  plot.ctx.lineTo(plot.bbox.left + plot.bbox.width, y);
  plot.ctx.stroke();
  plot.ctx.restore();
}
