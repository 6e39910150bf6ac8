// <job-progress channel="jobs:42">: shows how far a job is, and tells screen readers at each quarter of the way.
//
//   <script type="module" src="job-progress.js"></script>
//   <job-progress channel="jobs:42">Converting holiday.mp4</job-progress>
//
// All elements of a page share one feed. With a token: set JobProgress.feed = connect("/", { token }) before the first one is shown.

import { connect } from "./client.js";

/** @typedef {import("./client.js").Feed} Feed @typedef {import("./client.js").GatewayEvent} GatewayEvent */

/** The states that events of these types stand for; other types are progress. @type {Record<string, string>} */
const STATES = { queued: "queued", retrying: "retrying", failed: "failed", completed: "done" };

/** @type {WeakMap<Feed, Map<string, number>>} */
const users = new WeakMap();

/**
 * Count the elements that follow a channel, and unfollow it when the last one has gone.
 * @param {Feed} feed @param {string} channel @param {1 | -1} change
 */
function use(feed, channel, change) {
  const counts = users.get(feed) ?? new Map();
  users.set(feed, counts);
  const count = (counts.get(channel) ?? 0) + change;
  if (count) counts.set(channel, count);
  else counts.delete(channel);
  if (change > 0) feed.follow(channel);
  else if (count === 0) feed.unfollow(channel);
}

/** Where there are no elements, on a server that renders pages, the module can be loaded and does nothing. @type {typeof HTMLElement} */
const Base = globalThis.HTMLElement ?? class {};

/** Percent between two announcements to screen readers, so that they are not drowned in them. */
const SAY_EVERY = 25;

const STYLE = `
  :host { display: block; position: relative; font: inherit; }
  :host([hidden]) { display: none; }
  progress {
    display: block; width: 100%; height: .5em; border: 0; border-radius: .25em; overflow: hidden; appearance: none;
    background: var(--track); color: var(--color);
    --color: var(--job-progress-color, #2563eb); --track: var(--job-progress-track, rgb(127 127 127 / 20%));
  }
  :host([state="failed"]) progress { --color: var(--job-progress-failed, #b3261e); }
  progress::-webkit-progress-bar { background: var(--track); }
  progress::-webkit-progress-value { border-radius: .25em; background: var(--color); transition: inline-size .25s linear; }
  progress::-moz-progress-bar { border-radius: .25em; background: var(--color); }
  progress:indeterminate {
    background: linear-gradient(90deg, var(--track) 30%, var(--color) 50%, var(--track) 70%) 0 0 / 200% 100%;
    animation: slide 1.6s linear infinite;
  }
  progress:indeterminate::-webkit-progress-bar { background: transparent; }
  progress:indeterminate::-moz-progress-bar { background: transparent; }
  @keyframes slide { from { background-position: 100% 0; } to { background-position: -100% 0; } }
  @media (prefers-reduced-motion: reduce) {
    progress, progress:indeterminate, progress::-webkit-progress-value { animation: none; transition: none; }
  }
  @media (forced-colors: active) {
    progress { border: 1px solid; forced-color-adjust: none; }
  }
  .row { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 1em; margin-bottom: .25em; }
  .row > * { display: block; min-inline-size: 0; overflow-wrap: anywhere; }
  [part="text"] { unicode-bidi: plaintext; }
  [role="status"] { position: absolute; inline-size: 1px; block-size: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
`;

/**
 * Attributes: `channel`, and `state`, which the element sets to `waiting`, `queued`, `running`, `retrying`, `done`, `failed` or `refused`.
 * Each event of the channel is dispatched as `job-event`, and the final one also as `job-done`; both bubble, with the event as `detail`.
 * Parts for styling: `bar`, `text`, and the `row` above the bar with the element's content and the text. `aria-live="off"` silences it.
 */
export class JobProgress extends Base {
  static observedAttributes = ["channel"];

  /** The feed that the elements of this page share; if none was set, one that connects to the page's origin. @type {Feed | undefined} */
  static feed;

  #bar = document.createElement("progress");
  #text = document.createElement("span");
  #said = document.createElement("span");
  /** @type {(() => void) | undefined} */
  #leave;

