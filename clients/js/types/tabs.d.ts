/** Meet the tabs of the same name. @param {string} name @param {Core} core */
export function meet(name: string, { ended, cursors, places, cover, change, settle, take, say, wake, pause }: Core): {
    want: (followed?: [string, string][]) => true | void;
    wanted: () => Map<string, string>;
    renew: () => true | void;
    /** Listen to the leader as long as it answers, if this tab is where the leader is. One that was put to sleep says nothing. */
    listen(): Promise<void> | undefined;
    /** Hand on what came, or ask the leader whether it has that, too. @param {any} message */
    relay(message: any): void;
    /** Whether this tab can listen to the leader from now on: nothing that it lacks was told before. */
    near(): boolean;
    /** This tab may not read a channel that another one wants. @param {string} channel */
    refuse(channel: string): void;
};
/**
 * What client.js lends.
 */
export type Core = {
    ended: AbortSignal;
    places: Map<string, object>;
    cursors: (all?: boolean) => [string, string][];
    cover: (others: Map<string, string>) => void;
    change: () => void;
    settle: () => void;
    take: (message: any) => void;
    say: (status: any) => void;
    wake: () => void;
    pause: (milliseconds: number, asks: () => void) => Promise<any>;
};
export type Tabs = ReturnType<typeof meet>;
