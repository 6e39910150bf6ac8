// A server that answers what a test wants.

import { EventEmitter, once } from "node:events";
import { createServer } from "node:http";

Reflect.deleteProperty(globalThis, "WebSocket"); // Node has one since version 22, which would ask before the transports tested here

/**
 * A server that answers the requests one after the other, the last answer for ever. The `path` of a request is its URL without the number
 * that makes each one different.
 * @param {import("node:test").TestContext} t
 * @param {((response: import("node:http").ServerResponse, request: import("node:http").IncomingMessage) => void)[]} answers
 */
export async function serve(t, ...answers) {
  /** @type {{url: string, path: string, token: string | undefined, at: number}[]} */
  const requests = [];
  const bell = new EventEmitter();
  const server = createServer((request, response) => {
    const url = request.url ?? "";
    requests.push({ url, path: url.replace(/&[^=]+$/, ""), token: request.headers.authorization, at: Date.now() });
    const answer = answers.length > 1 ? answers.shift() : answers[0];
    answer?.(response, request);
    bell.emit(`${requests.length}`);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => (server.closeAllConnections(), server.close()));
  const { port } = /** @type {import("node:net").AddressInfo} */ (server.address());
  const reached = (/** @type {number} */ count) => (requests.length < count ? once(bell, `${count}`) : undefined);
  return { url: `http://127.0.0.1:${port}`, requests, reached };
}
