// client.js: follows channels of a Notify Gateway, and reconnects after every loss with the cursor of each channel.
//
// There is one connection at a time, over the first transport that gets through. Whether an event is new is decided by its id, so it
// does not matter which transport brought it, or how often.
//
// The tabs of a browser share one connection. The tab that holds a Web Lock is the leader: it follows what all tabs follow, and passes
// everything it receives on to them over a BroadcastChannel. The rule is the same as the gateway's: a tab that may have missed something
// has a connection of its own, starting from its own cursors, until it has caught up with the leader. From then on it listens to that.
//
// Pages load client.min.js, which `npm run build` makes from this file.

/**
 * @typedef {{type: string, data: any, final?: true, channel: string, id?: string, op?: undefined}} GatewayEvent
 *
 * @typedef {{op: "gap", channel: string}} Gap
 *   Events of this channel were lost before the next one. Load the state from your own backend, and go on.
 *
 * @typedef {"connecting" | "live" | "waiting" | "stopped" | "closed"} Status
 *
 * @typedef {{status: Status, retry?: number, problem?: Problem}} StatusNotice
 *   `retry`: milliseconds until the next attempt. `problem`: why it is waiting, or has stopped.
 *
 * @typedef {Error & {status: number, channel?: string, after: number}} Problem
 *   `status`: an HTTP status or a WebSocket close code; 0 if the network failed. `after`: the seconds of Retry-After.
 *
 * @typedef {string | null | undefined} Token
 *
 * @typedef {object} Options
 * @property {Iterable<string>} [channels] what to follow from the start
 * @property {Token | (() => Token | Promise<Token>)} [token] a JSON Web Token, or a function that returns one. The function is called
 *   for each connection, before the token expires, and once more if the token was refused
 * @property {string} [since] where to begin: `last` (the newest event of each channel), `0` (all), `now` (only new events), or a cursor
 * @property {string | false} [share] `false`: this tab has a connection of its own. A string: tabs with the same string share a
 *   connection, instead of those whose tokens have the same `sub`
 * @property {number} [quiet] milliseconds of silence after which the connection is tested, 20,000 unless given; not less than the
 *   gateway's heartbeat
 *
 * @typedef {ReturnType<typeof connect>} Feed
 *
 * @typedef {Record<string, string>} Cursors by channel
 *
 * @typedef {{channel: string, cursor: string, ready?: object}} Place how far a client is in a channel
 *   `ready`: the connection that has brought everything up to the cursor.
 *
 * @typedef {Place & {mine?: boolean, last?: GatewayEvent, done: Promise<GatewayEvent>, resolve: (event: GatewayEvent) => void,
 *   reject: (problem: Problem) => void}} Followed
 *   `mine`: followed by this tab, and not only by others.
 *
 * @typedef {{from: string | false, status: Status, channels: Cursors, rouse?: any}} Report what a tab tells the others
 *   `from`: the tab, unless it is the leader. `channels`: what it follows, with its cursors. `rouse`: a new leader asks the other tabs
 *   for their reports; a tab to which the user has returned asks the leader to test its connection.
 */

// All times are in milliseconds.
const ANSWER = 5_000; // for a connection to open, and for the other side to answer
const STEADY = 10_000; // once a connection has lasted this long, the delays start small again
const KEPT = 600_000; // how long the transport that got through is used before a better one is tried again
const MOST = 10_000; // events that may wait for a slow `for await` loop
const PATIENCE = 60_000; // for a token: the user may have to log in
const LONGEST = 2e9; // close to the longest time that setTimeout takes
/** @type {Record<string, any>} */
let memory = {};
try {
  memory = localStorage || memory; // null in a WebView that stores nothing
} catch {
  // This browser stores nothing, or this is not a browser.
}
const CHANGED = { status: 400 }; // the reason for reconnecting at once, to ask for other channels
const locks = globalThis.navigator?.locks; // none in a page without HTTPS, nor in Node 20

/**
 * Make a `Problem` of what the gateway answered, of a notice, or of a socket's close event.
 * @param {{status?: number, code?: number, detail?: any, reason?: any, channel?: string, after?: number}} what @returns {Problem}
 */
const problem = ({ code = 0, status = code, reason, detail = reason || "status " + status, channel, after = 0 }) =>
  Object.assign(Error(detail), { status, channel, after });

