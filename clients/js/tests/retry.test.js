// When to come back and when not: against servers that answer what a gateway rarely does.
// There is no WebSocket here, so the client is where a proxy lets none through: on event streams.

import assert from "node:assert/strict";
import { test } from "node:test";
import { connect } from "../client.js";
import { serve } from "./server.js";

/** @param {number} status @param {Record<string, string>} [headers] @param {object} [problem] */
const refuse = (status, headers = {}, problem = {}) => (/** @type {import("node:http").ServerResponse} */ response) => {
  response.writeHead(status, { "content-type": "application/problem+json", ...headers }).end(JSON.stringify({ status, ...problem }));
};

/** @param {string[]} lines */
const stream = (...lines) => (/** @type {import("node:http").ServerResponse} */ response) => {
  response.writeHead(200, { "content-type": "text/event-stream" }).write("retry: 1000\n" + lines.map((line) => `data: ${line}\n\n`).join(""));
};

const READY = '{"op":"ready","channels":{"jobs:1":"5"}}';
const DONE = '{"type":"completed","data":null,"final":true,"channel":"jobs:1","id":"6"}';

/** @param {import("node:http").ServerResponse} response @param {import("node:http").IncomingMessage} request */
const ticketOrStream = (response, request) =>
  request.url?.startsWith("/tickets") ? response.end('{"ticket":"x"}') : stream(READY, DONE)(response);

for (const status of [400, 403]) {
  test(`${status} is the end`, async (t) => {
    const { url, requests } = await serve(t, refuse(status, {}, { detail: "why" }));
    const feed = connect(url, { channels: ["jobs:1"] });

    await assert.rejects(feed.done("jobs:1"), { status, message: "why" });
    assert.equal(feed.status, "stopped");
    assert.equal(requests.length, 1);
    await assert.rejects(feed.done("jobs:2"), { status });
  });
}

test("403 for one channel lets the others go on", async (t) => {
  const { url, requests } = await serve(t, refuse(403, {}, { channel: "jobs:2" }), stream(READY, DONE));
  const feed = connect(url, { channels: ["jobs:1", "jobs:2"] });

  await assert.rejects(feed.done("jobs:2"), { status: 403, channel: "jobs:2" });
  assert.equal((await feed.done("jobs:1")).id, "6");
  assert.ok(!requests[1]?.path.includes("jobs%3A2"));
  feed.close();
});

test("a refused token is asked for once more", async (t) => {
  const { url, requests } = await serve(t, refuse(401), ticketOrStream);
  const tokens = ["old", "new"];
  const feed = connect(url, { channels: ["jobs:1"], token: () => tokens.shift(), share: false });
  await feed.done("jobs:1");

  assert.deepEqual(requests.map(({ path, token }) => [path.split("?")[0], token]), [
    ["/tickets", "Bearer old"],
    ["/tickets", "Bearer new"],
    ["/sse", "Bearer new"],
  ]);
  feed.close();
});

test("a token that is refused twice is the end, and one that is no function at once", async (t) => {
  const { url, requests } = await serve(t, refuse(401));
  const feed = connect(url, { channels: ["jobs:1"], token: () => "bad", share: false });
  await assert.rejects(feed.done("jobs:1"), { status: 401 });
  assert.equal(requests.length, 2);
  const fixed = connect(url, { channels: ["jobs:1"], token: "bad", share: false });

  await assert.rejects(fixed.done("jobs:1"), { status: 401 });
  assert.equal(requests.length, 3);
});

test("with a cookie, which may have been renewed, it comes back once", async (t) => {
  const { url, requests } = await serve(t, refuse(401), stream(READY, DONE), refuse(401));
  const feed = connect(url, { channels: ["jobs:1"] });
  await feed.done("jobs:1");
  feed.close();
  const other = connect(url, { channels: ["jobs:1"] });

  await assert.rejects(other.done("jobs:1"), { status: 401 });
  assert.equal(requests.length, 4);
});

test("after a token has expired on an open connection, one that is refused is asked for once more, too", async (t) => {
  const ticket = (/** @type {import("node:http").ServerResponse} */ response) => response.end('{"ticket":"x"}');
  const expired = stream(READY, '{"op":"bye","code":4401,"reason":"the token has expired"}');
  const { url, requests } = await serve(t, ticket, expired, refuse(401), stream(READY, DONE));
  const tokens = ["old", "old", "new"];
  const feed = connect(url, { channels: ["jobs:1"], token: () => tokens.shift(), share: false });
  await feed.done("jobs:1").finally(feed.close);

  assert.deepEqual(requests.map(({ path, token }) => [path.split("?")[0], token]), [
    ["/tickets", "Bearer old"],
    ["/sse", "Bearer old"],
    ["/sse", "Bearer old"],
    ["/sse", "Bearer new"],
  ]);
});

