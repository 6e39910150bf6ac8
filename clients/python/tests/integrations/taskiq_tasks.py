"""What the TaskIQ worker of the tests does."""

import os

from notify_client import AsyncPublisher
from notify_client.integrations.taskiq import Reports, progress
from taskiq import SimpleRetryMiddleware
from taskiq_redis import ListQueueBroker

URL = os.environ["TEST_REDIS_URL"]
publisher = AsyncPublisher(URL, timeout=5)  # as on a machine that others use too
broker = ListQueueBroker(URL).with_middlewares(Reports(publisher, results=True), SimpleRetryMiddleware(no_result_on_retry=False))


@broker.task(task_name="resize")
async def resize():
    for percent in range(3):
        await progress(percent=percent)
    return {"url": "/files/42"}


@broker.task(task_name="broken", retry_on_error=True, max_retries=2)
async def broken():
    raise ValueError("the secret of the team")


@broker.task(task_name="parent")
async def parent():
    await resize.kiq()