/** What to do after this close code or HTTP status. @param {any} code @returns {"token" | "stop" | "later" | "retry"} */
export const action = (code) =>
  /401$/.test(code) ? "token" : /40[023]$/.test(code) ? "stop" : /429|503|1013/.test(code) ? "later" : "retry";

/**
 * Milliseconds before the next attempt. With full jitter, so that clients who lost their connections together do not return together.
 * @param {number} failures @param {{status: number, after?: number}} problem `after`: an error of the page's own token function has none
 */
export const delay = (failures, { status, after = 0 }) =>
  Math.min(after, 3_600) * 1_000 +
  Math.random() * Math.min(20_000, 500 * 2 ** Math.max(failures, !after && action(status) === "later" ? 3 : 0));

/** The gateway's address, ending with a slash. @param {string | URL} url */
export const locate = (url) => new URL(url, /** @type {any} */ (globalThis.location)).href.replace(/\/?$/, "/");

/** The channels and cursors as the query of a URL. @param {Cursors} cursors */
export const query = (cursors) => new URLSearchParams(Object.entries(cursors).map((pair) => ["channel", "" + pair]));

/**
 * A parser for the chunks of an event stream. It passes on the value of each data line, and `{}` for each chunk as a sign of life.
 * Data lines are enough: the gateway writes each event's JSON on one line, and it contains what the other fields say.
 * @param {(value: any) => void} take @returns {(chunk: string) => void}
 */
export const reader = (take) => {
  let rest = "";
  return (chunk) => {
    const lines = (rest + chunk).split("\n");
    rest = /** @type {string} */ (lines.pop());
    take({});
    for (const line of lines) if (/^data:/.test(line)) take(JSON.parse(line.slice(5)));
  };
};

/**
 * Whether an event or a gap is new on its channel. If so, the cursor moves. After a gap every id is new, because Redis may have lost
 * its newest data: the cursor is 0 then, and written so that it is not taken for that of one who has yet to begin at 0.
 * @param {Place} place @param {{op?: string, id?: string}} message
 */
export const advance = (place, { op, id = op && "00" }) => {
  if (!op && +(/** @type {any} */ (id)) <= +place.cursor) return false;
  place.cursor = id || place.cursor;
  return true;
};

/** This connection has brought everything up to these ids. @param {Place[]} places @param {Cursors} channels @param {object} connection */
export const reach = (places, channels, connection) => {
  for (const place of places)
    if (channels[place.channel]) {
      advance(place, { id: channels[place.channel] });
      place.ready = connection;
    }
};

