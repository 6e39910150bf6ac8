"""What the Huey consumer of the tests does."""

import os
from datetime import UTC, datetime

from huey import CancelExecution, RedisHuey
from notify_client import Publisher
from notify_client.integrations.huey import progress, report_tasks

huey = RedisHuey("tests", url=os.environ["TEST_REDIS_URL"])
publisher = Publisher(os.environ["TEST_REDIS_URL"], timeout=5)  # as on a machine that others use too
report_tasks(huey, publisher, owner=lambda task: task.kwargs.get("user"), results=True)


@huey.task()
def resize(user=None):
    for percent in range(3):
        progress(percent=percent)
    return {"url": "/files/42"}


@huey.task(retries=1)
def broken(user=None):
    raise ValueError("the secret of the team")


@huey.task()
def cancel():
    raise CancelExecution(retry=False)


@huey.task()
@huey.lock_task("held by the test")
def locked():
    pass


@huey.task(expires=datetime(2020, 1, 1, tzinfo=UTC))
def perishable():
    pass
