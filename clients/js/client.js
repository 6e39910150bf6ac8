// client.js: follows channels of a Notify Gateway, and comes back after every loss with the cursor of each channel.
//
// Three layers, from the outside in:
//   places   what this page follows, and up to where each channel was delivered to its handlers
//   tabs     the one that holds a Web Lock leads: it alone is connected, and hands on by BroadcastChannel what comes. A tab
//            that may have missed something is behind: it reads the log from its own cursor, and queues what comes meanwhile
//   link     the leader's connection for the channels of all tabs: WebSocket, else SSE, else long polling

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
 * @typedef {{cursor: string, lost?: boolean, queue?: Message[] | null, ready?: boolean}} Cursor
 *   `lost`: after a gap, when any id is news. `queue`: this tab is behind; `null` until the link has the channel, then what comes
 *   while the log is read. `ready`: the link has it.
 *
 * @typedef {Cursor & {last?: GatewayEvent, done: Promise<GatewayEvent>, resolve: (event: GatewayEvent) => void,
 *   reject: (problem: Problem) => void}} Place
 *
 * @typedef {{op: "ready", channels: Record<string, string>}} Ready
 * @typedef {{op: "error", channel: string}} Refusal
 * @typedef {GatewayEvent | Gap | Ready | Refusal} Message what one tab hands on to the others
 * @typedef {{events: GatewayEvent[], channels: Record<string, string>, gaps: string[]}} Answer to a poll
 */

const ANSWER = 5_000; // milliseconds for a connection to open, and for the other side to answer
const STEADY = 10_000; // so long a connection must have lasted for the delays to begin anew
const KEPT = 3_600_000; // for so long no better transport is tried than the one that got through
const MOST = 10_000; // events that wait for a slow loop
const LONGEST = 2 ** 31 - 1; // that a timer can wait
/** @type {Record<string, string>} */
let memory = {};
try {
  memory = localStorage;
} catch {
  // A browser that keeps nothing, or none at all.
}
const CHANGED = {}; // why a connection is cut that must ask for other channels

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

/** Where to connect. @param {string | URL} url @param {string} [path] @param {string[][]} [cursors] channel and cursor of each */
export function address(url, path = "", cursors = []) {
  const query = cursors.map((pair) => `channel=${encodeURIComponent(pair.join())}`);
  return new URL(url, globalThis.location?.href).href.replace(/\/?$/, `/${path}?${query.join("&")}`);
}

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

/** Whether an event or a gap is news on a channel; moves its cursor. @param {Cursor} place @param {GatewayEvent | Gap} message */
export function advance(place, message) {
  if (message.op) place.lost = true;
  else if (message.id) {
    if (!place.lost && Number(message.id) <= Number(place.cursor)) return false;
    place.cursor = message.id;
    place.lost = false;
  }
  return true;
}