test("Retry-After is waited for", async (t) => {
  const { url, requests } = await serve(t, refuse(503, { "retry-after": "1" }), stream(READY, DONE));
  const feed = connect(url, { channels: ["jobs:1"] });
  await feed.done("jobs:1");
  const [first, second] = requests;

  assert.ok(first && second && second.at - first.at >= 990, JSON.stringify(requests));
  feed.close();
});

test("a server that accepts and cuts is asked less and less often", async (t) => {
  t.mock.method(Math, "random", () => 0.2);
  const { url, requests } = await serve(t, (response) => {
    stream(READY)(response);
    setTimeout(() => response.destroy(), 5);
  });
  const feed = connect(url, { channels: ["jobs:1"] });
  /** @type {number[]} */
  const retries = [];
  await new Promise((resolve) => feed.on("status", ({ retry }) => retry !== undefined && retries.push(retry) === 4 && resolve(0)));
  feed.close();

  assert.ok(requests.length <= 4, `${requests.length} requests`);
  assert.deepEqual(retries, [100, 200, 400, 800]);
});

test("a stream that ends with bye 4403 is the end", async (t) => {
  const { url } = await serve(t, stream(READY, '{"op":"bye","code":4403,"reason":"not yours"}'));
  const feed = connect(url, { channels: ["jobs:1"] });

  await assert.rejects(feed.done("jobs:1"), { status: 4403, message: "not yours" });
});

test("where no stream comes through it polls, with the cursors", async (t) => {
  const { url, requests } = await serve(t, refuse(404), (response) => response.end('{"events":[],"channels":{"jobs:1":"5"},"gaps":[]}'), (response) =>
    response.end(`{"events":[${DONE}],"channels":{"jobs:1":"6"},"gaps":[]}`),
  );
  const feed = connect(url, { channels: ["jobs:1"] });
  await feed.done("jobs:1");
  feed.close();

  assert.deepEqual(requests.slice(0, 3).map(({ path }) => path), [
    "/sse?channel=jobs%3A1%2Clast",
    "/poll?channel=jobs%3A1%2Clast&wait=0",
    "/poll?channel=jobs%3A1%2C5&wait=25",
  ]);
});

test("no address is asked for twice, so that nothing is answered from a cache of the page's own", async (t) => {
  const empty = (/** @type {import("node:http").ServerResponse} */ response) => response.end('{"events":[],"channels":{"jobs:1":"5"},"gaps":[]}');
  const { url, requests, reached } = await serve(t, refuse(404), empty, empty, empty, () => {});
  const feed = connect(url, { channels: ["jobs:1"] });
  await reached(5);
  feed.close();

  assert.equal(new Set(requests.map(({ url }) => url)).size, 5);
});

test("a poll waits for less than the silence after which the connection is tested", async (t) => {
  const empty = (/** @type {import("node:http").ServerResponse} */ response) => response.end('{"events":[],"channels":{"jobs:1":"5"},"gaps":[]}');
  const { url, requests, reached } = await serve(t, refuse(404), empty, () => {});
  const feed = connect(url, { channels: ["jobs:1"], quiet: 4_000 });
  await reached(3);
  feed.close();

  assert.equal(requests[2]?.path, "/poll?channel=jobs%3A1%2C5&wait=5"); // found dead after 13 s
});

test("where it polls, all can be unfollowed, and others followed after that", async (t) => {
  const first = (/** @type {any} */ response) => response.end('{"events":[],"channels":{"jobs:1":"5"},"gaps":[]}');
  const { url, requests, reached } = await serve(t, refuse(404), first, first, (response, { url }) =>
    url?.includes("channel=") ? response.end(`{"events":[${DONE.replace(":1", ":2")}],"channels":{"jobs:2":"6"},"gaps":[]}`) : refuse(400)(response),
  );
  const feed = connect(url, { channels: ["jobs:1"] });
  await reached(3);
  feed.unfollow("jobs:1");
  await new Promise((resolve) => setTimeout(resolve, 100)); // for a request that must not come

  assert.equal(requests.length, 3);
  assert.equal((await feed.done("jobs:2")).id, "6");
  feed.close();
});

test("what is followed while it waits has to wait, too", async (t) => {
  const { url, requests } = await serve(t, refuse(503, { "retry-after": "1" }), stream('{"op":"ready","channels":{"jobs:1":"5","jobs:2":"5"}}', DONE));
  const feed = connect(url, { channels: ["jobs:1"] });
  await new Promise((resolve) => feed.on("status", ({ status }) => status === "waiting" && resolve(0)));
  feed.follow("jobs:2");
  await feed.done("jobs:1");
  feed.close();

  const [first, second] = requests;
  assert.ok(first && second && second.at - first.at >= 990, JSON.stringify(requests));
  assert.equal(second.path, "/sse?channel=jobs%3A1%2Clast&channel=jobs%3A2%2Clast");
});

