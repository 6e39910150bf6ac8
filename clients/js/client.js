// client.js: follows channels of a Notify Gateway, and comes back after every loss with the cursor of each channel.
//
// Of all tabs one leads, the one that holds a Web Lock. It follows the channels of all, and hands on by BroadcastChannel what
// comes. The rule is the gateway's: a tab that may have missed something has a connection of its own, from its own cursors,
// until it is where the leader is; then it listens to the leader. That is one more transport beside WebSocket, SSE and polling.

/**
 * @typedef {{type: string, data: any, final?: true, channel: string, id?: string, op?: undefined}} GatewayEvent
 *
 * @typedef {{op: "gap", channel: string}} Gap
 *   Events of this channel are missing before the next one: load its state from your own backend, and go on.
 *
 * @typedef {"connecting" | "live" | "waiting" | "stopped" | "closed"} Status
 *
 * @typedef {{status: Status, retry?: number, problem?: Problem}} StatusNotice
 *   `retry`: milliseconds until the next attempt. `problem`: why it waits, or has stopped.
 *
 * @typedef {Error & {status: number, channel?: string, after: number}} Problem
 *   `status`: an HTTP status or a close code, 0 for a network that failed. `after`: seconds, from Retry-After.
 *
 * @typedef {string | null | undefined} Token
 *
 * @typedef {object} Options
 * @property {Iterable<string>} [channels] what to follow from the start
 * @property {Token | (() => Token | Promise<Token>)} [token] a JSON Web Token, or what gives one: called for each connection,
 *   before the token expires, and once more if it was refused
 * @property {string} [since] where to begin: `last` (the newest event of each channel), `0` (all), `now` (nothing old), or a cursor
 * @property {string | false} [share] `false`: a connection of its own; a text: tabs share one by this name, not by the token's `sub`
 * @property {number} [quiet] milliseconds of silence after which the connection is tested: 20,000, not less than the gateway's heartbeat
 *
 * @typedef {ReturnType<typeof connect>} Feed
 *
 * @typedef {{cursor: string, lost?: boolean, ready?: boolean, heard?: number}} Cursor
 *   `lost`: after a gap, when any id is news. `ready`: all that was there has come. `heard`: how far the leader is.
 *
 * @typedef {Cursor & {mine: boolean, last?: GatewayEvent, done: Promise<GatewayEvent>, resolve: (event: GatewayEvent) => void,
 *   reject: (problem: Problem) => void}} Place
 *
 * @typedef {{op: "ready", channels: Record<string, string>}} Ready
 * @typedef {GatewayEvent | Gap | Ready} Message
 * @typedef {{events: GatewayEvent[], channels: Record<string, string>, gaps: string[]}} Answer to a poll
 */

const ANSWER = 5_000; // milliseconds for a connection to open, and for the other side to answer
const STEADY = 10_000; // so long a connection must have lasted for the delays to begin anew
const KEPT = 600_000; // for so long no better transport is tried than the one that got through
const MOST = 10_000; // events that wait for a slow loop
const LONGEST = 2 ** 31 - 1; // that a timer can wait
/** @type {Record<string, string>} */
let memory = {};
try {
  memory = localStorage;
} catch {
  // A browser that keeps nothing, or none at all.
}
const CHANGED = { status: 400 }; // why a connection is cut that must ask for other channels

/** @param {number} status @param {string} [detail] @param {string} [channel] @param {number} [after] @returns {Problem} */
const problem = (status, detail, channel, after = 0) => Object.assign(Error(detail || `ended with ${status}`), { status, channel, after });

/** What to do after a close code or a status. @param {number} code */
export function action(code) {
  const status = code % 4_000;
  if (status === 401) return "token";
  if (status >= 400 && status < 404) return "stop";
  return [429, 503, 1013].includes(code) ? "later" : "retry";
}

/**
 * Milliseconds before the next attempt. Full jitter: those who lost it together do not come back together.
 * @param {number} failures @param {{status: number, after: number}} problem
 */
export function delay(failures, { status, after }) {
  const least = !after && action(status) === "later" ? 3 : 0;
  return Math.min(after, 3_600) * 1_000 + Math.random() * Math.min(20_000, 500 * 2 ** Math.max(failures, least));
}

/** Where the gateway is. @param {string | URL} url */
export const locate = (url) => new URL(url, globalThis.location?.href).href.replace(/\/?$/, "/");

