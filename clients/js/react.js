// useJob(channel): the state of a job in a React component. All components of a page share one feed.

import { createContext, useContext, useMemo, useSyncExternalStore } from "react";
import { connect } from "./client.js";

/** @typedef {import("./client.js").Feed} Feed @typedef {import("./client.js").GatewayEvent} GatewayEvent */

/**
 * @typedef {object} Job
 * @property {import("./client.js").Status} status of the connection
 * @property {GatewayEvent} [event] the newest event
 * @property {number} [progress] the newest `data.percent`
 * @property {GatewayEvent} [final] the final event, once the job is over
 * @property {Error} [error] why it cannot be followed
 */

/**
 * The feed for the components below: `<FeedContext.Provider value={feed}>`, with `feed = connect("/", { token })` called once, outside
 * any component. Without a provider, they follow the gateway at the page's own origin.
 */
export const FeedContext = createContext(/** @type {Feed | undefined} */ (undefined));

/** @type {Feed | undefined} */
let own;

/** @type {Job} */
const NOTHING = { status: "connecting" };

/** @type {WeakMap<Feed, Map<string, Store>>} */
const stores = new WeakMap();

/** What is known about one channel, for all components that show it. */
class Store {
  job = NOTHING;
  /** @type {Set<() => void>} */
  #listeners = new Set();
  /** @type {(() => void)[]} */
  #offs = [];

  /** @param {Feed} feed @param {string} channel */
  constructor(feed, channel) {
    this.feed = feed;
    this.channel = channel;
  }

  /** @param {() => void} listener */
  add(listener) {
    this.#listeners.add(listener);
    if (!this.#offs[0]) this.#follow();
    return () => {
      this.#listeners.delete(listener);
      // React may bring the next listener at once, as under StrictMode. To follow the channel anew would take another connection.
      queueMicrotask(() => this.#listeners.size || this.#leave());
    };
  }

  /** @param {Partial<Job>} change */
  #change(change) {
    this.job = { ...this.job, ...change };
    for (const listener of [...this.#listeners]) listener();
  }

  /** @param {GatewayEvent} event */
  #take(event) {
    const { percent } = Object(event.data);
    this.#change({
      event,
      ...(typeof percent === "number" && { progress: percent }),
      ...(event.final && { final: event }),
    });
  }

  #follow() {
    const { feed, channel } = this;
    this.#offs = [
      feed.on("*", (event) => event.channel === channel && this.#take(event)),
      feed.on("status", ({ status }) => this.#change({ status })),
    ];
    feed.follow(channel);
    const offs = this.#offs;
    feed.done(channel).catch((error) => this.#offs === offs && this.#change({ error }));
    this.#change({ status: feed.status, error: undefined });
    const last = feed.last(channel);
    if (last && last !== this.job.event) this.#take(last);
  }

  #leave() {
    if (!this.#offs[0]) return;
    for (const off of this.#offs) off();
    this.#offs = [];
    this.feed.unfollow(this.channel);
  }
}

/** @param {Feed | undefined} given @param {string} channel */
function storeOf(given, channel) {
  const feed = given ?? (own ??= connect("/"));
  const found = stores.get(feed) ?? new Map();
  stores.set(feed, found);
  const store = found.get(channel) ?? new Store(feed, channel);
  found.set(channel, store);
  return store;
}

/**
 * Follow a job while the component is mounted. With `null` or an empty channel nothing is followed yet.
 * @param {string | null | undefined} channel @returns {Job}
 */
export function useJob(channel) {
  const feed = useContext(FeedContext);
  const [subscribe, read] = useMemo(() => {
    /** @type {Store} */
    let store;
    // The feed is made in an effect, because a server, which renders without effects, must not connect.
    const subscribe = (/** @type {() => void} */ listener) => {
      if (!channel) return () => {};
      return (store = storeOf(feed, channel)).add(listener);
    };
    return [subscribe, () => store?.job ?? NOTHING];
  }, [feed, channel]);
  return useSyncExternalStore(subscribe, read, () => NOTHING);
}