test("a token callback that never answers is called again after a minute", async (t) => {
  const { url } = await serve(t, ticketOrStream);
  t.mock.timers.enable({ apis: ["setTimeout"] });
  t.mock.method(Math, "random", () => 0);
  let asked = 0;
  const token = () => (asked++ === 0 ? new Promise(() => {}) : "good");
  const feed = connect(url, { channels: ["jobs:1"], token, share: false });
  const waiting = new Promise((resolve) => feed.on("status", ({ status }) => status === "waiting" && resolve(0)));
  t.mock.timers.tick(59_999);
  assert.equal(asked, 1);
  t.mock.timers.tick(1);
  await waiting;
  t.mock.timers.tick(1);

  assert.equal((await feed.done("jobs:1")).id, "6");
  feed.close();
});

test("after a gap it comes back from the beginning, and says so in another way than who has yet to begin", async (t) => {
  const { url, requests } = await serve(t, stream('{"op":"gap","channel":"jobs:1"}', '{"op":"bye","code":1012}'), stream(DONE));
  const feed = connect(url, { channels: ["jobs:1"], since: "0" });
  await feed.done("jobs:1");
  feed.close();

  assert.deepEqual(requests.map(({ path }) => path), ["/sse?channel=jobs%3A1%2C0", "/sse?channel=jobs%3A1%2C00"]);
});

test("silence is found out and the cursor taken along", async (t) => {
  const { url, requests } = await serve(t, stream(READY), stream(DONE));
  const feed = connect(url, { channels: ["jobs:1"], quiet: -2_400 }); // 2 * quiet + 5 s: after 200 ms
  await feed.done("jobs:1");
  feed.close();

  assert.deepEqual(requests.map(({ path }) => path), ["/sse?channel=jobs%3A1%2Clast", "/sse?channel=jobs%3A1%2C5"]);
});

test("a token callback that throws its backend's answer is called less and less often", async (t) => {
  t.mock.method(Math, "random", () => 0.2);
  const { url } = await serve(t, ticketOrStream);
  let asked = 0;
  const token = () => (asked++ < 3 ? Promise.reject(new Response("", { status: 500 })) : "good");
  const feed = connect(url, { channels: ["jobs:1"], token, share: false });
  /** @type {unknown[]} */
  const retries = [];
  feed.on("status", ({ status, retry }) => status === "waiting" && retries.push(retry));
  await feed.done("jobs:1");
  feed.close();

  assert.deepEqual(retries, [100, 200, 400]);
});

for (const [how, reason] of [
  ["fails", new Error("the backend is away")],
  ["rejects with nothing", undefined],
]) {
  test(`a token callback that ${how} is tried again`, async (t) => {
    const { url } = await serve(t, ticketOrStream);
    let asked = 0;
    const token = () => (asked++ === 0 ? Promise.reject(reason) : "good");
    const feed = connect(url, { channels: ["jobs:1"], token, share: false });

    assert.equal((await feed.done("jobs:1")).id, "6");
    feed.close();
  });
}

test("it connects where localStorage is null, as in a WebView", async (t) => {
  const before = Object.getOwnPropertyDescriptor(globalThis, "localStorage");
  Object.defineProperty(globalThis, "localStorage", { value: null, configurable: true });
  t.after(() => (before ? Object.defineProperty(globalThis, "localStorage", before) : Reflect.deleteProperty(globalThis, "localStorage")));
  const module = "../client.js?without-storage";
  const { url } = await serve(t, stream(READY, DONE));
  const feed = /** @type {typeof import("../client.js")} */ (await import(module)).connect(url, { channels: ["jobs:1"] });
  t.after(() => feed.close());

  assert.equal((await Promise.race([feed.done("jobs:1"), new Promise((resolve) => feed.on("status", (at) => at.retry && resolve(at)))])).id, "6");
});

test("a feed that is closed before its token comes does not ask for the next one", async (t) => {
  const { url, requests } = await serve(t, ticketOrStream);
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const token = `.${btoa(JSON.stringify({ sub: "ann", exp: Date.now() / 1_000 + 600 }))}.`;
  /** @type {(token: string) => void} */
  let answer = () => {};
  const timers = t.mock.method(globalThis, "setTimeout");
  const feed = connect(url, { channels: ["jobs:1"], token: () => new Promise((resolve) => (answer = resolve)) });
  feed.close();
  const before = timers.mock.callCount();
  answer(token);
  await new Promise((resolve) => setImmediate(resolve));

  assert.equal(timers.mock.callCount(), before);
  assert.equal(requests.length, 0);
});

test("close lets go of everything", async (t) => {
  const { url } = await serve(t, stream(READY));
  const feed = connect(url, { channels: ["jobs:1"] });
  /** @type {string[]} */
  const states = [];
  feed.on("status", ({ status }) => {
    states.push(status);
    feed.close();
  });
  const done = feed.done("jobs:1");
  const events = [];
  for await (const event of feed) events.push(event);

  await assert.rejects(done, /closed/);
  assert.deepEqual(states, ["live", "closed"]);
  assert.deepEqual(events, []);
});
