// What a server that renders pages does with the modules: it loads them, and nothing connects.

import assert from "node:assert/strict";
import { test } from "node:test";

test("the element can be imported where there is no page", async () => {
  assert.equal(globalThis.HTMLElement, undefined);

  const { JobProgress } = await import("../job-progress.js");
  assert.equal(JobProgress.feed, undefined);
});
