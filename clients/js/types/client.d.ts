/**
 * Follow channels of the gateway at this address, until closed.
 * @param {string | URL} url @param {Options} [options]
 */
export function connect(url: string | URL, { channels, token, since, share, quiet }?: Options): {
    on: <T extends string>(type: T, handler: (value: T extends "gap" ? Gap : T extends "status" ? StatusNotice : GatewayEvent) => void) => () => void;
    follow: (channel: string) => void;
    /** Follow a channel no more. @param {string} channel */
    unfollow(channel: string): void;
    /** The final event of a channel, which is followed for it. Rejects with a `Problem` if it cannot be had. @param {string} channel */
    done(channel: string): Promise<GatewayEvent>;
    /** The newest event that has come on a channel. @param {string} channel */
    last: (channel: string) => GatewayEvent | undefined;
    readonly status: Status;
    /** Let go of everything. */
    close: () => void;
    /** All events as they come. Ends when the feed is closed, and throws the `Problem` for which it has stopped. */
    [Symbol.asyncIterator](): AsyncGenerator<GatewayEvent, void, unknown>;
};
export function action(code: any): "token" | "stop" | "later" | "retry";
export function delay(failures: number, { status, after }: {
    status: number;
    after: number;
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
 * Events of this channel are missing before the next one: load its state from your own backend, and go on.
 */
export type Gap = {
    op: "gap";
    channel: string;
};
export type Status = "connecting" | "live" | "waiting" | "stopped" | "closed";
/**
 * `retry`: milliseconds until the next attempt. `problem`: why it waits, or has stopped.
 */
export type StatusNotice = {
    status: Status;
    retry?: number;
    problem?: Problem;
};
/**
 * `status`: an HTTP status or a close code, 0 for a network that failed. `after`: seconds, from Retry-After.
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
     * a JSON Web Token, or what gives one: called for each connection,
     * before the token expires, and once more if it was refused
     */
    token?: Token | (() => Token | Promise<Token>);
    /**
     * where to begin: `last` (the newest event of each channel), `0` (all), `now` (nothing old), or a cursor
     */
    since?: string | undefined;
    /**
     * `false`: a connection of its own; a text: tabs share one by this name, not by the token's `sub`
     */
    share?: string | false | undefined;
    /**
     * milliseconds of silence after which the connection is tested: 20,000, not less than the gateway's heartbeat
     */
    quiet?: number | undefined;
};
export type Feed = ReturnType<typeof connect>;
/**
 * by channel
 */
export type Cursors = Record<string, string>;
/**
 * where a client is in a channel
 * `ready`: the connection over which all that was there has come.
 */
export type Place = {
    channel: string;
    cursor: string;
    ready?: object;
};
/**
 * `mine`: by this tab, not only by others.
 */
export type Followed = Place & {
    mine?: boolean;
    last?: GatewayEvent;
    done: Promise<GatewayEvent>;
    resolve: (event: GatewayEvent) => void;
    reject: (problem: Problem) => void;
};
/**
 * of a tab to the others
 * `from`: which tab, if it does not lead. `channels`: what it follows, and how far it is. `rouse`: a leader that is new asks for
 * the others' reports; another tab, to which the user has come back, asks whether the leader's connection is alive.
 */
export type Report = {
    from: string | false;
    status: Status;
    channels: Cursors;
    rouse?: any;
};
