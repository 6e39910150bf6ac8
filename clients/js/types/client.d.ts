/** What to do after a close code or a status. @param {number} code */
export function action(code: number): "token" | "stop" | "later" | "retry";
/**
 * Milliseconds before the next attempt. Full jitter: those who lost it together do not come back together.
 * @param {number} failures @param {{status: number, after: number}} problem
 */
export function delay(failures: number, { status, after }: {
    status: number;
    after: number;
}): number;
/**
 * Takes the chunks of an event stream and gives its data as values. The gateway writes the JSON of each on one line, with all
 * that the stream's other fields say.
 * @param {(value: any) => void} take @returns {(chunk: string) => void}
 */
export function reader(take: (value: any) => void): (chunk: string) => void;
/** Whether an event or a gap is news on a channel; moves its cursor. @param {Cursor} place @param {{op?: string, id?: string}} message */
export function advance(place: Cursor, message: {
    op?: string;
    id?: string;
}): boolean;
/** The gateway is ready up to these ids. @param {Map<string, Cursor>} places @param {Record<string, string>} channels */
export function reach(places: Map<string, Cursor>, channels: Record<string, string>): void;
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
export function locate(url: string | URL): string;
export function query(cursors: string[][]): URLSearchParams;
export function messages({ events, channels, gaps }: Answer): Message[];
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
 * `lost`: after a gap, when any id is news. `ready`: all that was there has come.
 */
export type Cursor = {
    cursor: string;
    lost?: boolean;
    ready?: boolean;
};
export type Place = Cursor & {
    mine: boolean;
    last?: GatewayEvent;
    done: Promise<GatewayEvent>;
    resolve: (event: GatewayEvent) => void;
    reject: (problem: Problem) => void;
};
export type Ready = {
    op: "ready";
    channels: Record<string, string>;
};
export type Message = GatewayEvent | Gap | Ready;
/**
 * to a poll
 */
export type Answer = {
    events: GatewayEvent[];
    channels: Record<string, string>;
    gaps: string[];
};
