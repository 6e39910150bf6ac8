// Feed: one WebSocket for all channels. It remembers each channel's cursor, comes back after every loss,
// and stops where coming back would not help.

const FIRST_DELAY = 500; // milliseconds; twice as much after each failure, and a random part of that
const LONGEST_DELAY = 20_000;
const STEADY = 10_000; // so long a connection must have held for the delays to begin anew
const OPEN_WITHIN = 10_000;
const PING_EVERY = 20_000;
const PONG_WITHIN = 8_000;
const OVERLOADED = 1013;

/** Whether a close code says: do not retry as is. */
const isFinal = (code) => code >= 4400 && code <= 4403;

/**
 * @typedef {{type: string, data: any, final?: true, channel: string, id?: string}} GatewayEvent
 * @typedef {{name: "connecting" | "live" | "reconnecting" | "stopped", at?: number, reason?: string, missed?: number}} State
 */
export class Feed {
  #url;
  #on;
  #cursors = new Map(); // channel -> cursor, null before the first answer
  #socket = null;
  #ref = 0;
  #failures = 0;
  #liveSince = 0;
  #missed = null; // events since a reconnect, until its ready
  #retry = 0;
  #watch = 0;
  #ping = 0;

  /**
   * @param {string} url of the gateway's /ws
   * @param {{event: (e: GatewayEvent) => void, gap: (channel: string) => void, ready: (channels: string[]) => void,
   *   state: (s: State) => void, problem: (p: {title: string, detail?: string, channel?: string}) => void}} on
   */
  constructor(url, on) {
    this.#url = url;
    this.#on = on;
  }

  /** Follow channels from now on; the newest event of each comes first. */
  follow(channels) {
    const fresh = channels.filter((channel) => !this.#cursors.has(channel));
    for (const channel of fresh) this.#cursors.set(channel, null);
    if (fresh.length && this.#isOpen()) this.#subscribe(fresh);
  }

  leave(channel) {
    if (this.#cursors.delete(channel) && this.#isOpen()) this.#send({ op: "unsubscribe", channels: [channel] });
  }

  /** Connect, at once. */
  connect() {
    this.#forget();
    this.#on.state({ name: "connecting" });
    const socket = new WebSocket(this.#url);
    this.#socket = socket;
    this.#watch = setTimeout(() => this.#lost(1006, "no answer"), OPEN_WITHIN);
    socket.onopen = () => {
      if (this.#cursors.size) this.#subscribe([...this.#cursors.keys()]);
    };
    socket.onmessage = ({ data }) => this.#take(JSON.parse(data));
    socket.onclose = ({ code, reason }) => this.#lost(code, reason);
  }

  /** Lose the connection on purpose, and stay away for a while. */
  drop(milliseconds) {
    this.#forget();
    this.#wait(milliseconds);
  }

  /** There is reason to think that it would work now: do not wait any longer. */
  wake() {
    if (this.#retry) this.connect();
  }

  #isOpen() {
    return this.#socket?.readyState === WebSocket.OPEN;
  }

  #send(command) {
    this.#socket.send(JSON.stringify(command));
  }

  #subscribe(channels) {
    const cursors = Object.fromEntries(channels.map((channel) => [channel, this.#cursors.get(channel)]));
    this.#send({ op: "subscribe", channels: cursors, ref: ++this.#ref });
  }

  #take(message) {
    if (message.channel !== undefined && message.op === undefined) return this.#event(message);
    switch (message.op) {
      case "ready":
        return this.#ready(message.channels);
      case "gap":
        return this.#on.gap(message.channel);
      case "error":
        // Not asked for again: the answer would be the same.
        if (message.channel !== undefined) this.#cursors.delete(message.channel);
        return this.#on.problem(message);
      case "pong":
        clearTimeout(this.#watch);
    }
  }

  #event(event) {
    if (!this.#cursors.has(event.channel)) return; // left, and the gateway had not heard of it yet
    if (event.id !== undefined) this.#cursors.set(event.channel, event.id);
    if (this.#missed !== null) this.#missed += 1;
    this.#on.event(event);
  }

  #ready(channels) {
    for (const [channel, cursor] of Object.entries(channels)) {
      if (this.#cursors.has(channel)) this.#cursors.set(channel, cursor);
    }
    if (!this.#liveSince) {
      this.#liveSince = Date.now();
      clearTimeout(this.#watch);
      this.#ping = setInterval(() => this.#askIfAlive(), PING_EVERY);
      this.#on.state({ name: "live", missed: this.#missed ?? undefined });
      this.#missed = null;
    }
    this.#on.ready(Object.keys(channels));
  }

  #askIfAlive() {
    // A network that went away without a word leaves the socket open for minutes.
    this.#send({ op: "ping" });
    this.#watch = setTimeout(() => this.#lost(1006, "no answer"), PONG_WITHIN);
  }

  #lost(code, reason) {
    if (this.#liveSince && Date.now() - this.#liveSince > STEADY) this.#failures = 0;
    this.#forget();
    if (isFinal(code)) return this.#on.state({ name: "stopped", reason: reason || `close code ${code}` });
    if (code === OVERLOADED) this.#failures = Math.max(this.#failures, 3);
    // Full jitter: those who lost it together do not come back together.
    this.#wait(Math.random() * Math.min(LONGEST_DELAY, FIRST_DELAY * 2 ** this.#failures));
    this.#failures += 1;
  }

  #wait(milliseconds) {
    this.#missed = 0;
    this.#retry = setTimeout(() => this.connect(), milliseconds);
    this.#on.state({ name: "reconnecting", at: Date.now() + milliseconds });
  }

  /** Let go of the socket and of every timer. */
  #forget() {
    clearTimeout(this.#retry);
    clearTimeout(this.#watch);
    clearInterval(this.#ping);
    this.#retry = 0;
    this.#liveSince = 0;
    const socket = this.#socket;
    this.#socket = null;
    if (socket) {
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close();
    }
  }
}
