// An SSE client from npm, until it has so many events: its log as JSON on stdout. Started by test_node.py.
//   node foreign.mjs <eventsource | fetch-event-source> <url> <events>

const [, , name, url, count] = process.argv;
const log = { ids: [], gaps: 0 };

function take(type, data) {
  if (type === "gap") log.gaps += 1;
  if (type === "" || type === "message") log.ids.push(JSON.parse(data).id);
  if (log.ids.length < Number(count)) return;
  console.log(JSON.stringify(log));
  process.exit(0);
}

if (name === "eventsource") {
  const { EventSource } = await import("eventsource");
  const source = new EventSource(url);
  for (const type of ["message", "gap"]) source.addEventListener(type, ({ data }) => take(type, data));
} else {
  // Written for pages: it asks for these.
  Object.assign(globalThis, { window: globalThis, document: { hidden: false, addEventListener() {}, removeEventListener() {} } });
  const { fetchEventSource } = await import("@microsoft/fetch-event-source");
  await fetchEventSource(url, { onmessage: ({ event, data }) => take(event, data), onerror: () => 20 });
}
