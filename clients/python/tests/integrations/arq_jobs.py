"""What the arq worker of the tests does; run by itself it enqueues the jobs that are named, and prints their ids."""

import asyncio
import os
import sys

from arq import Retry, create_pool
from arq.connections import RedisSettings
from notify_client import AsyncPublisher
from notify_client.integrations.arq import enqueue, progress, report_jobs
from notify_client.integrations.jobs import AsyncJobs

URL = os.environ["TEST_REDIS_URL"]
PATIENCE = 5  # seconds: as on a machine that others use too


async def resize(ctx):
    for percent in range(3):
        await progress(ctx, percent=percent)
    return {"url": "/files/42"}


async def broken(ctx):
    raise ValueError("the secret of the team")


async def flaky(ctx):
    if ctx["job_try"] < 2:
        raise Retry(defer=0)


async def hopeless(ctx):
    raise Retry(defer=0)


async def hang(ctx):
    await asyncio.sleep(30)


@report_jobs(AsyncPublisher(URL, timeout=PATIENCE), results=True)
class WorkerSettings:
    functions = (resize, broken, flaky, hopeless, hang)
    redis_settings = RedisSettings.from_dsn(URL)
    max_tries = 2
    job_timeout = 1
    poll_delay = 0.05


async def main(names):
    pool = await create_pool(WorkerSettings.redis_settings)
    jobs = AsyncJobs(AsyncPublisher(URL, timeout=PATIENCE))
    for name in names:
        print((await enqueue(pool, jobs, name, notify_owner=f"owner-of-{name}")).job_id)
    for _ in range(3):
        await enqueue(pool, jobs, "resize", _job_id="ours")
    await jobs.close()
    await pool.aclose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
