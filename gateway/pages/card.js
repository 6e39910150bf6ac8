// Card: one job on the page. All that it shows comes from the newest event; nothing of it is ever parsed as HTML.

const STATES = {
  queued: ["queued", "Queued"],
  started: ["running", "Running"],
  progress: ["running", "Running"],
  retrying: ["retrying", "Retrying"],
  completed: ["done", "Done"],
  failed: ["failed", "Failed"],
};
const TITLES = {
  transcode: "Transcode a video",
  payment: "Take a payment",
  mailing: "Send a mailing",
  report: "Build a report",
  import: "Import a file",
  hello: "From your terminal",
};

/** The kind of job that a channel's name tells: `jobs:report-1a2b3c` is a report. */
const kindOf = (channel) => channel.replace(/^jobs:/, "").replace(/-[0-9a-f]+$/, "");

const asText = (value) => (value === null || value === undefined ? "" : typeof value === "string" ? value : JSON.stringify(value));

/** A time of day as on a clock with 24 hours. @param {Date} date */
export const asTime = (date) => date.toLocaleTimeString([], { hourCycle: "h23" });

function asDuration(seconds) {
  if (seconds < 60) return `${Math.max(0, seconds).toFixed(1)} s`;
  const minutes = Math.floor(seconds / 60);
  return minutes < 60 ? `${minutes} min ${Math.floor(seconds % 60)} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** What a card shows of an event; also of one whose data is nothing that we know. */
function view(event) {
  const data = event.data !== null && typeof event.data === "object" ? event.data : { text: event.data };
  const [state, label] = STATES[event.type] ?? [event.final ? "done" : "other", event.type];
  const percent = typeof data.percent === "number" ? Math.min(100, Math.max(0, data.percent)) : state === "done" ? 100 : null;
  return {
    state: event.final && state !== "failed" ? "done" : state,
    label: event.final && !(event.type in STATES) ? `${event.type}, done` : label,
    title: typeof data.title === "string" ? data.title : null,
    text: asText(data.text ?? event.data),
    percent,
    started: typeof data.started === "number" ? data.started : null,
    at: event.id === undefined ? Date.now() / 1000 : Number(event.id) / 1e6,
    over: event.final === true,
  };
}

export class Card {
  /** The newest event's view; `null` before the first. */
  view = null;
  #cut = false; // a gap came, and nothing after it

  /**
   * @param {string} channel
   * @param {() => void} remove called when the reader takes the card off the page
   */
  constructor(channel, remove) {
    this.channel = channel;
    const root = document.getElementById("card").content.firstElementChild.cloneNode(true);
    const part = (name) => root.querySelector(name);
    this.element = root;
    this.parts = {
      title: part(".title"), label: part(".label"), bar: part("job-progress"), text: part(".text"), gap: part(".gap"), elapsed: part(".elapsed"),
    };
    const kind = kindOf(channel);
    const icon = document.getElementById(`icon-${kind}`) ? kind : "hello";
    part("use").setAttribute("href", `#icon-${icon}`);
    part("job-progress").setAttribute("channel", channel);
    part(".channel").textContent = channel;
    part(".tab").href = `/#${channel}`;
    part(".remove").addEventListener("click", remove);
    root.dataset.channel = channel;
    this.#render({ state: "waiting", label: "…", title: null, text: "Asking the gateway", percent: null });
  }

  get name() {
    return this.view?.title ?? TITLES[kindOf(this.channel)] ?? this.channel;
  }

  /** What it shows, for those who cannot see it. */
  get words() {
    return `${this.name}: ${this.parts.label.textContent}. ${this.parts.text.textContent}`;
  }

  get over() {
    return this.view?.over === true;
  }

  /** Show an event; returns whether the state is another one than before. */
  show(event) {
    const before = this.view?.state;
    this.#cut = false;
    this.view = view(event);
    this.#render(this.view);
    this.tick();
    return before !== this.view.state;
  }

  /** The gateway has answered, and there was no event. */
  showNothing() {
    this.#render({ state: "waiting", label: "No events", title: null, text: "Nothing has been published on this channel yet.", percent: null });
  }

  showGap() {
    this.parts.gap.hidden = false;
    this.#cut = true;
  }

  /** All that there is has come. If that was only a gap, Redis has lost the log: returns whether it is so, and nobody knows how the job is. */
  settle() {
    if (!this.#cut || this.over || this.view === null) return false;
    this.parts.gap.hidden = true;
    this.view = { ...this.view, state: "other", label: "Unknown", text: "Redis has lost this job's log.", over: true };
    this.#render(this.view);
    return true;
  }

  showProblem(text) {
    this.#render({ state: "failed", label: "Refused", title: null, text, percent: null });
  }

  /** The time goes on. */
  tick() {
    const { view } = this;
    if (view === null) return;
    const end = view.over ? view.at : Date.now() / 1000;
    this.parts.elapsed.textContent =
      view.started === null ? asTime(new Date(view.at * 1000)) : asDuration(end - view.started);
  }

  focus() {
    this.element.querySelector(".tab").focus({ preventScroll: true });
    this.element.scrollIntoView({ block: "center" });
  }

  #render({ state, label, text, percent }) {
    const { parts, element } = this;
    element.dataset.state = state;
    parts.title.textContent = this.name;
    parts.label.textContent = label;
    parts.text.textContent = text;
    parts.bar.hidden = percent === null && state !== "running";
    parts.bar.textContent = `Progress of ${this.name}`; // its label
    element.querySelector(".remove .unseen").textContent = `Remove ${this.name}`;
    element.querySelector(".tab .unseen").textContent = ` for ${this.name} (opens in a new tab)`;
  }
}
