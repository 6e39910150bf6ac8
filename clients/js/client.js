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
 * @typedef {{cursor: string | null, lost?: boolean, queue?: Message[], ready?: boolean}} Cursor
 *   `lost`: after a gap, when any id is news. `queue`: this tab is behind, and this came meanwhile.
 *
 * @typedef {Cursor & {reading?: object, last?: GatewayEvent, read: Outcome<GatewayEvent | undefined>, done: Outcome<GatewayEvent>}} Place
 * @typedef {{op: "ready", channels: Record<string, string>}} Ready
 * @typedef {{op: "error", channel: string}} Refusal
 * @typedef {GatewayEvent | Gap | Ready | Refusal} Message what one tab hands on to the others
 * @typedef {{events: GatewayEvent[], channels: Record<string, string>, gaps: string[]}} Answer to a poll
 */
/** @template T @typedef {{promise: Promise<T>, resolve: (value: T) => void, reject: (problem: Problem) => void}} Outcome */

const ANSWER = 5_000; // milliseconds for a connection to open, and for the other side to answer
const STEADY = 10_000; // so long a connection must have lasted for the delays to begin anew
const KEPT = 3_600_000; // for so long no better transport is tried than the one that got through
const MOST = 10_000; // events that wait for a slow loop
const LONGEST = 2 ** 31 - 1; // that a timer can wait

/** @param {number} status @param {string} [detail] @param {string} [channel] @param {number} [after] @returns {Problem} */
const problem = (status, detail, channel, after = 0) =>
  Object.assign(Error(detail || `ended with ${status}`), { status, channel, after: Math.min(after, 3_600) });

const CHANGED = problem(0, "other channels");

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
  return after * 1_000 + Math.random() * Math.min(20_000, 500 * 2 ** Math.max(failures, least));
}

/** Where to connect. @param {string} base @param {string} path @param {[string, string | null][]} cursors */
export function address(base, path, cursors) {
  const query = new URLSearchParams(cursors.map(([channel, cursor]) => ["channel", cursor ? `${channel},${cursor}` : channel]));
  return `${base.replace(/\/?$/, "/")}${path}?${query}`;
}

/**
 * Takes the chunks of an event stream (WHATWG HTML, section 9.2) and gives its data as values, which hold all the rest too.
 * @param {(value: any) => void} take @returns {(chunk: string) => void}
 */
export function reader(take) {
  let rest = "";
  /** @type {string[]} */
  let data = [];
  return (chunk) => {
    const lines = (rest + chunk).split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop() ?? "";
    for (const line of lines) {
      if (/^data(:|$)/.test(line)) data.push(line.replace(/^data:? ?/, ""));
      else if (!line && data.length) take(JSON.parse(data.splice(0).join("\n")));
    }
  };
}

/** A poll's answer as messages. @param {Answer} answer @returns {Message[]} */
export const messages = ({ events, channels, gaps }) => [
  ...gaps.map((channel) => /** @type {Gap} */ ({ op: "gap", channel })),
  ...events,
  { op: "ready", channels },
];

/** Whether a message is news; moves the cursors. @param {Map<string, Cursor>} cursors @param {any} message */
export function advance(cursors, { op, channel, id, channels = { [channel]: id } }) {
  const found = cursors.get(channel);
  if (op === "gap") {
    if (found) found.lost = true;
  } else if (id && found && !found.lost && Number(id) <= Number(found.cursor)) return false;
  else
    for (const name in channels) {
      const cursor = channels[name];
      const place = cursors.get(name);
      if (place && cursor && !(place.queue && op)) Object.assign(place, { cursor, lost: false });
    }
  return op === "ready" || !!found;
}

