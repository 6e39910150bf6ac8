"""What the Celery worker of the tests does."""

import os
import signal
import time

import celery
from notify_client.integrations.celery import progress, report_tasks

BROKER = os.environ["TEST_BROKER_URL"]

app = celery.Celery("tests", broker=BROKER, backend=BROKER)
app.conf.update(worker_prefetch_multiplier=1, broker_connection_retry_on_startup=True, task_default_retry_delay=0.1)
report_tasks(app, os.environ["TEST_REDIS_URL"], results=True)


@app.task(bind=True)
def resize(self, n=3):
    for percent in range(n):
        self.update_state(state="PROGRESS", meta={"percent": percent})
    progress(percent=100)
    return {"url": "/files/42"}


@app.task(bind=True, max_retries=2)
def flaky(self):
    try:
        int("x" * (self.request.retries < 2) or "0")
    except ValueError as error:
        raise self.retry(exc=error, countdown=0) from error


@app.task
def broken(*args):
    raise ValueError("the secret of the team")


class OutOfStock(ValueError):
    def __init__(self, shop, item):
        super().__init__(f"{shop} has no {item}")  # cannot be pickled, because of two arguments it keeps one


class OutOfReach(Exception):
    def __init__(self, shop, item):
        super().__init__(f"{shop} cannot have {item}")


@app.task
def order(item):
    raise OutOfReach("the shop", item) if item == "moon" else OutOfStock("the shop", item)


@app.task
def add(*numbers):
    return sum(number if isinstance(number, int) else sum(number) for number in numbers)


@app.task
def die():
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(time_limit=1)
def hang():
    time.sleep(30)


@app.task
def opaque():
    return "x" * 100_000


@app.task(bind=True)
def report_often(self, times):
    began = time.perf_counter()
    for percent in range(times):
        self.update_state(state="PROGRESS", meta={"percent": percent})
    return time.perf_counter() - began


@app.task
def parent():
    return add.delay(1, 2).id
