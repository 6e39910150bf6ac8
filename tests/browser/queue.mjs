// A BullMQ queue with a worker, until its jobs are over: JSON of them on stdout. Started by test_bullmq.py.
//   node queue.mjs <redis port> <queue>

import { Queue, QueueEvents, Worker } from "bullmq";

const [, , port, name] = process.argv;
const connection = { host: "127.0.0.1", port: Number(port), maxRetriesPerRequest: null };
const queue = new Queue(name, { connection });
const events = new QueueEvents(name, { connection });
const worker = new Worker(name, work, { connection, concurrency: 10 });

async function work(job) {
  for (const percent of [25, 50, 100]) await job.updateProgress(percent);
  if (job.name === "broken") throw new Error("no disk");
  if (job.name === "flaky" && job.attemptsMade === 0) throw new Error("busy");
  if (job.name === "shy" && job.attemptsMade === 0) throw new Error("later");
  return { url: `/files/${job.id}` };
}

await events.waitUntilReady();
const over = (job) => job.waitUntilFinished(events, 10_000).catch(() => {});
const jobs = {
  plain: await queue.add("plain", { notify_owner: "ann" }),
  broken: await queue.add("broken", {}),
  flaky: await queue.add("flaky", {}, { attempts: 2 }),
  shy: await queue.add("shy", {}, { attempts: 2, backoff: 50 }),
  late: await queue.add("late", {}, { delay: 50 }),
};
const never = await queue.add("never", {}, { delay: 3_600_000 });
await Promise.all(Object.values(jobs).map(over));
await never.remove();
const again = await queue.getJob(jobs.broken.id);
await again.retry();
await over(again);
console.log(JSON.stringify({ never: never.id, ...Object.fromEntries(Object.entries(jobs).map(([name, { id }]) => [name, id])) }));
await Promise.all([worker.close(), events.close(), queue.close()]);
process.exit(0);
