// client.js: follows channels of a Notify Gateway, and comes back after every loss with the cursor of each channel.
//
// One connection at a time, over the first transport that gets through. What comes is taken by its id, so that it does not matter
// which transport brought it, or how often.
//
// All tabs of one browser share a connection: the one that leads, because it holds a Web Lock, follows what all of them follow, and
// hands on by BroadcastChannel what comes. The rule is the gateway's: a tab that may have missed something has a connection of its own,
// from its own cursors, until it is where the leader is; then it listens to the leader.
//
// What pages load is client.min.js, which `npm run build` makes of this.

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
 * @typedef {Record<string, string>} Cursors by channel
 *
 * @typedef {{channel: string, cursor: string, ready?: object}} Place where a client is in a channel
 *   `ready`: the connection over which all that was there has come.
 *
 * @typedef {Place & {mine?: boolean, last?: GatewayEvent, done: Promise<GatewayEvent>, resolve: (event: GatewayEvent) => void,
 *   reject: (problem: Problem) => void}} Followed
 *   `mine`: by this tab, not only by others.
 *
 * @typedef {{from: string | false, status: Status, channels: Cursors, rouse?: any}} Report of a tab to the others
 *   `from`: which tab, if it does not lead. `channels`: what it follows, and how far it is. `rouse`: a leader that is new asks for
 *   the others' reports; another tab, to which the user has come back, asks whether the leader's connection is alive.
 */

const ANSWER = 5_000; // milliseconds for a connection to open, and for the other side to answer
const STEADY = 10_000; // so long a connection must have lasted for the delays to begin anew
const KEPT = 600_000; // for so long no better transport is tried than the one that got through
const MOST = 10_000; // events that wait for a slow loop
const PATIENCE = 60_000; // for a token: a user may have to log in
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
 * @param {{status?: number, code?: number, detail?: any, reason?: any, channel?: string, after?: number}} what @returns {Problem}
 */
const problem = ({ code = 0, status = code, reason, detail = reason, channel, after = 0 }) =>
  Object.assign(Error(detail || "status " + status), { status, channel, after });

/** What to do after a close code or a status. @param {any} code @returns {"token" | "stop" | "later" | "retry"} */
export const action = (code) =>
  /401$/.test(code) ? "token" : /40[023]$/.test(code) ? "stop" : /429|503|1013/.test(code) ? "later" : "retry";

/**
 * Milliseconds before the next attempt. Full jitter: those who lost it together do not come back together.
 * @param {number} failures @param {{status: number, after: number}} problem
 */
export const delay = (failures, { status, after }) =>
  Math.min(after, 3_600) * 1_000 +
  Math.random() * Math.min(20_000, 500 * 2 ** Math.max(failures, !after && action(status) === "later" ? 3 : 0));

/** Where the gateway is. @param {string | URL} url */
export const locate = (url) => new URL(url, /** @type {any} */ (globalThis.location)).href.replace(/\/?$/, "/");

/** The channels for a URL. @param {Cursors} cursors */
export const query = (cursors) => new URLSearchParams(Object.entries(cursors).map((pair) => ["channel", "" + pair]));

/**
 * Takes the chunks of an event stream and gives its data as values, and `{}` for each chunk: a sign of life. The gateway writes the
 * JSON of each event on one line, with all that the stream's other fields say.
 * @param {(value: any) => void} take @returns {(chunk: string) => void}
 */
export const reader = (take) => {
  let rest = "";
  return (chunk) => {
    const lines = (rest + chunk).split("\n");
    rest = /** @type {string} */ (lines.pop());
    take({});
    for (const line of lines) if (line.startsWith("data:")) take(JSON.parse(line.slice(5)));
  };
};

/**
 * Whether an event or a gap is news on a channel; moves its cursor. After a gap any id is news: Redis may have lost its newest data.
 * @param {Place} place @param {{op?: string, id?: string}} message
 */