/** The claims of a token, which are not proved. @param {any} token @returns {{sub?: string, exp?: number}} */
function claims(token) {
  try {
    return JSON.parse(atob(token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/")));
  } catch {
    return {};
  }
}

/** @template T @returns {Outcome<T>} */
function outcome() {
  const found = /** @type {Outcome<T>} */ ({});
  found.promise = new Promise((resolve, reject) => Object.assign(found, { resolve, reject }));
  found.promise.catch(() => {}); // not everybody asks
  return found;
}

/**
 * Follow channels of the gateway at this address, until closed.
 * @param {string | URL} url @param {Options} [options]
 */
export function connect(url, { channels = [], token, since = "last", share, quiet = 20_000 } = {}) {
  const base = new URL(url, globalThis.location?.href).href;
  const bell = new EventTarget();
  const closing = new AbortController();
  const ended = closing.signal;
  const id = Math.random();
  /** @type {Status} */
  let status = "connecting";
  /** @type {Map<string, Place>} */
  const places = new Map();

  /** @type {BroadcastChannel | undefined} */
  let bus;
  let leading = false;
  let up = false; // the link has all that it was asked for
  /** @type {Map<number, string[]>} */
  const wants = new Map();

  /** @type {Map<string, Cursor>} */
  const link = new Map();
  let through = 0; // when the first byte came
  let level = 0;
  /** @type {((command: object) => void) | undefined} */
  let send;
  /** @type {(() => void) | undefined} */
  let ping;
  /** @type {(problem?: Problem) => void} */
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
    const listener = (/** @type {any} */ event) => handler(event.detail);
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
    if (status === "live") return;
    if (leading && !up) {
      up = through > 0 && [...link.values()].every(({ ready }) => ready);
      if (up) tell({ up });
    }
    if (up && [...places.values()].every(({ queue }) => !queue)) say("live");
  }

  // Places

  /** @param {string} channel */
  function follow(channel) {
    if (ended.aborted || places.has(channel)) return;
    const queue = leading && !link.has(channel) ? undefined : [];
    places.set(channel, { cursor: since, queue, read: outcome(), done: outcome() });
    cover();
  }

  /** @param {string} channel @param {Problem} reason */
  function drop(channel, reason) {
    const place = places.get(channel);
    places.delete(channel);
    place?.read.reject(reason);
    place?.done.reject(reason);
    return !!place;
  }

  /** Give a message to the handlers. @param {Message} message @param {boolean} [fromLog] read while behind */
  function deliver(message, fromLog) {
    if (message.op === "ready") return arrive(message);
    const place = places.get(message.channel);
    if (!place) return;
    if (message.op === "error") return alone(); // the leader may not read it, but perhaps this tab may
    if (place.queue && !fromLog) return void place.queue.push(message);
    if (!advance(places, message)) return;
    if (message.op) return emit("gap", message);
    place.last = message;
    if (message.final) place.done.resolve(message);
    if (!/^(gap|status)$/.test(message.type)) emit(message.type, message);
    emit("*", message);
  }

  /** The link has all of these channels, up to these ids. @param {Ready} message */
  function arrive(message) {
    advance(places, message);
    const found = [...places].filter(([channel]) => channel in message.channels);
    for (const [, { queue, read, last }] of found) if (!queue) read.resolve(last);
    const behind = found.filter(([, { queue, reading }]) => queue && !reading);
    if (behind.length) catchUp(behind);
    settle();
  }

  /** Read the log until nothing is left, then go on with what came meanwhile. @param {[string, Place][]} behind */
  function catchUp(behind) {
    const reading = {};
    for (const [, place] of behind) place.reading = reading;
    keep(async () => {
      const given = await ask();
      for (;;) {
        // Who has a new leader, or follows anew, is read for by somebody else.
        behind = behind.filter(([channel, place]) => place.reading === reading && places.get(channel) === place);
        if (!behind.length) return;
        for (const [, place] of behind) place.queue = [];
        const signal = AbortSignal.any([ended, AbortSignal.timeout(3 * ANSWER)]);
        const answer = await poll(behind, 0, signal, given);
        for (const message of messages(answer)) if (message.op !== "ready") deliver(message, true);
        for (const [channel, place] of behind) {
          if (place.reading !== reading) continue;
          place.cursor = answer.channels[channel] ?? place.cursor;
          if (answer.events.length) continue;
          const queue = place.queue ?? [];
          place.queue = place.reading = undefined;
          queue.forEach((message) => deliver(message));
          place.read.resolve(place.last);
        }
        settle();
      }
    });
  }

  // Tabs

  async function start() {
    const { locks } = globalThis.navigator ?? {};
    let name = locks && (share ?? (token ? claims(await ask().catch(() => 0)).sub : "")); // with a cookie all tabs are one user's
    if (typeof name !== "string" || ended.aborted) return lead();
    name = `notify ${base} ${name}`;
    bus = new BroadcastChannel(name);
    bus.onmessage = ({ data }) => hear(data);
    ping = () => tell({ from: id, want: [...places.keys()] });
    cut = alone; // a leader that was put to sleep still has the lock, and says nothing
    wake();
    locks.request(name, { signal: ended }, lead).catch(() => {});
  }

  const tell = (/** @type {object} */ message) => bus?.postMessage(message);

  /** @param {any} message */
  function hear(message) {
    if (leading) {
      if (message.want) {
        wants.set(message.from, message.want);
        cover();
      } else if (message.wake) wake(message.wake.online);
      return;
    }
    alive();
    if (message.lead) {
      for (const place of places.values()) Object.assign(place, { queue: [], reading: undefined });
      cover();
    } else if ("up" in message) {
      up = message.up;
      if (!up) say("waiting", message);
      // The timers of a tab that nobody looks at may come a minute late.
      if (message.retry) setTimeout(() => tell({ wake: {} }), message.retry);
      settle();
    } else deliver(message);
  }

  function alone() {
    leave();
    lead();
  }

  function leave() {
    tell({ from: id, want: [] });
    bus?.close();
    bus = undefined;
  }

  async function lead() {
    if (leading || ended.aborted) return;
    leading = true;
    ping = undefined;
    up = false;
    cut = () => {};
    clearTimeout(timer);
    for (const place of places.values()) place.queue = place.reading = undefined;
    tell({ lead: true });
    cover();
    await keep(connection);
  }

  /** See that the link has the channels of all tabs, and tell them where it is. */
  function cover() {
    if (!leading) return ping?.();
    const wanted = new Set([...places.keys(), ...[...wants.values()].flat()]);
    const gone = [...link.keys()].filter((channel) => !wanted.has(channel));
    const fresh = [...wanted].filter((channel) => !link.has(channel));
    for (const channel of gone) link.delete(channel);
    for (const channel of fresh) link.set(channel, { cursor: places.get(channel)?.cursor ?? "now" });
    if (gone.length) send?.({ op: "unsubscribe", channels: gone });
    if (fresh.length) subscribe(fresh);
    if (!send && gone.length + fresh.length) cut(CHANGED);
    if (link.size === fresh.length) emit("!");
    tell({ up });
    const known = cursors(link).filter(([, cursor]) => Number(cursor));
    const ready = /** @type {Ready} */ ({ op: "ready", channels: Object.fromEntries(known) });
    tell(ready);
    arrive(ready);
  }

  // Coming back

  /** Do it until it is done; after a failure come back, or end, as the failure says. @param {() => Promise<void>} work */
  async function keep(work) {
    let failures = 0;
    let refused = false;
    while (!ended.aborted) {
      try {
        return await work();
      } catch (/** @type {any} */ error) {
        if (ended.aborted || error === CHANGED) continue;
        const reason = "status" in error ? error : problem(0, `${error}`);
        const next = action(reason.status);
        if (next === "stop" && refuse(reason)) continue;
        if (through) refused = false;
        if (through && Date.now() - through > STEADY) failures = 0;
        if (next === "stop" || (next === "token" && (refused || typeof token !== "function"))) return end("stopped", reason);
        refused ||= next === "token";
        const retry = delay(failures++, reason);
        up = false;
        if (leading) tell({ up, retry });
        say("waiting", { retry, problem: reason });
        await pause(retry);
      }
    }
  }

  /** @param {number} milliseconds */
  async function pause(milliseconds) {
    /** @type {any} */
    let timer, off;
    await new Promise((/** @type {any} */ resolve) => {
      timer = setTimeout(resolve, milliseconds);
      off = on("!", resolve);
    });
    clearTimeout(timer);
    off();
  }

  /** Wait no longer, and see whether the other side is still there. @param {boolean} [online] the network was away */
  function wake(online) {
    emit("!");
    if (!leading) tell({ wake: { online } });
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
      remember(base, level);
    }
    if (ping) watch(quiet, wake);
    else watch(quiet * 2 + ANSWER);
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
    const given = await ask();
    for (level = recall(base); ; level++) {
      const attempt = new AbortController();
      cut = (reason = problem(0, "no answer")) => attempt.abort(reason);
      through = 0;
      for (const cursor of link.values()) cursor.ready = false;
      watch(ANSWER);
      try {
        await (level > 1 ? polls : level ? stream : socket)(attempt.signal, given);
      } catch (/** @type {any} */ error) {
        if (through || level > 1 || ended.aborted || error === CHANGED || action(error.status) !== "retry") throw error;
      } finally {
        clearTimeout(timer);
        send = ping = undefined;
      }
    }
  }

  /** @param {AbortSignal} signal @param {Token} given */
  async function socket(signal, given) {
    /** @type {any} */
    let timer;
    // A token in the URL would stand in the logs of every proxy; a ticket is good once.
    const ticket = given ? (await (await get(address(base, "tickets", []), signal, given, "POST")).json()).ticket : "";
    const socket = new WebSocket(`${address(base, "ws", []).replace("http", "ws")}${ticket && `ticket=${ticket}`}`);
    const renew = (/** @type {Token} */ old) => {
      const { exp } = claims(old);
      if (!exp) return;
      timer = setTimeout(
        async () => {
          const fresh = await ask().catch(() => old);
          if (fresh !== old) send?.({ op: "auth", token: fresh });
          renew(fresh);
        },
        Math.min(Math.max(exp * 800 - Date.now() * 0.8, 1_000), LONGEST),
      );
    };
    await new Promise((_, reject) => {
      signal.onabort = () => reject(signal.reason);
      socket.onclose = ({ code, reason }) => reject(problem(code, reason));
      socket.onmessage = ({ data }) => take(JSON.parse(data));
      socket.onopen = () => {
        send = (command) => socket.send(JSON.stringify(command));
        ping = () => send?.({ op: "ping" });
        ping();
        subscribe([...link.keys()]);
        if (typeof token === "function") renew(given);
      };
    }).finally(() => {
      clearTimeout(timer);
      socket.onopen = socket.onmessage = null;
      socket.close();
    });
  }

  /** @param {AbortSignal} signal @param {Token} given */
  async function stream(signal, given) {
    const { body } = await get(address(base, "sse", cursors(link)), signal, given);
    const chunks = /** @type {ReadableStream} */ (body).pipeThrough(new TextDecoderStream()).getReader();
    const read = reader(take);
    for (;;) {
      const { done, value } = await chunks.read();
      if (done) throw problem(1001, "the stream has ended");
      alive();
      read(value);
    }
  }

  /** @param {AbortSignal} signal @param {Token} given */
  async function polls(signal, given) {
    for (let wait = 0; ; wait = 25) messages(await poll(link, wait, signal, given)).forEach(take);
  }

  /** @param {Iterable<[string, Cursor]>} places @param {number} wait seconds @param {AbortSignal} signal @param {Token} given */
  async function poll(places, wait, signal, given) {
    return (await get(`${address(base, "poll", cursors(places))}&wait=${wait}`, signal, given)).json();
  }

  /** @param {string} url @param {AbortSignal} signal @param {Token} given @param {string} [method] */
  async function get(url, signal, given, method) {
    const response = await fetch(url, {
      method,
      signal,
      credentials: given ? "same-origin" : "include",
      headers: given ? { authorization: `Bearer ${given}` } : {},
    });
    if (response.ok) return response;
    const { detail, channel } = await response.json().catch(() => ({}));
    throw problem(response.status, detail, channel, Number(response.headers.get("retry-after")) || 0);
  }

  /** @returns {Promise<Token>} */
  const ask = async () => (typeof token === "function" ? token() : token);

  /** @param {Iterable<[string, Cursor]>} places @returns {[string, string | null][]} */
  const cursors = (places) => [...places].map(([channel, { cursor }]) => [channel, cursor]);

  /** @param {string[]} channels */
  function subscribe(channels) {
    const wanted = cursors(link).filter(([channel]) => channels.includes(channel));
    if (wanted.length) send?.({ op: "subscribe", channels: Object.fromEntries(wanted), ref: 1 });
  }

  /** Take what comes over the link. @param {any} message */
  function take(message) {
    const { op, channel, ref } = message;
    alive();
    if (op === "bye") cut(problem(message.code, message.reason));
    else if (op === "error") {
      const reason = problem(message.status, message.detail, channel);
      if (channel ? !refuse(reason) : ref) cut(reason);
      else if (ref) subscribe([...link].filter(([, { ready }]) => !ready).map(([name]) => name));
    } else {
      if (op === "ready") for (const name in message.channels) Object.assign(link.get(name) ?? {}, { ready: true });
      if (op !== "pong" && advance(link, message)) {
        tell(message);
        deliver(message);
      }
      settle();
    }
  }

  /** One channel may not be read; whether it was followed. @param {Problem} reason */
  function refuse(reason) {
    const { channel = "" } = reason;
    const found = link.delete(channel);
    if (found) tell({ op: "error", channel });
    return drop(channel, reason) || found;
  }

  for (const channel of channels) follow(channel);
  globalThis.addEventListener?.("online", () => wake(true), { signal: ended });
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
      return places.get(channel)?.done.promise ?? Promise.reject(ended.reason);
    },

    /** The newest event of a channel once its log was read; `undefined` for an empty one. @param {string} channel */
    ready(channel) {
      follow(channel);
      return places.get(channel)?.read.promise ?? Promise.reject(ended.reason);
    },

    /** The newest event that has come so far. @param {string} channel */
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
      const offs = [on("*", (event) => (events.push(event), wake())), on("status", () => wake())];
      try {
        while (events.length || !ended.aborted) {
          if (events.length > MOST) throw problem(0, `${MOST} events wait: the loop is too slow`);
          const event = events.shift();
          if (event) yield event;
          else await new Promise((resolve) => (wake = () => resolve(0)));
        }
        if (status === "stopped") throw ended.reason;
      } finally {
        for (const off of offs) off();
      }
    },
  };
}

/** The transport that got through last time: 0 WebSocket, 1 SSE, 2 long polling. @param {string} url */
function recall(url) {
  try {
    const [level, until] = JSON.parse(localStorage[`notify ${url}`]);
    return until > Date.now() ? level : 0;
  } catch {
    return 0;
  }
}

/** @param {string} url @param {number} level */
function remember(url, level) {
  try {
    if (level !== recall(url)) localStorage[`notify ${url}`] = JSON.stringify([level, Date.now() + KEPT]);
  } catch {
    // A browser that keeps nothing: the next page finds out by itself.
  }
}