/** The channels for a URL. @param {string[][]} cursors name and cursor of each */
export const query = (cursors) => cursors.map((pair) => `channel=${encodeURIComponent(pair.join())}`).join("&");

/**
 * Takes the chunks of an event stream and gives its data as values. The gateway writes the JSON of each on one line, with all
 * that the stream's other fields say.
 * @param {(value: any) => void} take @returns {(chunk: string) => void}
 */
export function reader(take) {
  let rest = "";
  return (chunk) => {
    const lines = (rest + chunk).split("\n");
    rest = /** @type {string} */ (lines.pop());
    for (const line of lines) if (line.startsWith("data:")) take(JSON.parse(line.slice(5)));
  };
}

/** A poll's answer as messages. @param {Answer} answer @returns {Message[]} */
export const messages = ({ events, channels, gaps }) => [
  ...gaps.map((channel) => /** @type {Gap} */ ({ op: "gap", channel })),
  ...events,
  { op: "ready", channels },
];

/** Whether an event or a gap is news on a channel; moves its cursor. @param {Cursor} place @param {{op?: string, id?: string}} message */
export function advance(place, message) {
  if (message.op) place.lost = true;
  else if (message.id) {
    if (!place.lost && Number(message.id) <= Number(place.cursor)) return false;
    place.cursor = message.id;
    place.lost = false;
  }
  return true;
}

/** The gateway is ready up to these ids. @param {Map<string, Cursor>} places @param {Record<string, string>} channels */
export function reach(places, channels) {
  for (const channel in channels) {
    const place = places.get(channel);
    if (place) place.ready = advance(place, { id: channels[channel] }) || true;
  }
}

