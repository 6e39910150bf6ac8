/**
 * Follow channels of the gateway at this address, until the feed is closed.
 * @param {string | URL} url @param {Options} [options]
 */
export function connect(url: string | URL, { channels, token, since, share, quiet }?: Options): {
    on: <T extends string>(type: T, handler: (value: T extends "gap" ? Gap : T extends "status" ? StatusNotice : GatewayEvent) => void) => () => void;
    follow: (channel: string) => void;
    /** Stop following a channel. @param {string} channel */
    unfollow(channel: string): void;
    /** Follow a channel and wait for its final event. Rejects with a `Problem` if it cannot be had. @param {string} channel */
    done(channel: string): Promise<GatewayEvent>;
    /** The newest event received on a channel. @param {string} channel */
    last: (channel: string) => GatewayEvent | undefined;
    readonly status: Status;
    /** Close the connection and release everything. */
    close: () => void;
    /** All events as they arrive. Ends when the feed is closed; throws the `Problem` if the feed has stopped. */
    [Symbol.asyncIterator](): AsyncGenerator<GatewayEvent, void, unknown>;
};
export function action(code: any): "token" | "stop" | "later" | "retry";
export function delay(failures: number, { status, after }: {
    status: number;
    after?: number;
}): number;
export function locate(url: string | URL): string;
export function query(cursors: Cursors): URLSearchParams;
export function reader(take: (value: any) => void): (chunk: string) => void;
export function advance(place: Place, { op, id }: {
    op?: string;
    id?: string;
}): boolean;
export function reach(places: Place[], channels: Cursors, connection: object): void;
export type GatewayEvent = {
    type: string;
    data: any;
    final?: true;
    channel: string;
    id?: string;
    op?: undefined;
};
/**
 * Events of this channel were lost before the next one. Load the state from your own backend, and go on.
 */
export type Gap = {
    op: "gap";
    channel: string;
};
export type Status = "connecting" | "live" | "waiting" | "stopped" | "closed";
/**
 * `retry`: milliseconds until the next attempt. `problem`: why it is waiting, or has stopped.
 */
export type StatusNotice = {
    status: Status;
    retry?: number;
    problem?: Problem;
};
/**
 * `status`: an HTTP status or a WebSocket close code; 0 if the network failed. `after`: the seconds of Retry-After.
 */
export type Problem = Error & {
    status: number;
    channel?: string;
    after: number;
};
export type Token = string | null | undefined;
export type Options = {
    /**
     * what to follow from the start
     */
    channels?: Iterable<string> | undefined;
    /**
     * a JSON Web Token, or a function that returns one. The function is called
     * for each connection, before the token expires, and once more if the token was refused
     */
    token?: Token | (() => Token | Promise<Token>);
    /**
     * where to begin: `last` (the newest event of each channel), `0` (all), `now` (only new events), or a cursor
     */
    since?: string | undefined;
    /**
     * `false`: this tab has a connection of its own. A string: tabs with the same string share a
     * connection, instead of those whose tokens have the same `sub`
     */
    share?: string | false | undefined;
    /**
     * milliseconds of silence after which the connection is tested, 20,000 unless given; not less than the
     * gateway's heartbeat
     */
    quiet?: number | undefined;
};
export type Feed = ReturnType<typeof connect>;
/**
 * by channel
 */
export type Cursors = Record<string, string>;
/**
 * how far a client is in a channel
 * `ready`: the connection that has brought everything up to the cursor.
 */
export type Place = {
    channel: string;
    cursor: string;
    ready?: object;
};
/**
 * `mine`: followed by this tab, and not only by others.
 */
export type Followed = Place & {
    mine?: boolean;
    last?: GatewayEvent;
    done: Promise<GatewayEvent>;
    resolve: (event: GatewayEvent) => void;
    reject: (problem: Problem) => void;
};
/**
 * what a tab tells the others
 * `from`: the tab, unless it is the leader. `channels`: what it follows, with its cursors. `rouse`: a new leader asks the other tabs
 * for their reports; a tab to which the user has returned asks the leader to test its connection.
 */
export type Report = {
    from: string | false;
    status: Status;
    channels: Cursors;
    rouse?: any;
};
