/**
 * Attributes: `channel`, and `state`, which the element sets to `waiting`, `queued`, `running`, `retrying`, `done`, `failed` or `refused`.
 * Each event of the channel is dispatched as `job-event`, and the final one also as `job-done`; both bubble, with the event as `detail`.
 * Parts for styling: `bar`, `text`, and the `row` above the bar with the element's content and the text. `aria-live="off"` silences it.
 */
export class JobProgress extends HTMLElement {
    static observedAttributes: string[];
    /** The feed that the elements of this page share; if none was set, one that connects to the page's origin. @type {Feed | undefined} */
    static feed: Feed | undefined;
    /** Take a style sheet of the document that the element is in now, such as that of a picture-in-picture window. */
    adoptedCallback(): void;
    connectedCallback(): void;
    disconnectedCallback(): void;
    /** @param {string} _ @param {string | null} before @param {string | null} now */
    attributeChangedCallback(_: string, before: string | null, now: string | null): void;
    #private;
}
export type Feed = import("./client.js").Feed;
export type GatewayEvent = import("./client.js").GatewayEvent;