/** Move cursors to where the gateway is ready. @param {Map<string, Cursor>} places @param {Record<string, string>} channels */
export function reach(places, channels) {
  for (const channel in channels) {
    const place = places.get(channel);
    if (place?.queue === undefined) Object.assign(place ?? {}, { cursor: channels[channel], lost: false, ready: true });
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
  const name = address(url);
  const bell = new EventTarget();
  const closing = new AbortController();
  const ended = closing.signal;
  /** @type {Status} */
  let status = "connecting";
  /** @type {Map<string, Place>} */
  const places = new Map();

  const me = Math.random();
  /** @type {BroadcastChannel | undefined} */
  let bus;
  let leading = false;
  let up = false; // the link has all that it was asked for
  /** @type {Map<number, string[]>} */
  const wants = new Map();

  /** @type {Map<string, Cursor>} */
  const link = new Map();
  let through = 0; // when its first byte came
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
    emit("status", { status, ...more });
  }

  /** Say that all is well, if it is. */
  function settle() {
    if (leading && !up && through && [...link.values()].every(({ ready }) => ready)) tell({ up: (up = true) });
    if (up && [...places.values()].every(({ queue }) => queue === undefined)) say("live");
  }

  // Places

  /** Follow one more channel. @param {string} channel */
  function follow(channel) {
    let place = places.get(channel);
    if (place || ended.aborted) return;
    place = /** @type {Place} */ ({ cursor: since, queue: leading && !link.has(channel) ? undefined : null });
    place.done = new Promise((resolve, reject) => Object.assign(/** @type {Place} */ (place), { resolve, reject }));
    place.done.catch(() => {}); // not everybody asks
    places.set(channel, place);
    cover();
  }

  /** @param {string} channel @param {Problem} reason */
  function drop(channel, reason) {
    places.get(channel)?.reject(reason);
    return places.delete(channel);
  }

  /** Give a message to the handlers. @param {Message} message @param {boolean} [fromLog] read while behind */
  function deliver(message, fromLog) {
    if (message.op === "ready") {
      reach(places, message.channels);
      for (const [channel, place] of places) if (place.queue === null && channel in message.channels) catchUp(channel, place);
      return settle();
    }
    const place = places.get(message.channel);
    if (!place) return;
    if (message.op === "error") return alone(); // the leader may not read it, but perhaps this tab may
    if (place.queue !== undefined && !fromLog) return void place.queue?.push(message);
    if (!advance(place, message)) return;
    if (message.op) return emit("gap", message);
    place.last = message;
    if (message.final) place.resolve(message);
    if (!/^(gap|status)$/.test(message.type)) emit(message.type, message);
    emit("*", message);
  }

  /** Read the log until nothing is left, then go on with what came meanwhile. @param {string} channel @param {Place} place */
  async function catchUp(channel, place) {
    /** @type {Message[]} */
    let queue = (place.queue = []);
    try {
      given = await ask();
      for (let more = true; more; ) {
        queue = place.queue = [];
        const answer = await poll([[channel, place]], 0, AbortSignal.timeout(ANSWER * 3));
        if (place.queue !== queue || places.get(channel) !== place) return; // there is a new leader, or it is followed anew
        for (const message of messages(answer)) if (message.op !== "ready") deliver(message, true);
        place.cursor = answer.channels[channel] ?? place.cursor;
        more = answer.events.length > 0;
      }
      place.queue = undefined;
      for (const message of queue) deliver(message);
      settle();
    } catch (/** @type {any} */ error) {
      if (place.queue) place.queue = null; // again with the next ready
      if (action(error.status) === "stop") drop(channel, error);
    }
  }

  // Tabs

  async function start() {
    const { locks } = globalThis.navigator ?? {};
    // Tabs of different users have nothing to share. A cookie is the whole browser's.
    let key = locks && (share ?? (token ? claims(await ask().catch(() => 0)).sub : ""));
    if (typeof key !== "string" || ended.aborted) return lead();
    key = name + key;
    bus = new BroadcastChannel(key);
    bus.onmessage = ({ data }) => hear(data);
    ping = () => tell({ from: me, want: [...places.keys()] });
    cut = alone; // a leader that was put to sleep still has the lock, and says nothing
    wake();
    locks.request(key, { signal: ended }, lead).catch(() => {});
  }

  const tell = (/** @type {object} */ message) => bus?.postMessage(message);

  /** @param {any} message */
  function hear(message) {
    if (leading) {
      if (!message.want) return wake(message.wake);
      wants.set(message.from, message.want);
      return cover();
    }
    alive();
    up = message.up ?? up;
    if (message.lead) {
      for (const place of places.values()) place.queue = null;
      cover();
    } else if (message.op || message.channel) deliver(message);
    else if (up) settle();
    else say("waiting");
  }

  function leave() {
    tell({ from: me, want: [] });
    bus?.close();
    bus = undefined;
  }

  function alone() {
    leave();
    lead();
  }

  async function lead() {
    if (leading || ended.aborted) return;
    leading = true;
    up = false;
    ping = undefined;
    cut = () => {};
    clearTimeout(timer);
    for (const place of places.values()) place.queue = undefined;
    tell({ lead: true });
    cover();
    await keep();
  }

  /** See that the link has the channels of all tabs, and tell them where it is. */
  function cover() {
    if (!leading) return ping?.();
    const wanted = new Set([...places.keys(), ...[...wants.values()].flat()]);
    const gone = [...link.keys()].filter((channel) => !wanted.has(channel) && link.delete(channel));
    const fresh = [...wanted].filter((channel) => !link.has(channel));
    for (const channel of fresh) link.set(channel, { cursor: places.get(channel)?.cursor ?? "now" });
    if (send) {
      if (gone.length) send({ op: "unsubscribe", channels: gone });
      subscribe(fresh);
    } else if (gone.length + fresh.length) {
      cut(CHANGED);
      emit("!");
    }
    const known = cursors(link).filter(([, cursor]) => Number(cursor));
    const ready = /** @type {Ready} */ ({ op: "ready", channels: Object.fromEntries(known) });
    tell({ ...ready, up });
    deliver(ready);
  }

  // Coming back

  /** Be connected; after each loss come back, or end, as its reason says. */
  async function keep() {
    let failures = 0;
    let refused = false;
    while (!ended.aborted) {
      try {
        await connection();
      } catch (/** @type {any} */ error) {
        if (ended.aborted || error === CHANGED) continue;
        const reason = error.status >= 0 ? error : problem(0, error);
        const next = action(reason.status);
        if (next === "stop" && refuse(reason)) continue;
        if (through) refused = false;
        if (through && Date.now() - through > STEADY) failures = 0;
        if (next === "stop" || (next === "token" && (refused || typeof token !== "function"))) return end("stopped", reason);
        refused ||= next === "token";
        const retry = delay(failures++, reason);
        tell({ up: (up = false) });
        say("waiting", { retry, problem: reason });
        await pause(retry);
      }
    }
  }

  /** @param {number} milliseconds */
  async function pause(milliseconds) {
    /** @type {any[]} */
    let [timer, off] = [];
    await new Promise((resolve) => {
      timer = setTimeout(resolve, milliseconds);
      off = on("!", resolve);
    });
    clearTimeout(timer);
    off();
  }

  /** Wait no longer, and see whether the other side is still there. @param {any} [online] the network was away */
  function wake(online) {
    emit("!");
    if (!leading) tell({ wake: online });
    if (ping) {
      ping();
      watch(ANSWER);
    } else if (online) cut();
  }

  /** @param {number} milliseconds @param {() => void} [then] */
  function watch(milliseconds, then = () => cut()) {
    clearTimeout(timer);
    timer = setTimeout(then, milliseconds);
  }

  /** Something has come. */
  function alive() {
    if (leading && !through) {
      through = Date.now();
      if (level !== recall()) memory[name] = `${level} ${Date.now() + KEPT}`;
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
    leave();
    closing.abort(reason);
    cut(reason);
    clearTimeout(timer);
    for (const channel of places.keys()) drop(channel, reason);
    say(last, { problem: reason });
    emit("!");
  }

  // The link

  async function connection() {
    while (!link.size && !ended.aborted) await pause(LONGEST);
    given = await ask();
    for (level = recall(); ; level++) {
      const attempt = new AbortController();
      cut = (reason = problem(0, "no answer")) => attempt.abort(reason);
      through = 0;
      for (const cursor of link.values()) cursor.ready = false;
      watch(ANSWER);
      try {
        await (level > 1 ? polls : level ? stream : socket)(attempt.signal);
      } catch (/** @type {any} */ error) {
        if (through || level > 1 || ended.aborted || error === CHANGED || action(error.status) !== "retry") throw error;
      } finally {
        clearTimeout(timer);
        send = ping = undefined;
      }
    }
  }

  /** @param {AbortSignal} signal */
  async function socket(signal) {
    /** @type {any} */
    let timer;
    // A token in the URL would stand in the logs of every proxy; a ticket is good once.
    const ticket = given ? (await (await get(address(url, "tickets"), signal, "POST")).json()).ticket : "";
    const socket = new WebSocket(address(url, "ws").replace("http", "ws") + (ticket && `ticket=${ticket}`));
    const renew = () => {
      const { exp } = claims(given);
      if (exp && typeof token === "function")
        timer = setTimeout(
          async () => {
            const old = given;
            given = await ask().catch(() => old);
            if (given !== old) send?.({ op: "auth", token: given });
            renew();
          },
          Math.min(Math.max((exp * 1_000 - Date.now()) * 0.8, 1_000), LONGEST),
        );
    };
    try {
      await new Promise((_, reject) => {
        signal.onabort = () => reject(signal.reason);
        socket.onclose = ({ code, reason }) => reject(problem(code, reason));
        socket.onmessage = ({ data }) => take(JSON.parse(data));
        socket.onopen = () => {
          send = (command) => socket.send(JSON.stringify(command));
          ping = () => send?.({ op: "ping" });
          ping();
          subscribe([...link.keys()]);
          renew();
        };
      });
    } finally {
      clearTimeout(timer);
      socket.onopen = socket.onmessage = null;
      socket.close();
    }
  }

  /** @param {AbortSignal} signal */
  async function stream(signal) {
    const { body } = await get(address(url, "sse", cursors(link)), signal);
    const chunks = /** @type {ReadableStream} */ (body).pipeThrough(new TextDecoderStream()).getReader();
    const read = reader(take);
    for (;;) {
      const { done, value } = await chunks.read();
      if (done) throw problem(1001, "the stream has ended");
      alive();
      read(value);
    }
  }

  /** @param {AbortSignal} signal */
  async function polls(signal) {
    for (let wait = 0; ; wait = 25) messages(await poll(link, wait, signal)).forEach(take);
  }

  /** @param {Iterable<[string, Cursor]>} places @param {number} wait seconds @param {AbortSignal} signal @returns {Promise<Answer>} */
  async function poll(places, wait, signal) {
    return (await get(`${address(url, "poll", cursors(places))}&wait=${wait}`, signal)).json();
  }

  /** @param {string} url @param {AbortSignal} signal @param {string} [method] */
  async function get(url, signal, method) {
    const headers = new Headers(given ? { authorization: `Bearer ${given}` } : {});
    const response = await fetch(url, { method, signal, headers, credentials: "include" });
    if (response.ok) return response;
    const { detail, channel } = await response.json().catch(() => ({}));
    throw problem(response.status, detail, channel, Number(response.headers.get("retry-after")) || 0);
  }

  /** @returns {Promise<Token>} */
  const ask = async () => (typeof token === "function" ? token() : token);

  /** @param {Iterable<[string, Cursor]>} places @returns {[string, string][]} */
  const cursors = (places) => [...places].map(([channel, { cursor }]) => [channel, cursor]);

  /** @param {string[]} names */
  function subscribe(names) {
    const channels = Object.fromEntries(cursors(link).filter(([name]) => names.includes(name)));
    if (names.length) send?.({ op: "subscribe", channels, ref: 1 });
  }

  /** Take what comes over the link. @param {any} message */
  function take(message) {
    const { op, channel, ref } = message;
    alive();
    if (op === "bye") cut(problem(message.code, message.reason));
    else if (op === "error") {
      const reason = problem(message.status, message.detail, channel);
      if (channel ? !refuse(reason) : ref) cut(reason);
      else if (ref) subscribe([...link.keys()].filter((name) => !link.get(name)?.ready));
    } else if (op !== "pong") {
      const place = link.get(channel);
      reach(link, message.channels);
      if (op === "ready" || (place && advance(place, message))) {
        tell(message);
        deliver(message);
      }
    }
    settle();
  }

  /** One channel may not be read; whether it was followed. @param {Problem} reason */
  function refuse(reason) {
    const { channel = "" } = reason;
    const found = link.delete(channel);
    if (found) tell({ op: "error", channel });
    return drop(channel, reason) || found;
  }

  for (const channel of channels) follow(channel);
  globalThis.addEventListener?.("online", () => wake(1), { signal: ended });
  globalThis.document?.addEventListener("visibilitychange", () => document.hidden || wake(), { signal: ended });
  start();

  return {
    on,
    follow,

    /** Follow a channel no more. @param {string} channel */
    unfollow(channel) {
      drop(channel, problem(0, `channel ${channel} is followed no more`));
      cover();
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
      let wake = () => {};
      const offs = [on("*", (event) => (events.push(event), wake())), on("!", () => wake())];
      try {
        while (events.length || !ended.aborted) {
          if (events.length > MOST) throw problem(0, `${MOST} events wait: the loop is too slow`);
          const event = events.shift();
          if (event) yield event;
          else await new Promise((/** @type {any} */ resolve) => (wake = resolve));
        }
        if (status === "stopped") throw ended.reason;
      } finally {
        for (const off of offs) off();
      }
    },
  };
}
