/**
 * Follow a job while the component is mounted. With `null` or an empty channel nothing is followed yet.
 * @param {string | null | undefined} channel @returns {Job}
 */
export function useJob(channel: string | null | undefined): Job;
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
export const FeedContext: import("react").Context<{
    on: <T extends string>(type: T, handler: (value: T extends "gap" ? Gap : T extends "status" ? StatusNotice : import("./client.js").GatewayEvent) => void) => () => void;
    follow: (channel: string) => void;
    unfollow(channel: string): void;
    done(channel: string): Promise<import("./client.js").GatewayEvent>;
    last: (channel: string) => import("./client.js").GatewayEvent | undefined;
    readonly status: import("./client.js").Status;
    close: () => void;
    [Symbol.asyncIterator](): AsyncGenerator<import("./client.js").GatewayEvent, void, unknown>;
} | undefined>;
export type Feed = import("./client.js").Feed;
export type GatewayEvent = import("./client.js").GatewayEvent;
export type Job = {
    /**
     * of the connection
     */
    status: import("./client.js").Status;
    /**
     * the newest event
     */
    event?: import("./client.js").GatewayEvent | undefined;
    /**
     * the newest `data.percent`
     */
    progress?: number | undefined;
    /**
     * the final event, once the job is over
     */
    final?: import("./client.js").GatewayEvent | undefined;
    /**
     * why it cannot be followed
     */
    error?: Error | undefined;
};
