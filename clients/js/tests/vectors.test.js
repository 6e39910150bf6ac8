// What all clients agree on: the cases of clients/vectors.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { action, advance, delay, locate, messages, query, reach, reader } from "../client.js";

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
    const places = new Map(Object.entries(cursors).map(([channel, cursor]) => [channel, { cursor }]));
    const news = given.map((/** @type {any} */ message, /** @type {number} */ i) => {
      if (message.op === "ready") reach(places, message.channels);
      else if (!places.has(message.channel) || !advance(/** @type {any} */ (places.get(message.channel)), message)) return -1;
      return i;
    });

    assert.deepEqual(news.filter((/** @type {number} */ i) => i >= 0), delivered);
    assert.deepEqual(Object.fromEntries([...places].map(([channel, { cursor }]) => [channel, cursor])), after);
  });
}

for (const { name, chunks, messages: expected } of cases("sse")) {
  test(`event stream: ${name}`, () => {
    /** @type {any[]} */
    const found = [];
    const read = reader((value) => found.push(value));
    for (const chunk of chunks) read(chunk);

    assert.deepEqual(found, expected);
  });
}

for (const { name, answer, messages: expected } of cases("polls")) {
  test(`poll: ${name}`, () => assert.deepEqual(messages(answer), expected));
}

for (const { url, transport, cursors, since, address, query: expected } of cases("urls")) {
  test(`address: ${address} ${JSON.stringify(expected)}`, () => {
    const pairs = Object.entries(cursors).map(([channel, cursor]) => [channel, cursor ?? since].filter((part) => part !== null));

    assert.equal(locate(url) + transport, address.replace(/^ws/, "http")); // the socket's scheme comes last
    assert.deepEqual([...new URLSearchParams(query(pairs))], expected);
  });
}
