// Demo: starts jobs, shows each as a card. Only the names of the jobs are kept here; their state is the gateway's.

import { isPulled, plugIn, pull } from "./plug.js"; // first: it stands between the client and the network
import { connect } from "/client.js";
import { JobProgress } from "/job-progress.js";
import { asTime, Card } from "./card.js";

const KEPT = 40;
const LINES = 50;
const AWAY = 5_000;
const STORE = "notify-demo-jobs";
const HELLO = "jobs:hello"; // what the commands in the terminal publish on
const CHANNEL = /^[A-Za-z0-9][A-Za-z0-9_.:@-]{0,127}$/;

const $ = (id) => document.getElementById(id);

/** @type {Map<string, Card>} */
const cards = new Map();
let asked = null; // the job in the address: shown even if there is nothing of it

// One for all; the cards' <job-progress> elements say what it follows. One that is hidden follows HELLO.
const feed = (JobProgress.feed ??= connect("/"));

// The names of the jobs, newest first, shared by all tabs.

function stored() {
  try {
    const names = JSON.parse(localStorage.getItem(STORE) ?? "[]");
    return Array.isArray(names) ? names.filter((name) => typeof name === "string" && CHANNEL.test(name)).slice(0, KEPT) : [];
  } catch {
    return []; // a browser that keeps nothing, or a stranger's value
  }
}

function store(names) {
  try {
    localStorage.setItem(STORE, JSON.stringify(names));
  } catch {
    // Then a reload begins anew.
  }
}

function keep(channel) {
  const names = [channel, ...stored().filter((name) => name !== channel)];
  for (const old of names.splice(KEPT)) discard(old);
  store(names);
}

// Cards

function add(channel) {
  let card = cards.get(channel);
  if (card === undefined) {
    card = new Card(channel, () => removeByHand(channel));
    cards.set(channel, card);
    place(card);
  }
  return card;
}

function place(card) {
  if (!card.element.isConnected) $("jobs").prepend(card.element);
  arrange();
}

function discard(channel) {
  const card = cards.get(channel);
  if (card === undefined) return;
  card.element.remove();
  cards.delete(channel);
  arrange();
}

function remove(channel) {
  store(stored().filter((name) => name !== channel));
  discard(channel);
}

function removeByHand(channel) {
  const { element } = cards.get(channel);
  const next = element.nextElementSibling ?? element.previousElementSibling;
  remove(channel);
  (next?.querySelector(".remove") ?? $("jobs-title")).focus();
}

function arrange() {
  $("empty").hidden = $("jobs").childElementCount > 0;
  $("clear").hidden = ![...cards.values()].some((card) => card.over && card.element.isConnected);
}

// Events

feed.on("*", (event) => {
  if (connection.missed !== undefined && connection.name !== "live") connection.missed += 1;
  const card = event.channel === HELLO ? add(HELLO) : cards.get(event.channel);
  if (card === undefined) return;
  const known = card.view !== null || card.fresh;
  const changed = card.show(event);
  arrange();
  if (changed && known) say(card.words);
  log(event);
});
feed.on("gap", (gap) => {
  cards.get(gap.channel)?.showGap();
  log(gap);
});

/** All that there was has come. */
function settle() {
  arrange();
  for (const [channel, card] of cards) {
    if (card.settle()) say(card.words);
    // Redis has forgotten it, as the demo's own does when the demo ends.
    if (card.view === null && !card.fresh) channel === asked ? card.showNothing() : remove(channel);
  }
}

let lines = 0;

function log(event) {
  const line = document.createElement("li");
  const time = document.createElement("time");
  const code = document.createElement("code");
  time.textContent = asTime(new Date());
  code.textContent = JSON.stringify(event);
  line.append(time, code);
  $("log").prepend(line);
  if ($("log").childElementCount > LINES) $("log").lastElementChild.remove();
  $("log-empty").hidden = true;
  lines += 1;
  $("log-count").textContent = lines === 1 ? "1 event" : `${lines > LINES ? `last ${LINES} of ` : ""}${lines.toLocaleString("en")} events`;
}