export const advance = (place, { op, id = op && "0" }) => {
  if (!op && +(/** @type {any} */ (id)) <= +place.cursor) return false;
  if (id) place.cursor = id;
  return true;
};

/** All is there up to these ids, over this connection. @param {Place[]} places @param {Cursors} channels @param {object} connection */
export const reach = (places, channels, connection) => {
  for (const place of places)
    if (channels[place.channel]) {
      advance(place, { id: channels[place.channel] });
      place.ready = connection;
    }
};

/** The claims of a token, which are not proved. @param {any} token @returns {{sub?: string, exp?: number}} */
const claims = (token) => {
  try {
    return JSON.parse(atob(token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/")));
  } catch {
    return {};
  }
};

/**
 * Follow channels of the gateway at this address, until closed.
 * @param {string | URL} url @param {Options} [options]
 */
export function connect(url, { channels = [], token, since = "last", share, quiet = 20_000 } = {}) {
  const base = locate(url);
  const name = "notify " + base;
  const bell = new EventTarget();
  const closing = new AbortController();
  const ended = closing.signal;
  /** @type {Status} */
  let status = "connecting";
  /** @type {Followed[]} */
  let places = []; // of the tab that leads: what all tabs follow

  let signal = ended; // of the connection, or of the attempt to have one
  let through = 0; // when the first byte of this connection came
  let level = 0; // the transport: 0 WebSocket, 1 SSE, 2 long polling
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
  /** @type {Record<string, object>} */
  const left = {}; // over which connection a channel was unfollowed: what is still on the way there is not for those who follow it again

  let me = ""; // among the tabs
  /** @type {BroadcastChannel | undefined} */
  let bus;
  let leading = false;
  let merged = false; // this tab listens to the leader
  let asked = false; // the leader, how far it is
  /** @type {Record<string, Cursors>} */
  const wants = {}; // what the other tabs follow, and how far they were
  /** @type {Cursors} */
  const refused = {}; // what this one may not, with no cursor

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
  const on = (type, handler) => {
    const listener = (/** @type {any} */ { detail }) => detail && handler(detail);
    bell.addEventListener(type, listener);
    return () => bell.removeEventListener(type, listener);
  };

  /** @param {Status} next @param {Partial<StatusNotice>} [more] */
  const say = (next, more) => {
    if (/ed$/.test(status) || (next === status && !more)) return; // stopped and closed are for good
    status = next;
    if (leading) report();
    emit("status", { status, ...more });
  };

  // What is followed

  /** @param {string | undefined} channel */
  const find = (channel) => places.find((place) => place.channel === channel);

  /** What is not ready. */
  const pending = () => places.filter(({ ready }) => ready !== signal);

  /** @returns {Cursors} */
  const cursors = (some = places) => Object.fromEntries(some.map(({ channel, cursor }) => [channel, "" + cursor]));

  /** Follow one more channel. @param {string} channel */
  const follow = (channel) => {
    const place = find(channel);
    if (place?.mine || ended.aborted) return;
    if (place) left[channel] = signal; // by other tabs only, and here it begins anew
    places = places.filter((other) => other !== place);
    add(channel, since, true);
    subscribe();
    report(); // other tabs may have to see for themselves
  };

  /** @param {string} channel @param {string | undefined} cursor @param {boolean} [mine] */
  const add = (channel, cursor, mine) => {
    const place = /** @type {Followed} */ ({ channel, cursor, mine });
    place.done = new Promise((resolve, reject) => Object.assign(place, { resolve, reject }));
    place.done.catch(() => {}); // not everybody asks
    places.push(place);
    if (through && left[channel] === signal) change();
  };

  /**
   * Follow a channel no more, and if it was refused, for no other tab either; where it is not said which, for instance because they are
   * too many, all that only other tabs follow. Returns one of them, if there are any.
   * @param {Problem} reason
   */
  const leave = (reason) => {
    const some = places.filter(({ channel, mine }) => (reason.channel ? channel === reason.channel : !mine));
    for (const place of some) {
      place.reject(reason);
      place.mine = false;
      if (reason.status) refused[place.channel] = "";
    }
    if (some[0]) cover();
    return some[0];
  };

  /** Have the gateway begin with what is new here; where it takes no commands, with a new connection. */
  const subscribe = () => {
    const fresh = pending();
    if (fresh[0]) (send ?? change)({ op: "subscribe", channels: cursors(fresh) });
  };

  /** Connect anew. */
  const change = () => cut(CHANGED);

  /** Follow what this tab wants, and what others want, and no more. */
  const cover = () => {
    const others = /** @type {Cursors} */ (Object.assign({}, ...Object.values(wants), refused));
    const kept = (/** @type {Followed} */ { channel, mine }) => mine || others[channel];
    const gone = places.filter((place) => !kept(place));
    places = places.filter(kept);
    if (gone[0]) send?.({ op: "unsubscribe", channels: gone.map(({ channel }) => ((left[channel] = signal), channel)) });
    for (const channel in others) if (others[channel] && !find(channel)) add(channel, others[channel]);
    subscribe();
    report();
  };

  /** Take what has come. @param {any} message */
  const take = (message) => {
    if (signal.aborted && !merged) return; // the rest of a chunk
    const { op, channel, channels } = message;
    const place = find(channel);
    alive();
    if (/bye|error/.test(op)) (channel ? leave : cut)(problem(message));
    else {
      if (leading) tell(message);
      if (channels) reach(places, channels, signal);
      else if (place && advance(place, message) && place.mine) {
        if (op) emit(op, message);
        else {
          place.last = message;
          if (message.final) place.resolve(message);
          if (!/^(gap|status)$/.test(message.type)) emit(message.type, message);
          emit("*", message);
        }
      }
    }
    settle();
  };

  /** Where all has come, see whether another tab can go on from here. */
  const settle = () => {
    if (pending()[0]) return;
    if (!merged) say("live");
    if (leading || asked) return;
    asked = true;
    report();
  };

  // Tabs

  /** Find the other tabs. Those of different users have nothing to share; a cookie is the whole browser's. */
  const join = () => {
    const key = share ?? (token ? claims(given).sub : "");
    if (me || typeof key !== "string" || !globalThis.navigator?.locks) return;
    me = name + Math.random();
    // A lock of its own comes first: by that the leader sees that this tab is gone.
    hold(me, () => {
      bus = new BroadcastChannel(name + key);
      bus.onmessage = ({ data }) => (data.from ? leading && serve(data) : leading || hear(data));
      asked = false;
      settle();
      hold(name + key, () => {
        leading = true;
        report(true);
        if (merged) change();
      });
    });
  };

  const over = new Promise((resolve) => (ended.onabort = resolve));

  /** Hold a lock as soon as it is free, until the feed is closed. @param {string} lock @param {() => void} then */
  const hold = (lock, then) =>
    navigator.locks
      .request(lock, { signal: ended }, () => {
        then();
        return over;
      })
      .catch(() => {});

  /** @param {object} message */
  const tell = (message) => bus?.postMessage(message);

  /** @param {any} [rouse] */
  const report = (rouse) => tell({ from: !leading && me, status, channels: cursors(), rouse });

  /** From another tab, as the leader: follow that, too, from there if it is new here, as long as that tab lives. @param {any} report */
  const serve = ({ from, channels, rouse }) => {
    if (rouse) wake();
    if (!wants[from])
      hold(from, () => {
        delete wants[from];
        cover();
      });
    wants[from] = channels;
    cover();
  };

  /**
   * From the leader. Where it is no further than this tab, nothing that is missing here was told before. After a gap it is at 0, and a
   * tab that is not has still to hear of it.
   * @param {any} message
   */
  const hear = (message) => {
    const { status, channels, rouse } = message;
    if (status) {
      const near = places.every(({ channel, cursor }) => channels[channel] <= +cursor && (channels[channel] > 0 || !+cursor));
      if (near !== merged) change();
      merged = near;
      if (near) say(status);
      asked = near && !rouse;
      if (rouse) settle();
    }
    if (merged) take(message);
  };

  // Coming back

  /** Be connected; after each loss come back, or end, as its reason says. */
  const keep = async () => {
    let failures = 0;
    let denied;
    while (!ended.aborted) {
      try {
        if (merged) {
          report(); // A leader that was put to sleep says nothing, and is left.
          await pause(ANSWER, report);
          merged = asked = false;
        } else await (places[0] ? connection() : pause(LONGEST));
      } catch (/** @type {any} */ error) {
        if (ended.aborted || error === CHANGED) continue;
        const reason = error.status >= 0 ? error : problem({ reason: error });
        const next = action(reason.status);
        if (next === "stop" && leave(reason)) continue;
        if (through && Date.now() - through > STEADY) failures = 0;
        // A function has another token, and a cookie may have been renewed.
        if (next === "stop" || (next === "token" && ((denied && !through) || typeof token === "string"))) return end("stopped", reason);
        denied = next === "token";
        const retry = delay(failures++, reason);
        say("waiting", { retry, problem: reason });
        const waited = pause(retry);
        send = () => {}; // what is followed meanwhile has to wait, too
        through = 0;
        if (reason.after) ping = undefined; // and so has who comes back to the tab
        await waited;
      }
    }
  };

  /** Wait so long, or until there is a reason to look again. @param {number} milliseconds @param {() => void} [asks] */
  const pause = (milliseconds, asks) =>
    new Promise((resolve) => {
      send = undefined;
      cut = resolve;
      ping = asks ?? resolve;
      watch(milliseconds);
    });

  /** Wait no longer, and see whether the other side is still there. @param {string} [type] of the page's event for which */
  const wake = (type) => {
    if (ping) {
      ping(type);
      watch(ANSWER);
    } else if (type === "online") change();
  };

  /** @param {number} milliseconds @param {() => void} [then] */
  const watch = (milliseconds, then = cut) => {
    clearTimeout(timer);
    timer = setTimeout(then, milliseconds);
  };

  /** Something has come. */
  const alive = () => {
    if (!through && !merged) {
      through = Date.now();
      try {
        if (level !== recall()) memory[name + level] = through + KEPT;
      } catch {
        // The storage is full.
      }
    }
    watch(ping ? quiet : quiet * 2 + ANSWER, ping && wake);
  };

  /** The transport that got through last time. */
  const recall = () => [2, 1].find((level) => memory[name + level] > Date.now()) ?? 0;

  /** @param {Status} last @param {Problem} [reason] */
  const end = (last, reason = problem({ reason: last })) => {
    if (ended.aborted) return;
    closing.abort(reason);
    bus = /** @type {any} */ (bus?.close());
    cut(reason);
    clearTimeout(timer);
    clearTimeout(renewal);
    for (const place of places) place.reject(reason);
    places = [];
    say(last, { problem: reason });
    emit("*");
  };

  // Connections

  const connection = async () => {
    send = ping = undefined;
    await new Promise((resolve, reject) => {
      watch(PATIENCE, () => reject("no answer"));
      ask().then(resolve, reject);
    });
    for (level = recall(); !ended.aborted; level++) {
      join();
      const attempt = new AbortController();
      signal = attempt.signal;
      cut = (reason = "no answer") => attempt.abort(reason);
      send = ping = undefined;
      through = 0;
      watch(ANSWER);
      try {
        await /** @type {() => Promise<void>} */ ([socket, stream, polls][level])();
      } catch (/** @type {any} */ error) {
        if (through || level > 1 || action(error.status) !== "retry") throw error;
      }
    }
  };

  const socket = async () => {
    // A token in the URL would stand in the logs of every proxy; a ticket is good once.
    const ticket = given ? "ticket=" + (await (await get("tickets", "POST")).json()).ticket : "";
    const socket = new WebSocket(base.replace("http", "ws") + "ws?" + ticket);
    await new Promise((_, reject) => {
      signal.onabort = () => {
        socket.close();
        reject(signal.reason);
      };
      socket.onclose = (end) => reject(problem(end));
      socket.onmessage = ({ data }) => take(JSON.parse(data));
      socket.onopen = () => {
        send = (command) => socket.send(JSON.stringify(command));
        ping = () => send?.({ op: "ping" });
        ping();
        subscribe();
      };
    });
  };

  const stream = async () => {
    const { body } = await get("sse?" + query(cursors()));
    await /** @type {ReadableStream} */ (body).pipeThrough(new TextDecoderStream()).pipeTo(new WritableStream({ write: reader(take) }));
    throw "closed";
  };

  const polls = async () => {
    for (let wait = 0; ; wait = 25) {
      if (!places[0]) throw CHANGED; // all were unfollowed while the poll waited
      const { events, channels, gaps } = await (await get("poll?" + query(cursors()) + "&wait=" + wait)).json();
      gaps.map((/** @type {string} */ channel) => take({ op: "gap", channel }));
      events.map(take);
      take({ channels });
    }
  };

  /** @param {string} path @param {string} [method] */
  const get = async (path, method) => {
    const response = await fetch(base + path, {
      method,
      signal,
      headers: /** @type {HeadersInit} */ (given ? { authorization: "Bearer " + given } : {}),
      credentials: "include",
    });
    if (response.ok) return response;
    const told = await response.json().catch(() => {});
    throw problem({ ...told, status: response.status, after: +/** @type {any} */ (response.headers.get("retry-after")) || 0 });
  };

  /** Ask for a token, and again before it expires: an open WebSocket takes the new one. */
  const ask = async () => {
    given = await (typeof token === "function" ? token() : token);
    send?.({ op: "auth", token: given });
    const left = /** @type {number} */ (claims(given).exp) * 1_000 - Date.now();
    clearTimeout(renewal);
    // By a clock that is fast a new token has expired already: then the gateway says when it has.
    if (left > 0) renewal = setTimeout(() => send && ask().catch(() => {}), Math.min(left * 0.8, LONGEST));
  };

  for (const channel of channels) follow(channel);
  for (const type of ["online", "visibilitychange", "pageshow"])
    globalThis.addEventListener?.(
      type,
      // A page that was kept while the user was elsewhere has heard nothing.
      (/** @type {any} */ { persisted }) => (persisted ? change() : wake(type)),
      { signal: ended },
    );
  keep();

  return {
    on,
    follow,

    /** Follow a channel no more. @param {string} channel */
    unfollow(channel) {
      leave(problem({ reason: "unfollowed", channel }));
    },

    /** The final event of a channel, which is followed for it. Rejects with a `Problem` if it cannot be had. @param {string} channel */
    done(channel) {
      follow(channel);
      return find(channel)?.done ?? Promise.reject(ended.reason);
    },

    /** The newest event that has come on a channel. @param {string} channel */
    last: (channel) => find(channel)?.last,

    get status() {
      return status;
    },

    /** Let go of everything. */
    close: () => end("closed"),

    /** All events as they come. Ends when the feed is closed, and throws the `Problem` for which it has stopped. */
    async *[Symbol.asyncIterator]() {
      /** @type {GatewayEvent[]} */
      const events = [];
      const off = on("*", (event) => events.push(event));
      try {
        while (events[0] || !ended.aborted) {
          if (events[MOST]) throw problem({ reason: MOST + " events wait" });
          const event = events.shift();
          if (event) yield event;
          else await new Promise((resolve) => bell.addEventListener("*", resolve, { once: true }));
        }
        if (status === "stopped") throw ended.reason;
      } finally {
        off();
      }
    },
  };
}
