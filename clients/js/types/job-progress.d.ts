/**
 * Attributes: `channel`, and `state`, which it sets: `waiting`, `queued`, `running`, `retrying`, `done`, `failed` or `refused`.
 * Each event of the channel is dispatched as `job-event`, the last one also as `job-done`; both bubble, with the event as `detail`.
 * Parts for styling: `bar`, `text`, and the `row` above the bar with the element's content and the text. `aria-live="off"` silences it.
 */
export class JobProgress extends HTMLElement {
    static observedAttributes: string[];
    /** What the elements of this page follow; a connection to this page's origin if nothing was set. @type {Feed | undefined} */
    static feed: Feed | undefined;
    connectedCallback(): void;
    disconnectedCallback(): void;
    /** @param {string} _ @param {string | null} before @param {string | null} now */
    attributeChangedCallback(_: string, before: string | null, now: string | null): void;
    #private;
}
export type Feed = import("./client.js").Feed;
export type GatewayEvent = import("./client.js").GatewayEvent;
