// What all clients agree on: the cases of clients/vectors.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { action, advance, connect, delay, locate, query, reach, reader } from "../client.js";
import { serve } from "./server.js";

/** @param {string} name */
const cases = (name) => JSON.parse(readFileSync(new URL(`../../vectors/${name}.json`, import.meta.url), "utf8")).cases;

for (const { code, action: expected } of cases("endings")) {
  test(`after ${code}: ${expected}`, () => assert.equal(action(code), expected));
}

for (const { failures, retry_after = 0, later, shortest = 0, longest } of cases("delays")) {
  test(`delay after ${failures} failures, Retry-After ${retry_after}${later ? ", later" : ""}`, () => {
    const waits = Array.from({ length: 500 }, () => delay(failures, { status: later ? 1013 : 0, after: retry_after }) / 1000);
    const [least, most] = [Math.min(...waits), Math.max(...waits)];

    assert.ok(least >= shortest && most <= longest, `${least} to ${most}`);
    assert.ok(least < shortest + (longest - shortest) / 10 && most > longest - (longest - shortest) / 10, `${least} to ${most}`);
  });
}

for (const { name, cursors, messages: given, delivered, after } of cases("cursors")) {
  test(`cursors: ${name}`, () => {
    const places = Object.entries(cursors).map(([channel, cursor]) => ({ channel, cursor }));
    const news = given.map((/** @type {any} */ message, /** @type {number} */ i) => {
      const place = places.find(({ channel }) => channel === message.channel);
      if (message.op === "ready") reach(places, message.channels, {});
      else if (!place || !advance(place, message)) return -1;
      return i;
    });

    assert.deepEqual(news.filter((/** @type {number} */ i) => i >= 0), delivered);
    assert.deepEqual(Object.fromEntries(places.map(({ channel, cursor }) => [channel, cursor])), after);
  });
}

for (const { name, chunks, messages: expected } of cases("sse")) {
  test(`event stream: ${name}`, () => {
    /** @type {any[]} */
    const found = [];
    const read = reader((value) => found.push(value));
    for (const chunk of chunks) {
      const count = found.length;
      read(chunk);

      assert.deepEqual(found.splice(count, 1), [{}], "a sign of life");
    }

    assert.deepEqual(found, expected);
  });
}

for (const { name, answer, messages: expected } of cases("polls")) {
  test(`poll: ${name}`, async (t) => {
    const ready = expected.at(-1);
    const { url, requests, reached } = await serve(
      t,
      (response) => response.writeHead(404).end(), // no event stream
      (response) => response.end(JSON.stringify(answer)),
      () => {}, // the next poll waits
    );
    const feed = connect(url, { channels: Object.keys(ready.channels), since: "5" });
    /** @type {any[]} */
    const found = [];
    feed.on("gap", (gap) => found.push(gap));
    feed.on("*", (event) => found.push(event));
    await reached(3);
    feed.close();

    assert.deepEqual(found, expected.slice(0, -1));
    assert.deepEqual(
      new URL(requests[2]?.path ?? "", url).searchParams.getAll("channel"),
      Object.entries(ready.channels).map((pair) => `${pair}`),
    );
  });
}

for (const { url, transport, cursors, since, address, query: expected } of cases("urls")) {
  test(`address: ${address} ${JSON.stringify(expected)}`, () => {
    // This client says `last` where others say nothing.
    const begun = Object.fromEntries(Object.entries(cursors).map(([channel, cursor]) => [channel, cursor ?? since ?? "last"]));

    assert.equal(locate(url) + transport, address.replace(/^ws/, "http")); // the socket's scheme comes last
    assert.deepEqual([...query(begun)], expected.map(([name, value]) => [name, value.includes(",") ? value : `${value},last`]));
  });
}
