// Numbers and times as text. A value that is absent is blank.

const PREFIXES = ["", "k", "M", "G", "T", "P"];

/** Returns e.g. "74.7 kB": three digits, in powers of 1000. */
export function formatAmount(value, unit) {
  if (value === null || value === undefined || Number.isNaN(value)) return "";
  let step = 0;
  let rest = Math.abs(value);
  while (rest >= 999.5 && step < PREFIXES.length - 1) {
    rest /= 1000;
    step += 1;
  }
  const digits = step === 0 || rest >= 99.95 ? 0 : rest >= 9.995 ? 1 : 2;
  return `${rest.toFixed(digits)} ${PREFIXES[step]}${unit}`;
}

export const formatBytes = (bytes) => formatAmount(bytes, "B");

/** Returns a rate of bytes per second in the unit that is chosen. */
export function formatRate(bytesPerSecond, unit) {
  if (bytesPerSecond === null || bytesPerSecond === undefined) return "";
  return unit === "bits"
    ? formatAmount(bytesPerSecond * 8, "bit/s")
    : formatAmount(bytesPerSecond, "B/s");
}

/** The same for the axis of a chart, where values are round. */
export const formatTickRate = (value, unit) => (value ? formatRate(value, unit).replace(/\.?0+ /, (zeros) => (zeros.startsWith(".") ? " " : zeros)) : "0");

/** Returns a share; what is there is never shown as 0 %, and what is missing never hidden by 100 %. */
export function formatShare(part, whole) {
  if (!whole) return "";
  const share = (100 * part) / whole;
  if (part > 0 && share < 0.1) return "<0.1 %";
  if (part < whole && share > 99.9) return ">99.9 %";
  return `${share >= 10 && share < 99.5 ? share.toFixed(0) : share.toFixed(share % 1 ? 1 : 0)} %`;
}

export const formatCount = (count) => count.toLocaleString("en-US");

const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const minutes = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const days = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });

/** Returns a moment, in seconds since the epoch, as precisely as the distance of ticks needs. */
export function formatTick(time, distance) {
  const moment = new Date(time * 1000);
  if (distance < 60) return clock.format(moment);
  if (moment.getHours() === 0 && moment.getMinutes() === 0) return days.format(moment);
  return distance >= 86400 ? days.format(moment) : minutes.format(moment);
}

export function formatMoment(time, withDay) {
  const moment = new Date(time * 1000);
  return withDay ? `${days.format(moment)} ${clock.format(moment)}` : clock.format(moment);
}

export function formatDuration(seconds) {
  if (seconds >= 86400 * 2) return `${Math.round(seconds / 86400)} days`;
  if (seconds >= 3600 * 2) return `${Math.round(seconds / 3600)} h`;
  if (seconds >= 120) return `${Math.round(seconds / 60)} min`;
  return `${Math.round(seconds)} s`;
}
