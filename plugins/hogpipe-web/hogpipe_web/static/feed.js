// The live events of the server, with reconnection. What comes first after each connection is a
// snapshot, so nothing has to be remembered here.

const FIRST_WAIT = 500;
const LONGEST_WAIT = 10_000;
const SILENCE = 40_000; // the server says something at least each 15 seconds

export class Feed {
  /** `on` has: snapshot, window, gap, connecting, live, lost, unauthorized, refused. */
  constructor(on) {
    this.on = on;
    this.source = null;
    this.timer = 0;
    this.watch = 0;
    this.wait = FIRST_WAIT;
  }

  start(by, where) {
    this.stop();
    this.url = `/api/events?${new URLSearchParams({ by, where: JSON.stringify(where) })}`;
    this.wait = FIRST_WAIT;
    this.connect();
  }

  stop() {
    clearTimeout(this.timer);
    clearTimeout(this.watch);
    this.source?.close();
    this.source = null;
  }

  connect() {
    this.stop();
    const source = new EventSource(this.url);
    this.source = source;
    this.heard();
    for (const name of ["snapshot", "window", "gap", "alive"]) {
      source.addEventListener(name, (event) => {
        if (source !== this.source) return;
        this.heard();
        if (name === "snapshot") {
          this.wait = FIRST_WAIT;
          this.on.live();
        }
        if (name !== "alive") this.on[name](JSON.parse(event.data));
      });
    }
    source.addEventListener("error", () => {
      if (source === this.source) this.retry();
    });
  }

  heard() {
    clearTimeout(this.watch);
    this.watch = setTimeout(() => this.retry(), SILENCE);
  }

  /** Closes the connection, finds out what is wrong, and connects later. */
  async retry() {
    this.stop();
    this.on.lost();
    const wait = this.wait;
    this.wait = Math.min(2 * this.wait, LONGEST_WAIT);
    const timer = setTimeout(() => this.connect(), wait);
    this.timer = timer;
    try {
      const asked = new AbortController();
      const answer = await fetch(this.url, { signal: asked.signal });
      const refusal = answer.ok ? null : (await answer.json()).error;
      asked.abort();
      if (this.timer !== timer) return;
      if (answer.status === 401) {
        this.stop();
        this.on.unauthorized();
      } else if (refusal) {
        this.on.refused(refusal);
      }
    } catch {
      // The server is away; the timer tries again.
    }
  }
}