/** For those who cannot see it. */
function say(text) {
  const line = document.createElement("p");
  line.textContent = text;
  $("said").append(line);
  if ($("said").childElementCount > 8) $("said").firstElementChild.remove();
}

// The connection

/** `at`: when it tries again. `missed`: events since the connection was lost. */
let connection = { name: "connecting" };

feed.on("status", ({ status, retry, problem }) => {
  const was = connection;
  const name = status === "waiting" ? "reconnecting" : status;
  const at = retry === undefined ? undefined : Date.now() + retry;
  connection = { name, at, reason: problem?.message, missed: name === "reconnecting" ? (was.missed ?? 0) : was.missed };
  $("connection").dataset.state = name;
  $("jobs").classList.toggle("stale", name !== "live");
  $("drop").textContent = isPulled() ? "Plug it in" : name === "reconnecting" ? "Reconnect now" : "Pull the plug";
  $("drop").title = name === "live" ? `Cut the network for ${AWAY / 1000} seconds; the jobs go on` : "";
  tickConnection();
  if (name === "live") {
    settle();
    showProblem("");
    if (was.name === "reconnecting") say("Connected again.");
    const shown = connection;
    setTimeout(() => shown === connection && ((connection = { name }), tickConnection()), 5_000);
  } else if (name === "reconnecting" && was.name === "live") say("The connection is lost.");
  else if (name === "stopped") say(`The gateway has ended the connection: ${problem.message}`);
});

function tickConnection() {
  const { name, at, reason, missed } = connection;
  const seconds = Math.max(0, Math.ceil((at - Date.now()) / 1000));
  const texts = {
    connecting: "Connecting",
    live: missed ? `Live, ${missed} missed event${missed === 1 ? "" : "s"} caught up` : "Live",
    reconnecting: at === undefined ? "Reconnecting" : `Reconnecting in ${seconds} s`,
    stopped: `Stopped: ${reason}`,
  };
  if ($("connection-text").textContent !== texts[name]) $("connection-text").textContent = texts[name];
}

$("drop").addEventListener("click", () => (connection.name === "live" ? pull(AWAY) : plugIn()));

// Starting jobs

function showProblem(text) {
  $("problem").textContent = text;
  $("problem").hidden = text === "";
}

async function start(kind) {
  showProblem("");
  try {
    const response = await fetch("/demo/jobs", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ kind }),
    });
    const answer = await response.json();
    if (!response.ok) throw new Error(answer.detail ?? answer.title);
    keep(answer.job);
    add(answer.job).fresh = true;
  } catch (error) {
    showProblem(`The job did not start: ${error instanceof TypeError ? "the gateway does not answer" : error.message}`);
  }
}

const kinds = [...document.querySelectorAll("[data-kind]")];
for (const button of kinds) button.addEventListener("click", () => start(button.dataset.kind));
$("start-all").addEventListener("click", async () => {
  for (const button of kinds.toReversed()) await start(button.dataset.kind);
});
$("clear").addEventListener("click", () => {
  for (const card of [...cards.values()]) if (card.over) remove(card.channel);
  $("jobs-title").focus();
});

// The address: /#jobs:42 shows that job.

function followAddress() {
  let channel;
  try {
    channel = decodeURIComponent(location.hash.slice(1));
  } catch {
    return;
  }
  if (!CHANNEL.test(channel)) return;
  asked = channel;
  keep(channel);
  const card = add(channel);
  place(card);
  for (const { element } of cards.values()) element.classList.toggle("asked", element === card.element);
  card.focus();
  // The feed says once that it is live, and not again for a channel that is followed later.
  setTimeout(() => connection.name === "live" && card.view === null && card.showNothing(), 1_000);
}

addEventListener("hashchange", followAddress);
addEventListener("storage", ({ key }) => {
  if (key !== STORE && key !== null) return;
  const names = stored();
  for (const name of names.toReversed()) add(name);
  for (const name of cards.keys()) if (!names.includes(name) && name !== HELLO && name !== asked) discard(name);
});

setInterval(() => {
  for (const card of cards.values()) if (!card.over) card.tick();
  if (connection.name === "reconnecting") tickConnection();
}, 200);

for (const name of stored().toReversed()) add(name);
followAddress();