  constructor() {
    super();
    const row = document.createElement("div");
    row.className = "row";
    row.part.add("row");
    const content = document.createElement("slot");
    content.addEventListener("slotchange", () => this.#bar.setAttribute("aria-label", this.#name));
    row.append(content, this.#text);
    this.#bar.part.add("bar");
    this.#text.part.add("text");
    this.#said.setAttribute("role", "status");
    this.attachShadow({ mode: "open" }).append(row, this.#bar, this.#said);
    this.adoptedCallback();
  }

  /** Take a style sheet of the document that the element is in now, such as that of a picture-in-picture window. */
  adoptedCallback() {
    const view = this.ownerDocument.defaultView;
    if (!view || !this.shadowRoot) return;
    const style = new view.CSSStyleSheet(); // no inline style: a strict Content-Security-Policy forbids that
    style.replaceSync(STYLE);
    this.shadowRoot.adoptedStyleSheets = [style];
  }

  connectedCallback() {
    if (!this.#leave) this.#follow();
  }

  disconnectedCallback() {
    // An element that is moved is connected again at once: it goes on, and announces nothing twice.
    queueMicrotask(() => this.isConnected || this.#stop());
  }

  /** @param {string} _ @param {string | null} before @param {string | null} now */
  attributeChangedCallback(_, before, now) {
    if (before === now) return;
    this.#stop();
    if (this.isConnected) this.#follow();
  }

  #stop() {
    this.#leave?.();
    this.#leave = undefined;
  }

  #follow() {
    const channel = this.getAttribute("channel");
    this.#show("waiting");
    if (!channel) return;
    const feed = (JobProgress.feed ??= connect("/"));
    use(feed, channel, 1);
    const off = feed.on("*", (event) => event.channel === channel && this.#take(event));
    let left = false;
    feed.done(channel).catch((problem) => left || this.#show("refused", undefined, problem.message));
    this.#leave = () => {
      left = true;
      off();
      use(feed, channel, -1);
    };
    const last = feed.last(channel);
    if (last) this.#take(last);
  }

  /** @param {GatewayEvent} event */
  #take(event) {
    const { percent, text, error } = Object(event.data);
    this.#show(STATES[event.type] ?? (event.final ? "done" : "running"), percent, text ?? error);
    this.dispatchEvent(new CustomEvent("job-event", { detail: event, bubbles: true, composed: true }));
    if (event.final) this.dispatchEvent(new CustomEvent("job-done", { detail: event, bubbles: true, composed: true }));
  }

  /** What screen readers call the job. */
  get #name() {
    return this.textContent?.trim() || this.getAttribute("channel") || "job";
  }

  /** @param {string} state @param {unknown} [percent] @param {unknown} [text] */
  #show(state, percent, text) {
    this.setAttribute("state", state);
    const part = typeof percent === "number" ? Math.min(Math.max(percent, 0), 100) : undefined;
    this.#bar.max = 100;
    if (state === "done") this.#bar.value = 100;
    else if (part !== undefined) this.#bar.value = part;
    else if (state === "waiting" || state === "queued") this.#bar.removeAttribute("value"); // indeterminate: it moves to and fro
    else if (state === "failed" || state === "refused") this.#bar.value += 0; // if it was indeterminate, it stops moving
    const counts = state === "running" && part !== undefined;
    const worded = typeof text === "string";
    const shown = worded ? text : counts ? `${Math.round(part)} %` : state;
    if (this.#text.textContent !== shown) this.#text.textContent = shown;
    // Of a job that counts, only the quarters are announced: its text may change many times a second.
    const news = counts ? `${Math.floor(part / SAY_EVERY) * SAY_EVERY} %` : worded && state !== "running" ? `${state}, ${text}` : shown;
    const said = `${this.#name}: ${news}`;
    this.#said.setAttribute("aria-live", this.getAttribute("aria-live") ?? "polite");
    if (this.#said.textContent !== said) this.#said.textContent = said;
    this.#bar.setAttribute("aria-label", this.#name);
  }
}

const elements = globalThis.customElements;
// If this module is loaded from two addresses, the first one defines the element.
if (!elements?.get("job-progress")) elements?.define("job-progress", JobProgress);