/** The claims of a token, unverified. @param {any} token @returns {{sub?: string, exp?: number}} */
const claims = (token) => {
  try {
    return JSON.parse(atob(token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/")));
  } catch {
    return {};
  }
};

/**
 * Follow channels of the gateway at this address, until the feed is closed.
 * @param {string | URL} url @param {Options} [options]
 */
export function connect(url, { channels = [], token, since = "last", share, quiet = 20_000 } = {}) {
  const base = locate(url);
  const name = "notify " + base;
  const target = new EventTarget();
  const closing = new AbortController();
  const ended = closing.signal;
  /** @type {Status} */
  let status = "connecting";
  /** @type {Followed[]} */
  let places = []; // what this tab follows; in the leader, what all tabs follow

  let signal = ended; // of the connection, or of the attempt to open one
  /** @type {number} */
  let openSince; // when the first byte came over this connection; 0 or nothing before that
  /** @type {number} */
  let transport; // 0 WebSocket, 1 SSE, 2 long polling
  /** @type {number} */
  let best; // the transport that got through last. If a worse one does, the better one is tried once more: perhaps the network was away
  /** @type {Token} */
  let bearer;
  /** @type {((command: object) => void) | undefined} */
  let send;
  /** @type {((none?: any) => void) | undefined} */
  let ping;
  /** @type {(reason?: any) => void} */
  let cut;
  /** @type {any} */
  let timer;
  /** @type {any} */
  let renewal;
  let calls = 0; // of `subscribe`
  /** @type {any} */
  let asked; // the connection on which the answer to `subscribe` is awaited
  /** @type {string[]} */
  let leaving = []; // channels to unsubscribe
  /** @type {Record<string, any>} */
  let unfollowed = {}; // channels that were unfollowed on this connection: their events may still be on their way

  /** @type {string} */
  let tab; // this tab's name among the tabs
  /** @type {BroadcastChannel | undefined} */
  let bus;
  let leading = false;
  let listening = false; // whether this tab listens to the leader, and has no connection of its own
  /** @type {any} */
  let reported; // whether the leader was asked if this tab can listen to it
  /** @type {Record<string, Cursors>} */
  const wants = {}; // in the leader: what each of the other tabs follows, with its cursors
  /** @type {Cursors} */
  const refused = {}; // channels that the gateway refused to the leader; without cursors, so that they overrule `wants`

  // Handlers

  /** @param {string} type @param {any} [detail] */
  const emit = (type, detail) => target.dispatchEvent(new CustomEvent(type, { detail }));

  /**
   * Call a handler for each event of a type, for all events (`*`), or for the notices `gap` and `status`. An event whose own type is
   * `gap` or `status` only reaches `*`. Returns a function that removes the handler.
   * @template {string} T
   * @param {T} type
   * @param {(value: T extends "gap" ? Gap : T extends "status" ? StatusNotice : GatewayEvent) => void} handler
   */
  const on = (type, handler) => {
    const listener = (/** @type {any} */ { detail }) => detail && handler(detail);
    target.addEventListener(type, listener);
    return () => target.removeEventListener(type, listener);
  };

  /** @param {Status} next @param {Partial<StatusNotice>} [more] */
  const setStatus = (next, more) => {
    if (/ed$/.test(status) || (!more && next === status)) return; // stopped and closed are final
    status = next;
    if (leading) report();
    emit("status", { status, ...more });
  };

  // What is followed

  /** @param {string | undefined} channel */
  const find = (channel) => places.find((place) => place.channel === channel);

  /** The channels for which this connection has not brought everything yet. */
  const pending = () => places.filter((place) => place.ready !== signal);

  /** @returns {Cursors} */
  const cursors = (some = places) => Object.fromEntries(some.map(({ channel, cursor }) => [channel, cursor]));

  /** Follow another channel. @param {string} channel */
  const follow = (channel) => {
    const place = find(channel);
    if (place?.mine || ended.aborted) return;
    if (place) unfollowed[channel] = true; // only other tabs follow it, and for this one it starts again from `since`
    places = places.filter((other) => other !== place);
    add(channel, since, true);
    subscribe(); // and report, because this tab is behind the others now: they may need connections of their own
  };

  /** Start to follow from this cursor. @param {string} channel @param {string | undefined} cursor @param {boolean} [mine] */
  const add = (channel, cursor, mine) => {
    const place = /** @type {Followed} */ ({ channel, cursor: "" + cursor, mine });
    // The catch is there because nobody may be waiting for it.
    (place.done = new Promise((resolve, reject) => Object.assign(place, { resolve, reject }))).catch(() => {});
    places.push(place);
    if (unfollowed[channel] && (openSince || asked)) reconnect();
  };

  /**
   * Stop following a channel, for the other tabs too if it was refused. If the reason names no channel, for instance because there are
   * too many, stop following all that only other tabs follow. Returns one of those that were dropped, if any.
   * @param {Problem} reason
   */
  const drop = (reason) => {
    const some = places.filter(({ channel, mine }) => (reason.channel ? reason.channel === channel : !mine));
    for (const place of some) {
      place.reject(reason);
      place.mine = false;
      if (reason.status) refused[place.channel] = "";
    }
    reconcile(); // also if none was: what was asked for together with this channel is asked for again
    return some[0];
  };

  /**
   * Tell the other tabs and the gateway what has changed, once for all that is followed and unfollowed together. Only a WebSocket takes
   * commands; otherwise reconnect for the channels that are new here. What is followed before the gateway has answered is asked for after
   * that: a channel that is asked for twice begins anew, and its gap and the events after it would come twice.
   */
  const subscribe = async () => {
    const call = await ++calls;
    if (call < calls) return; // the last call does it
    report();
    if (leaving[0]) send?.({ op: "unsubscribe", channels: leaving });
    leaving = [];
    if (pending()[0] && asked !== signal) asked = (send ?? reconnect)({ op: "subscribe", channels: cursors(pending()) });
  };

  /** Connect again at once. */
  const reconnect = () => cut(CHANGED);

  /** Follow what this tab and the others want, and nothing else. */
  const reconcile = () => {
    const others = /** @type {Cursors} */ (Object.assign({}, ...Object.values(wants), refused));
    places = places.filter(({ channel, mine }) => mine || others[channel] || !(unfollowed[channel] = leaving.push(channel)));
    for (const channel in others) if (others[channel] && !find(channel)) add(channel, others[channel]);
    subscribe();
  };

  /** Handle a message, whatever brought it. @param {any} message */
  const receive = (message) => {
    if (signal.aborted && !listening) return; // the rest of a chunk from a connection that was cut
    const { op, channels, channel } = message;
    const place = find(channel);
    heard();
    if (/bye|error/.test(op)) asked = (channel ? drop : cut)(problem(message));
    else {
      if (leading) {
        // A gap of the leader's may be none for a tab that is further. By this report, with 00, such a tab finds out by itself, and only one
        // that is at 00 too still listens when the gap comes.
        if (op && place && advance(place, message)) report();
        broadcast(message);
      }
      if (channels) {
        asked = reach(places, channels, signal);
        if (pending()[0]) subscribe();
      } else if (place && advance(place, message) && place.mine) {
        if (op) emit(op, message);
        else {
          place.last = message;
          if (message.final) place.resolve(message);
          if (!/^(gap|status)$/.test(message.type)) emit(message.type, message);
          emit("*", message);
        }
      }
    }
    checkLive();
  };

  /** Once everything has been brought, be live, and ask the leader whether this tab can listen to it. */
  const checkLive = () => {
    if (pending()[0]) return;
    if (!listening) setStatus("live");
    if (!reported) report();
    reported = bus; // before there is one, nobody hears it
  };

  // Tabs

  /** Find the other tabs. Different users share nothing. Without a token there may be a cookie, and that is the same in all tabs. */
  const joinTabs = () => {
    const key = share ?? (token ? claims(bearer).sub : "");
    if (tab || !(/** @type {any} */ (key)?.at) || !locks) return; // what has `at` is a text
    // Each tab holds a lock of its own, so that the leader notices when the tab is gone.
    holdLock((tab = name + Math.random()), () => {
      bus = new BroadcastChannel(name + key);
      bus.onmessage = ({ data }) => (data.from ? leading && hearTab(data) : leading || hearLeader(data));
      checkLive();
      holdLock(name + key, () => {
        leading = true;
        report(true);
        if (listening) reconnect();
      });
    });
  };

  const untilClosed = new Promise((resolve) => (ended.onabort = resolve));

  /** Take a lock as soon as it is free, and hold it until the feed is closed. @param {string} lock @param {() => void} then */
  const holdLock = (lock, then) =>
    locks
      .request(lock, { signal: ended }, () => {
        then();
        return untilClosed;
      })
      .catch(() => {});

  /** @param {object} message */
  const broadcast = (message) => bus?.postMessage(message);

  /** @param {any} [rouse] */
  const report = (rouse) => broadcast({ status, channels: cursors(), rouse, from: !leading && tab });

  /** As the leader: follow what another tab reports, from its cursors if it is new here, as long as that tab lives. @param {any} report */
  const hearTab = ({ from, channels, rouse }) => {
    if (rouse) wake();
    if (!wants[from])
      holdLock(from, () => {
        delete wants[from];
        reconcile();
      });
    wants[from] = channels;
    reconcile();
  };

  /**
   * Hear the leader. This tab can listen to it if the leader is not further than this tab on any channel, for then it has missed nothing
   * that the leader passed on. After a gap the leader's cursor is 00: a tab with another cursor has not been told of the gap yet, or has
   * yet to get what came before it.
   * @param {any} message
   */
  const hearLeader = (message) => {
    const { status, rouse, channels } = message;
    if (status) {
      const near = places.every(({ channel, cursor }) => channels[channel] <= +cursor && (+channels[channel] || channels[channel] === cursor));
      if (near !== listening) reconnect();
      listening = near;
      if (near) setStatus(status);
      reported = near && !rouse;
      if (rouse) checkLive();
    }
    if (listening) receive(message);
  };

  // Reconnecting

  /** Stay connected: after each loss wait and reconnect, or stop, depending on the reason. */
  const run = async () => {
    let failures = 0;
    let denied;
    while (!ended.aborted) {
      try {
        if (listening) {
          report(); // A leader that was put to sleep does not answer. Then this tab connects by itself.
          await pause(ANSWER, report);
          reported = listening = false;
        } else await (places[0] ? connectOnce() : pause(LONGEST));
      } catch (/** @type {any} */ error) {
        if (ended.aborted || error === CHANGED) continue;
        const reason = error?.status >= 0 ? error : problem({ reason: error });
        const next = action(reason.status);
        if (next === "stop" && drop(reason)) continue;
        if (openSince && Date.now() - openSince > STEADY) failures = 0;
        // If a connection is refused with 401, try once more: a function may return a new token, and a cookie may have been renewed.
        if (next === "stop" || (next === "token" && ((denied && !openSince) || /** @type {any} */ (token)?.at))) return end("stopped", reason);
        denied = next === "token" && !openSince;
        const retry = delay(failures++, reason);
        setStatus("waiting", { retry, problem: reason });
        // Following another channel must not end the wait, nor must the user's return to the tab, if the gateway asked for the wait.
        await new Promise((resolve) => enter(retry, resolve, !reason.after && resolve, () => {}));
      }
    }
  };

  /** Wait, unless there is a reason to go on earlier. @param {number} milliseconds @param {() => void} [asks] */
  const pause = (milliseconds, asks) =>
    new Promise((resolve) => enter(milliseconds, resolve, asks ?? resolve));

  /**
   * Begin to wait or to connect, for so long at most.
   * @param {number} milliseconds @param {any[]} how `cut`, which ends it, then `ping` and `send`
   */
  const enter = (milliseconds, ...how) => {
    [cut, ping, send] = how;
    openSince = asked = 0;
    startTimer(milliseconds);
  };

  /** Stop waiting, or test whether the connection is alive. @param {string} [type] of the page's event that was the reason */
  const wake = (type) => {
    if (ping) {
      ping(type);
      startTimer(ANSWER);
    } else if (type === "online") reconnect();
  };

  /** There is one timer, and each call sets it anew. @param {number} milliseconds @param {() => void} [then] */
  const startTimer = (milliseconds, then = cut) => {
    clearTimeout(timer);
    timer = setTimeout(then, milliseconds);
  };

  /** Something was received: the connection is alive. */
  const heard = () => {
    if (!openSince && !listening) {
      openSince = Date.now();
      try {
        if (transport > best) reconnect();
        else if (transport !== remembered()) memory[name + transport] = openSince + KEPT;
      } catch {
        // The storage is full.
      }
      best = transport;
    }
    startTimer(ping ? quiet : quiet * 2 + ANSWER, ping && wake);
  };

  /** The transport that got through last time, if that was not long ago. */
  const remembered = () => [2, 1].find((transport) => memory[name + transport] > Date.now()) || 0;

  /** @param {Status} last @param {Problem} [reason] */
  const end = (last, reason = problem({ reason: last })) => {
    if (ended.aborted) return;
    closing.abort(reason);
    bus = /** @type {any} */ (bus?.close());
    cut(reason);
    clearTimeout(timer);
    clearTimeout(renewal);
    places.map((place) => place.reject(reason));
    places = [];
    setStatus(last, { problem: reason });
    emit("*");
  };

  // Connections

  const connectOnce = async () => {
    await new Promise((resolve, reject) => {
      enter(PATIENCE, reject, 0, () => {}); // what is followed by the time there is a token is asked for then
      getToken().then(resolve, reject);
    });
    for (transport = remembered(); places[0]; transport++) {
      joinTabs();
      const attempt = new AbortController();
      signal = attempt.signal;
      unfollowed = {};
      enter(ANSWER, (reason = "no answer") => attempt.abort(reason));
      try {
        await /** @type {() => Promise<void>} */ ([socket, stream, polls][transport])();
      } catch (/** @type {any} */ error) {
        if (openSince || transport > 1 || action(error.status) !== "retry") throw error;
      }
    }
  };

  const socket = async () => {
    send = () => {}; // once the socket is open, it asks for all that is followed by then
    // A token in the URL would end up in the logs of every proxy. A ticket can be used only once.
    const ticket = bearer ? "ticket=" + (await (await request("tickets?", "POST")).json()).ticket : "";
    const socket = new WebSocket(base.replace("http", "ws") + "ws?" + ticket);
    await new Promise((_, reject) => {
      signal.onabort = () => {
        send = /** @type {any} */ (socket.close()); // that is undefined: what is followed from now on is for the next connection
        reject(signal.reason);
      };
      // Chromium fires no close event where a Content-Security-Policy forbids the connection.
      socket.onerror = socket.onclose = (/** @type {any} */ end) => reject(problem(end));
      socket.onmessage = ({ data }) => receive(JSON.parse(data));
      socket.onopen = () => {
        send = (command) => (socket.send(JSON.stringify(command)), signal);
        ping = () => send?.({ op: "ping" });
        ping();
        subscribe();
      };
    });
  };

  const stream = async () => {
    const body = /** @type {ReadableStream} */ ((await request("sse?" + query(cursors()))).body);
    await body.pipeThrough(new TextDecoderStream()).pipeTo(new WritableStream({ write: reader(receive) }));
    throw "closed";
  };

  const polls = async () => {
    // A poll says nothing while it waits: 25 s, unless the silence after which the connection is tested is another.
    for (let wait = 0; places[0]; wait = quiet / 800) {
      const { events, channels, gaps } = await (await request("poll?" + query(cursors()) + "&wait=" + wait)).json();
      gaps.map((/** @type {string} */ channel) => receive({ channel, op: "gap" }));
      events.map(receive);
      receive({ channels });
    }
    throw CHANGED; // everything was unfollowed while the poll waited
  };

  /**
   * The number makes each address another one: a service worker of the page's that answers from its cache would let the page poll
   * without a pause, and hear nothing new.
   * @param {string} path with its query @param {string} [method]
   */
  const request = async (path, method) => {
    const response = await fetch(base + path + "&" + Math.random(), {
      signal,
      method,
      credentials: "include",
      headers: /** @type {HeadersInit} */ (bearer ? { authorization: "Bearer " + bearer } : {}),
    });
    if (response.ok) return response;
    throw problem({
      ...(await response.json().catch(() => {})),
      status: response.status,
      after: /** @type {any} */ (response.headers.get("retry-after")) | 0,
    });
  };

  /** Get a token, and another one before it expires, which is sent over the open WebSocket. */
  const getToken = async () => {
    bearer = await (/** @type {any} */ (token)?.call ? /** @type {any} */ (token)() : token);
    if (bearer) send?.({ op: "auth", token: bearer });
    const remaining = /** @type {number} */ (claims(bearer).exp) * 1_000 - Date.now();
    clearTimeout(renewal);
    // If this machine's clock is fast, a new token seems to have expired already. Then wait until the gateway says so.
    // Once the feed is closed, nothing is renewed.
    if (places[0] && remaining > 0) renewal = setTimeout(() => send && getToken().catch(() => {}), Math.min(remaining * 0.8, LONGEST));
  };

  for (const channel of channels) follow(channel);
  for (const type of ["online", "visibilitychange", "pageshow", "pagehide"])
    globalThis.addEventListener?.(
      type,
      // A page in the browser's back/forward cache receives nothing, and may keep the leader's lock. So a leader that goes there says
      // that it follows nothing, and each of the other tabs connects by itself.
      (/** @type {any} */ event) => (event.persisted ? (leading && broadcast({ status, channels: {} }), reconnect()) : wake(type)),
      { signal: ended },
    );
  run();

  return {
    on,
    follow,

    /** Stop following a channel. @param {string} channel */
    unfollow(channel) {
      drop(problem({ reason: "unfollowed", channel }));
    },

    /** Follow a channel and wait for its final event. Rejects with a `Problem` if it cannot be had. @param {string} channel */
    done(channel) {
      follow(channel);
      return find(channel)?.done ?? Promise.reject(ended.reason);
    },

    /** The newest event received on a channel. @param {string} channel */
    last: (channel) => find(channel)?.last,

    get status() {
      return status;
    },

    /** Close the connection and release everything. */
    close: () => end("closed"),

    /** All events as they arrive. Ends when the feed is closed; throws the `Problem` if the feed has stopped. */
    async *[Symbol.asyncIterator]() {
      /** @type {GatewayEvent[]} */
      const events = [];
      const off = on("*", (event) => events.push(event));
      try {
        while (events[0] || !ended.aborted) {
          if (events[MOST]) throw problem({ reason: "too slow" });
          if (events[0]) yield /** @type {GatewayEvent} */ (events.shift());
          else await new Promise((resolve) => target.addEventListener("*", resolve, { once: true }));
        }
        if (status === "stopped") throw ended.reason;
      } finally {
        off();
      }
    },
  };
}
