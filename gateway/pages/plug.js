// Plug: takes the network away from all tabs of this demo for a while, so that one can see how client.js comes back.

const bus = new BroadcastChannel("notify-demo-plug");
const open = new Set();
let timer = 0; // until it is plugged in again by itself

export const isPulled = () => timer !== 0;

/** A socket of a browser that has no network. */
function dead() {
  const socket = { close() {} };
  setTimeout(() => socket.onclose?.({ code: 1006, reason: "" }));
  return socket;
}

const { WebSocket, fetch } = window;

window.WebSocket = class extends WebSocket {
  constructor(url) {
    if (isPulled()) return dead();
    super(url);
    open.add(this);
    this.addEventListener("close", () => open.delete(this));
  }
};

window.fetch = (url, options) =>
  isPulled() && !String(url).startsWith("/demo/") ? Promise.reject(new TypeError("the plug is pulled")) : fetch(url, options);

function lose(milliseconds) {
  clearTimeout(timer);
  timer = setTimeout(regain, milliseconds);
  for (const socket of open) socket.close();
}

function regain() {
  clearTimeout(timer);
  timer = 0;
  dispatchEvent(new Event("online"));
}

bus.onmessage = ({ data }) => (data > 0 ? lose(data) : regain());

/** Pull the plug for so long. @param {number} milliseconds */
export function pull(milliseconds) {
  bus.postMessage(milliseconds);
  lose(milliseconds);
}

export function plugIn() {
  bus.postMessage(0);
  regain();
}
