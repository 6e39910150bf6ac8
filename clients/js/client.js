// client.js: follows channels of a Notify Gateway, and comes back after every loss with the cursor of each channel.
//
// One connection at a time, over the first transport that gets through. What comes is taken by its id, so that it does not matter
// which transport brought it, or how often. Listening to another tab is one more transport: tabs.js, loaded where there may be one.

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
 * @typedef {{cursor: string, lost?: boolean, ready?: boolean}} Cursor
 *   `lost`: after a gap, when any id is news. `ready`: all that was there has come.
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
const LONGEST = 2e9; // milliseconds; a timer cannot wait much longer
/** @type {Record<string, any>} */
let memory = {};
try {
  memory = localStorage;
} catch {
  // A browser that keeps nothing, or none at all.
}
const CHANGED = { status: 400 }; // why a connection is cut that must ask for other channels

/**
 * From a problem of the gateway, a notice, or a socket's end.
 * @param {{status?: number, code?: number, detail?: any, reason?: any, channel?: string}} what @param {number} [after] @returns {Problem}
 */
const problem = ({ code = 0, status = code, reason, detail = reason, channel }, after = 0) =>
  Object.assign(Error(detail || `ended with ${status}`), { status, channel, after });

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
export const query = (cursors) => new URLSearchParams(cursors.map((pair) => ["channel", pair.join()]));

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
    if (!place.lost && +message.id <= +place.cursor) return false;
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
  const places = new Map(); // of the tab that leads: what all tabs follow

  /** @type {import("./tabs.js").Tabs | undefined} */
  let tabs;

  let through = 0; // when the first byte of this connection came
  let level = 0;
  /** @type {Token} */
  let given;
  /** @type {((command: object) => void) | undefined} */
  let send;
  /** @type {((none?: any) => void) | undefined} */
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
    tabs?.relay({ status });
    emit("status", { status, ...more });
  }

  // What is followed

  /** Follow one more channel. @param {string} channel */
  function follow(channel) {
    const found = places.get(channel);
    if (found?.mine || ended.aborted) return;
    add(channel, since, true);
    if (!found) return subscribe();
    tabs?.renew(); // it begins anew here, so the others must see for themselves
    change();
  }

  /** @param {string} channel @param {string} cursor @param {boolean} mine */
  function add(channel, cursor, mine) {
    const place = /** @type {Place} */ ({ cursor, mine });
    place.done = new Promise((resolve, reject) => Object.assign(place, { resolve, reject }));
    place.done.catch(() => {}); // not everybody asks
    places.set(channel, place);
  }

  /** The name and the cursor of each channel that is not ready, or of all. @param {boolean} [all] */
  const cursors = (all) =>
    [...places].filter(([, { ready }]) => all || !ready).map(([channel, { cursor }]) => /** @type {[string, string]} */ ([channel, cursor]));

  /** Have the gateway begin with what is new here; where it takes no commands, with a new connection. */
  function subscribe() {
    const fresh = cursors();
    if (fresh.length) send ? send({ op: "subscribe", channels: Object.fromEntries(fresh), ref: 1 }) : change();
  }

  /** Connect anew. */
  const change = () => cut(CHANGED);

  /** Follow what this tab wants, and what others want, and no more. @param {Map<string, string>} [others] from these cursors */
  function cover(others = new Map()) {
    const gone = [...places.keys()].filter((channel) => !places.get(channel)?.mine && !others.has(channel));
    for (const channel of gone) places.delete(channel);
    for (const [channel, cursor] of others) if (!places.has(channel)) add(channel, cursor, false);
    if (gone.length) send?.({ op: "unsubscribe", channels: gone });
    subscribe();
  }

  /** Take what has come. @param {any} message */
  function take(message) {
    const { op, channel, ref } = message;
    alive();
    if (op === "bye" || (op === "error" && ref && !channel)) cut(problem(message));
    else if (op === "error") {
      refuse(problem(message));
      subscribe(); // the others, which were refused with it
    } else if (op !== "pong") {
      const place = places.get(channel);
      if (op !== "ready" && !(place && advance(place, message))) return;
      reach(places, message.channels);
      tabs?.relay(message);
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
    emit("!");
  }

  /** See whether all has come, and whether another tab can go on from here. */
  function settle() {
    if (cursors().length) return;
    say("live");
    if (tabs?.near()) change();
  }

  /** A channel may not be read; whether it was followed. @param {Problem} reason */
  function refuse(reason) {
    const { channel = "" } = reason;
    const place = places.get(channel);
    place?.reject(reason);
    if (place?.mine === false) tabs?.refuse(channel);
    return places.delete(channel);
  }

  // Tabs

  /** Find the other tabs. Those of different users have nothing to share; a cookie is the whole browser's. */
  function join() {
    const key = share ?? (token ? claims(given).sub : "");
    if (typeof key !== "string" || !globalThis.navigator?.locks) return;
    const core = { ended, cursors, places, cover, change, settle, take, say, wake, pause };
    import("./tabs.js").then(({ meet }) => ended.aborted || (tabs ??= meet(name + key, core)), () => {});
  }

  // Coming back

  /** Be connected; after each loss come back, or end, as its reason says. */
  async function keep() {
    let failures = 0;
    let denied = false;
    while (!ended.aborted) {
      try {
        await (tabs?.listen() ?? (places.size ? connection() : pause(LONGEST)));
      } catch (/** @type {any} */ error) {
        if (ended.aborted || error === CHANGED) continue;
        const reason = error.status >= 0 ? error : problem({ reason: error });
        const next = action(reason.status);
        if (next === "stop" && refuse(reason)) continue;
        if (through && Date.now() - through > STEADY) failures = 0;
        // A function has another token, and a cookie may have been renewed.
        if (next === "stop" || (next === "token" && ((denied && !through) || typeof token === "string"))) return end("stopped", reason);
        denied = next === "token";
        const retry = delay(failures++, reason);
        say("waiting", { retry, problem: reason });
        await pause(retry);
      }
    }
  }

  /** Wait so long, or until there is a reason to look again. @param {number} milliseconds @param {() => void} [asks] */
  const pause = (milliseconds, asks) =>
    new Promise((resolve) => {
      cut = resolve;
      ping = asks ?? resolve;
      watch(milliseconds);
    });

  /** Wait no longer, and see whether the other side is still there. @param {boolean} [online] the network was away */
  function wake(online) {
    if (ping) {
      ping();
      watch(ANSWER);
    } else if (online) change();
  }

  /** @param {number} milliseconds @param {() => void} [then] */
  function watch(milliseconds, then = cut) {
    clearTimeout(timer);
    timer = setTimeout(then, milliseconds);
  }

  /** Something has come. */
  function alive() {
    if (!through) {
      through = Date.now();
      if (level !== recall()) memory[name] = [level, through + KEPT];
    }
    watch(ping ? quiet : quiet * 2 + ANSWER, ping && wake);
  }

  /** The transport that got through last time: 0 WebSocket, 1 SSE, 2 long polling. */
  function recall() {
    const [level, until] = /** @type {[number, number]} */ (`${memory[name]}`.split(",").map(Number));
    return until > Date.now() ? level : 0;
  }

  /** @param {Status} last @param {Problem} reason */
  function end(last, reason) {
    if (ended.aborted) return;
    tabs?.want([]);
    closing.abort(reason);
    cut(reason);
    clearTimeout(timer);
    clearTimeout(renewal);
    for (const place of places.values()) place.reject(reason);
    places.clear();
    say(last, { problem: reason });
    emit("!");
  }

  // Connections

  async function connection() {
    await ask();
    join();
    for (level = recall(); !ended.aborted; level++) {
      const attempt = new AbortController();
      const { signal } = attempt;
      cut = (reason = problem({ reason: "no answer" })) => attempt.abort(reason);
      ping = undefined;
      through = 0;
      for (const place of places.values()) place.ready = false;
      watch(ANSWER);
      try {
        await ([socket, stream][level] ?? polls)(signal, (message) => signal.aborted || take(message));
      } catch (/** @type {any} */ error) {
        if (through || level > 1 || action(error.status) !== "retry") throw error;
      } finally {
        send = ping = undefined;
      }
    }
  }

  /** @typedef {(message: any) => void} Take */

  /** @param {AbortSignal} signal @param {Take} take */
  async function socket(signal, take) {
    // A token in the URL would stand in the logs of every proxy; a ticket is good once.
    const ticket = given ? `ticket=${(await (await get("tickets", signal, "POST")).json()).ticket}` : "";
    const socket = new WebSocket(`${base.replace("http", "ws")}ws?${ticket}`);
    await new Promise((_, reject) => {
      signal.onabort = () => reject(socket.close() ?? signal.reason);
      socket.onclose = (end) => reject(problem(end));
      socket.onmessage = ({ data }) => take(JSON.parse(data));
      socket.onopen = () => {
        send = (command) => socket.send(JSON.stringify(command));
        ping = () => send?.({ op: "ping" });
        ping();
        subscribe();
      };
    });
  }

  /** @param {AbortSignal} signal @param {Take} take */
  async function stream(signal, take) {
    const { body } = await get(`sse?${query(cursors())}`, signal);
    const chunks = /** @type {ReadableStream} */ (body).pipeThrough(new TextDecoderStream()).getReader();
    const read = reader(take);
    for (;;) {
      const { done, value } = await chunks.read();
      if (done) throw problem({ code: 1001 });
      alive();
      read(value);
    }
  }

  /** @param {AbortSignal} signal @param {Take} take */
  async function polls(signal, take) {
    for (let wait = 0; ; wait = 25) {
      const answer = await get(`poll?${query(cursors(true))}&wait=${wait}`, signal);
      messages(await answer.json()).forEach(take);
    }
  }

  /** @param {string} path @param {AbortSignal} signal @param {string} [method] */
  async function get(path, signal, method) {
    /** @type {HeadersInit} */
    const headers = given ? { authorization: `Bearer ${given}` } : {};
    const response = await fetch(base + path, { method, signal, headers, credentials: "include" });
    if (response.ok) return response;
    const told = await response.json().catch(() => {});
    throw problem({ ...told, status: response.status }, Number(response.headers.get("retry-after")) || 0);
  }

  /** Ask for a token, and again before it expires: an open WebSocket takes the new one. */
  async function ask() {
    given = await (typeof token === "function" ? token() : token);
    const { exp } = claims(given);
    clearTimeout(renewal);
    const renew = () => send && ask().then(() => send?.({ op: "auth", token: given }), () => {});
    if (exp) renewal = setTimeout(renew, Math.min(Math.max((exp * 1_000 - Date.now()) * 0.8, 1_000), LONGEST));
  }

  for (const channel of channels) follow(channel);
  for (const type of ["online", "visibilitychange", "pageshow"])
    globalThis.addEventListener?.(
      type,
      // A page that was kept while the user was elsewhere has heard nothing.
      (/** @type {any} */ { persisted }) => (persisted ? change() : wake(type === "online")),
      { signal: ended },
    );
  keep();

  return {
    on,
    follow,

    /** Follow a channel no more. @param {string} channel */
    unfollow(channel) {
      const place = places.get(channel);
      if (!place) return;
      place.reject(problem({ reason: `${channel} was unfollowed` }));
      place.mine = false;
      cover(tabs?.wanted());
      tabs?.want();
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
    close: () => end("closed", problem({ reason: "closed" })),

    /** All events as they come. Ends when the feed is closed, and throws the `Problem` for which it has stopped. */
    async *[Symbol.asyncIterator]() {
      /** @type {GatewayEvent[]} */
      const events = [];
      const off = on("*", (event) => events.push(event));
      try {
        while (events.length || !ended.aborted) {
          if (events.length > MOST) throw problem({ reason: `${MOST} events wait` });
          const event = events.shift();
          if (event) yield event;
          else await new Promise((resolve) => bell.addEventListener("!", resolve, { once: true }));
        }
        if (status === "stopped") throw ended.reason;
      } finally {
        off();
      }
    },
  };
}