/** The claims of a token, which are not proved. @param {any} token @returns {{sub?: string, exp?: number}} */
function claims(token) {
  try {
    return JSON.parse(atob(token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/")));
  } catch {
    return {};
  }
}

/**
 * Follow channels of the gateway at this address, until closed.
 * @param {string | URL} url @param {Options} [options]
 */
export function connect(url, { channels = [], token, since = "last", share, quiet = 20_000 } = {}) {
  const base = locate(url);
  const name = `notify ${base}`;
  const bell = new EventTarget();
  const closing = new AbortController();
  const ended = closing.signal;
  /** @type {Status} */
  let status = "connecting";
  /** @type {Map<string, Place>} */
  const places = new Map(); // a leader's are those of all tabs

  const me = Math.random();
  /** @type {BroadcastChannel | undefined} */
  let bus;
  let leading = false;
  let merged = false; // this tab listens to the leader
  /** @type {Map<number, string[]>} */
  const wants = new Map(); // what the other tabs follow
  /** @type {Set<string>} */
  const refused = new Set(); // what of that this one may not

  let through = 0; // when the first byte of this connection came
  let level = 0;
  /** @type {Token} */
  let given;
  /** @type {((command: object) => void) | undefined} */
  let send;
  /** @type {(() => void) | undefined} */
  let ping;
  /** @type {(reason?: any) => void} */
  let cut = () => {};
  /** @type {any} */
  let timer;
  /** @type {any} */
  let renewal;

  // Handlers

  /** @param {string} type @param {any} [detail] */
  const emit = (type, detail) => bell.dispatchEvent(new CustomEvent(type, { detail }));

  /**
   * Call a handler for each event of a type, or of any (`*`), or for the notices `gap` and `status`; an event of such a type
   * reaches `*` only. Returns what takes the handler away.
   * @template {string} T
   * @param {T} type
   * @param {(value: T extends "gap" ? Gap : T extends "status" ? StatusNotice : GatewayEvent) => void} handler
   */
  function on(type, handler) {
    const listener = (/** @type {any} */ { detail }) => handler(detail);
    bell.addEventListener(type, listener);
    return () => bell.removeEventListener(type, listener);
  }

  /** @param {Status} next @param {Partial<StatusNotice>} [more] */
  function say(next, more) {
    if (/ed$/.test(status) || (next === status && !more)) return; // stopped and closed are for good
    status = next;
    if (leading) tell({ status });
    emit("status", { status, ...more });
  }

  // What is followed

  /** Follow one more channel. @param {string} channel */
  function follow(channel) {
    const found = places.get(channel);
    if (found?.mine || ended.aborted) return;
    if (found) tell({ lead: true }); // it begins anew here, so the others must see for themselves
    add(channel, since, true);
    if (found || !send) change();
    else subscribe([channel]);
  }

  /** @param {string} channel @param {string} cursor @param {boolean} mine */
  function add(channel, cursor, mine) {
    const place = /** @type {Place} */ ({ cursor, mine });
    place.done = new Promise((resolve, reject) => Object.assign(place, { resolve, reject }));
    place.done.catch(() => {}); // not everybody asks
    places.set(channel, place);
  }

  /** @param {string} channel @param {Problem} reason */
  function drop(channel, reason) {
    places.get(channel)?.reject(reason);
    return places.delete(channel);
  }

  /** Know nothing of the leader any more. */
  function part() {
    merged = false;
    for (const place of places.values()) place.heard = undefined;
  }

  /** Connect anew, with other channels. */
  function change() {
    part();
    cut(CHANGED);
    emit("!");
  }

  /** Follow what the tabs want, no more and no less, and tell them how far it is. */
  function cover() {
    const wanted = [...wants.values()].flat();
    const fresh = wanted.filter((channel) => !places.has(channel) && !refused.has(channel));
    const gone = [...places.keys()].filter((channel) => !places.get(channel)?.mine && !wanted.includes(channel));
    for (const channel of fresh) add(channel, "now", false);
    for (const channel of gone) places.delete(channel);
    if (send) {
      if (gone.length) send({ op: "unsubscribe", channels: gone });
      subscribe(fresh);
    } else if (fresh.length + gone.length && !merged) change();
    if (leading) tell({ op: "ready", channels: Object.fromEntries(cursors().filter(([, cursor]) => Number(cursor))) });
  }

  /** Take what has come. @param {any} message */
  function take(message) {
    const { op, channel, ref } = message;
    alive();
    if (op === "bye") cut(problem(message.code, message.reason));
    else if (op === "error") {
      const reason = problem(message.status, message.detail, channel);
      if (channel ? !refuse(reason) : ref) cut(reason);
      else if (ref) subscribe([...places.keys()].filter((name) => !places.get(name)?.ready));
    } else if (op !== "pong") {
      const place = places.get(channel);
      if (op !== "ready" && !(place && advance(place, message))) return;
      reach(places, message.channels);
      if (leading) tell(message);
      else if (!merged) want();
      if (place?.mine) deliver(place, message);
    }
    settle();
  }

  /** @param {Place} place @param {GatewayEvent | Gap} message */
  function deliver(place, message) {
    if (message.op) return emit("gap", message);
    place.last = message;
    if (message.final) place.resolve(message);
    if (!/^(gap|status)$/.test(message.type)) emit(message.type, message);
    emit("*", message);
  }

  /** See whether all has come, and whether the leader can go on from here. */
  function settle() {
    const all = [...places.values()];
    if (!all.every(({ ready }) => ready)) return;
    say("live");
    if (bus && !leading && !merged && all.every(({ heard, cursor }) => Number(heard) <= Number(cursor))) {
      merged = true;
      cut(CHANGED);
    }
  }

  /** A channel may not be read; whether it was followed. @param {Problem} reason */
  function refuse(reason) {
    const { channel = "" } = reason;
    if (places.get(channel)?.mine === false) {
      refused.add(channel);
      tell({ lead: true }); // another tab may be allowed to
    }
    return drop(channel, reason);
  }

  // Tabs

  async function start() {
    const { locks } = globalThis.navigator ?? {};
    // Tabs of different users have nothing to share. A cookie is the whole browser's.
    if (locks && share === undefined) await ask().catch(() => {});
    const key = locks && (share ?? (token ? claims(given).sub : ""));
    if (typeof key === "string" && !ended.aborted) {
      bus = new BroadcastChannel(name + key);
      bus.onmessage = ({ data }) => hear(data);
      const lead = () => {
        leading = true;
        tell({ lead: true });
        if (merged) change();
        return new Promise((resolve) => (ended.onabort = resolve));
      };
      locks.request(name + key, { signal: ended }, lead).catch(() => {});
    }
    keep();
  }

  const tell = (/** @type {object} */ message) => bus?.postMessage(message);

  const want = () => tell({ from: me, want: [...places.keys()] });

  /** @param {any} message */
  function hear(message) {
    if (leading) {
      if (!message.want) return wake(message.wake);
      wants.set(message.from, message.want);
      cover();
    } else if (message.lead) {
      if (merged) change();
      part();
      want();
    } else if (merged) {
      if (message.status) say(message.status);
      else take(message);
    } else {
      const ids = message.channels ?? { [message.channel]: places.get(message.channel)?.heard && message.id };
      for (const channel in ids) if (ids[channel]) Object.assign(places.get(channel) ?? {}, { heard: ids[channel] });
      settle();
    }
  }

  /** Listen to the leader. One that was put to sleep still has the lock, and says nothing. */
  async function sharing() {
    await new Promise((resolve) => {
      cut = resolve;
      ping = want;
      wake();
    });
    part();
  }

  // Coming back

  /** Be connected; after each loss come back, or end, as its reason says. */
  async function keep() {
    let failures = 0;
    let denied = false;
    while (!ended.aborted) {
      try {
        await (merged ? sharing() : connection());
      } catch (/** @type {any} */ error) {
        if (ended.aborted || error === CHANGED) continue;
        const reason = error.status >= 0 ? error : problem(0, error);
        const next = action(reason.status);
        if (next === "stop" && refuse(reason)) continue;
        if (through) {
          denied = false;
          if (Date.now() - through > STEADY) failures = 0;
        }
        if (next === "stop" || (next === "token" && (denied || typeof token !== "function"))) return end("stopped", reason);
        denied ||= next === "token";
        const retry = delay(failures++, reason);
        say("waiting", { retry, problem: reason });
        await pause(retry);
      }
    }
  }

  /** @param {number} milliseconds @param {string} [type] until such an event, or a wake-up */
  async function pause(milliseconds, type = "") {
    /** @type {any[]} */
    let undo = [];
    await new Promise((resolve) => (undo = [setTimeout(resolve, milliseconds), on(type, resolve), on("!", resolve)]));
    const [timer, ...offs] = undo;
    clearTimeout(timer);
    for (const off of offs) off();
  }

  /** Wait no longer, and see whether the other side is still there. @param {any} [online] the network was away */
  function wake(online) {
    emit("!");
    if (!leading) tell({ wake: online });
    if (ping) {
      ping();
      watch(ANSWER);
    } else if (online) cut(CHANGED);
  }

  /** @param {number} milliseconds @param {() => void} [then] */
  function watch(milliseconds, then = () => cut()) {
    clearTimeout(timer);
    timer = setTimeout(then, milliseconds);
  }

  /** Something has come. */
  function alive() {
    if (!through) {
      through = Date.now();
      if (level !== recall()) memory[name] = `${level} ${through + KEPT}`;
    }
    if (ping) watch(quiet, wake);
    else watch(quiet * 2 + ANSWER);
  }

  /** The transport that got through last time: 0 WebSocket, 1 SSE, 2 long polling. */
  function recall() {
    const [level = 0, until = 0] = (memory[name] ?? "").split(" ").map(Number);
    return until > Date.now() ? level : 0;
  }

  /** @param {Status} last @param {Problem} reason */
  function end(last, reason) {
    if (ended.aborted) return;
    tell({ from: me, want: [] });
    bus?.close();
    bus = undefined;
    closing.abort(reason);
    cut(reason);
    clearTimeout(timer);
    clearTimeout(renewal);
    for (const channel of places.keys()) drop(channel, reason);
    say(last, { problem: reason });
    emit("!");
  }

  // Connections

  async function connection() {
    while (!places.size && !ended.aborted) await pause(LONGEST);
    await ask();
    for (level = recall(); !ended.aborted; level++) {
      const attempt = new AbortController();
      cut = (reason = problem(0, "no answer")) => attempt.abort(reason);
      through = 0;
      for (const place of places.values()) place.ready = false;
      watch(ANSWER);
      try {
        await (level > 1 ? polls : level ? stream : socket)(attempt.signal);
      } catch (/** @type {any} */ error) {
        if (through || level > 1 || action(error.status) !== "retry") throw error;
      } finally {
        clearTimeout(timer);
        send = ping = undefined;
      }
    }
  }

  /** @param {AbortSignal} signal */
  async function socket(signal) {
    // A token in the URL would stand in the logs of every proxy; a ticket is good once.
    const ticket = given ? `ticket=${(await (await get("tickets", signal, "POST")).json()).ticket}` : "";
    const socket = new WebSocket(`${base.replace("http", "ws")}ws?${ticket}`);
    try {
      await new Promise((_, reject) => {
        signal.onabort = () => reject(signal.reason);
        socket.onclose = ({ code, reason }) => reject(problem(code, reason));
        socket.onmessage = ({ data }) => take(JSON.parse(data));
        socket.onopen = () => {
          send = (command) => socket.send(JSON.stringify(command));
          ping = () => send?.({ op: "ping" });
          ping();
          subscribe([...places.keys()]);
        };
      });
    } finally {
      socket.onopen = socket.onmessage = null;
      socket.close();
    }
  }

  /** @param {AbortSignal} signal */
  async function stream(signal) {
    const { body } = await get(`sse?${query(cursors())}`, signal);
    const chunks = /** @type {ReadableStream} */ (body).pipeThrough(new TextDecoderStream()).getReader();
    const read = reader((message) => signal.aborted || take(message));
    for (;;) {
      const { done, value } = await chunks.read();
      if (done) throw problem(1001, "the stream has ended");
      alive();
      read(value);
    }
  }

  /** @param {AbortSignal} signal */
  async function polls(signal) {
    for (let wait = 0; ; wait = 25) {
      const answer = await (await get(`poll?${query(cursors())}&wait=${wait}`, signal)).json();
      for (const message of messages(answer)) signal.aborted || take(message);
    }
  }

  /** @param {string} path @param {AbortSignal} signal @param {string} [method] */
  async function get(path, signal, method) {
    /** @type {HeadersInit} */
    const headers = given ? { authorization: `Bearer ${given}` } : {};
    const response = await fetch(base + path, { method, signal, headers, credentials: "include" });
    if (response.ok) return response;
    const { detail, channel } = await response.json().catch(() => ({}));
    throw problem(response.status, detail, channel, Number(response.headers.get("retry-after")) || 0);
  }

  /** Ask for a token, and again before it expires: an open WebSocket takes the new one. */
  async function ask() {
    given = await (typeof token === "function" ? token() : token);
    const { exp } = claims(given);
    clearTimeout(renewal);
    if (!exp) return;
    const renew = async () => {
      if (!send) return;
      await ask();
      send?.({ op: "auth", token: given });
    };
    renewal = setTimeout(() => renew().catch(() => {}), Math.min(Math.max((exp * 1_000 - Date.now()) * 0.8, 1_000), LONGEST));
  }

  const cursors = () => [...places].map(([channel, { cursor }]) => [channel, cursor]);

  /** @param {string[]} names */
  function subscribe(names) {
    const channels = Object.fromEntries(cursors().filter(([name]) => names.includes(String(name))));
    if (names.length) send?.({ op: "subscribe", channels, ref: 1 });
  }

  for (const channel of channels) follow(channel);
  globalThis.addEventListener?.("online", () => wake(1), { signal: ended });
  globalThis.addEventListener?.("visibilitychange", () => wake(), { signal: ended });
  // A page that was kept while the user was elsewhere has heard nothing.
  globalThis.addEventListener?.("pageshow", ({ persisted }) => persisted && change(), { signal: ended });
  start();

  return {
    on,
    follow,

    /** Follow a channel no more. @param {string} channel */
    unfollow(channel) {
      const place = places.get(channel);
      place?.reject(problem(0, `channel ${channel} is followed no more`));
      if (place) place.mine = false;
      cover();
      ping === want && want();
    },

    /** The final event of a channel, which is followed for it. Rejects with a `Problem` if it cannot be had. @param {string} channel */
    done(channel) {
      follow(channel);
      return places.get(channel)?.done ?? Promise.reject(ended.reason);
    },

    /** The newest event that has come on a channel. @param {string} channel */
    last: (channel) => places.get(channel)?.last,

    get status() {
      return status;
    },

    /** Let go of everything. */
    close: () => end("closed", problem(0, "the feed was closed")),

    /** All events as they come. Ends when the feed is closed, and throws the `Problem` for which it has stopped. */
    async *[Symbol.asyncIterator]() {
      /** @type {GatewayEvent[]} */
      const events = [];
      const off = on("*", (event) => events.push(event));
      try {
        while (events.length || !ended.aborted) {
          if (events.length > MOST) throw problem(0, `${MOST} events wait: the loop is too slow`);
          const event = events.shift();
          if (event) yield event;
          else await pause(LONGEST, "*");
        }
        if (status === "stopped") throw ended.reason;
      } finally {
        off();
      }
    },
  };
}
