// Tabs: all tabs of one browser share one connection. Loaded by client.js.
//
// One tab leads, the one that holds a Web Lock. It follows the channels of all, and hands on by BroadcastChannel what comes. The
// rule is the gateway's: a tab that may have missed something has a connection of its own, from its own cursors, until it is where
// the leader is; then it listens to the leader.

/**
 * @typedef {object} Core What client.js lends.
 * @property {AbortSignal} ended
 * @property {Map<string, object>} places
 * @property {(all?: boolean) => [string, string][]} cursors
 * @property {(others: Map<string, string>) => void} cover
 * @property {() => void} change
 * @property {() => void} settle
 * @property {(message: any) => void} take
 * @property {(status: any) => void} say
 * @property {() => void} wake
 * @property {(milliseconds: number, asks: () => void) => Promise<any>} pause
 *
 * @typedef {ReturnType<typeof meet>} Tabs
 */

const ANSWER = 5_000; // milliseconds for the leader to say the first word

/** Meet the tabs of the same name. @param {string} name @param {Core} core */
export function meet(name, { ended, cursors, places, cover, change, settle, take, say, wake, pause }) {
  const me = Math.random();
  const bus = new BroadcastChannel(name);
  let leading = false;
  let merged = false; // this tab listens to the leader
  let away = false; // the page was left, and may be kept
  /** @type {WeakMap<object, number>} */
  let heard = new WeakMap(); // how far the leader is
  /** @type {Map<number, [string, string][]>} */
  const wants = new Map(); // what the other tabs follow, and how far they were
  /** @type {Set<string>} */
  const refused = new Set(); // what of that this one may not

  const tell = (/** @type {object} */ message) => ended.aborted || away || bus.postMessage(message);

  /** Tell the leader what this tab follows, and how far it is: so the leader can begin there. */
  const want = (followed = cursors(true)) => tell({ from: me, want: followed });

  /** What other tabs follow, and this one may. */
  const wanted = () => new Map([...wants.values()].flat().filter(([channel]) => !refused.has(channel)));

  /** Have the other tabs see for themselves how far they are, and say again what they want. */
  const renew = () => tell({ lead: true });

  /** Know nothing of the leader any more. */
  function part() {
    merged = false;
    heard = new WeakMap();
  }

  bus.onmessage = ({ data }) => (leading ? serve(data) : hear(data));

  /** From a tab, as the leader. @param {{from: number, want?: [string, string][]}} message */
  function serve({ from, want }) {
    if (!want) return wake();
    wants.set(from, want);
    cover(wanted());
    tell({ op: "ready", channels: Object.fromEntries(cursors(true)) });
  }

  /** From the leader. @param {any} message */
  function hear(message) {
    if (message.lead) {
      if (merged) change();
      part();
      want();
    } else if (merged) {
      if (message.status) say(message.status);
      else take(message);
    } else {
      note(message);
      settle();
    }
  }

  /** How far the leader is on a channel, if it follows that. @param {string} channel */
  function reached(channel) {
    const place = places.get(channel);
    return place && heard.get(place);
  }

  /** @param {any} message */
  function note({ channel, id, channels = id && reached(channel) !== undefined ? { [channel]: id } : {} }) {
    for (const name in channels) {
      const place = places.get(name);
      const position = Number(channels[name]); // none of a channel that it has only just begun with
      if (place && position >= 0) heard.set(place, position);
    }
  }

  function lead() {
    leading = true;
    renew();
    if (merged) change();
    return new Promise((resolve) => (ended.onabort = resolve));
  }

  ended.addEventListener("abort", () => bus.close());
  const listen = globalThis.addEventListener ?? (() => {}); // no page, as in Node
  listen("pagehide", () => (want([]), (away = true)), { signal: ended });
  listen("pageshow", () => (away = false), { signal: ended });
  // The browser slows down a tab that nobody looks at: the leader may not have noticed yet that its connection is gone.
  listen("visibilitychange", () => leading || tell({ wake: true }), { signal: ended });
  navigator.locks.request(name, { signal: ended }, lead).catch(() => {});
  want();

  return {
    want,
    wanted,
    renew,

    /** Listen to the leader as long as it answers, if this tab is where the leader is. One that was put to sleep says nothing. */
    listen() {
      if (!merged) return undefined;
      want();
      return pause(ANSWER, want).then(part);
    },

    /** Hand on what came, or ask the leader whether it has that, too. @param {any} message */
    relay(message) {
      if (leading) tell(message);
      else if (message.op === "ready" && !merged) want();
    },

    /** Whether this tab can listen to the leader from now on: nothing that it lacks was told before. */
    near() {
      if (leading || merged || !places.size) return false;
      merged = cursors(true).every(([channel, cursor]) => Number(reached(channel)) <= Number(cursor));
      return merged;
    },

    /** This tab may not read a channel that another one wants. @param {string} channel */
    refuse(channel) {
      refused.add(channel);
      renew();
    },
  };
}
