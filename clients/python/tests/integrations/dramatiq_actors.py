"""What the Dramatiq worker of the tests does."""

import os

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from notify_client import Publisher
from notify_client.integrations.dramatiq import Reports, progress

broker = RedisBroker(url=os.environ["TEST_REDIS_URL"])
broker.add_middleware(Reports(Publisher(os.environ["TEST_REDIS_URL"], timeout=5)))  # as on a machine that others use too
dramatiq.set_broker(broker)


@dramatiq.actor
def resize():
    for percent in range(3):
        progress(percent=percent)


@dramatiq.actor(max_retries=1, min_backoff=10)
def broken():
    raise ValueError("the secret of the team")


@dramatiq.actor(throws=KeyError)
def refuse():
    raise KeyError("at once")


@dramatiq.actor
def parent():
    resize.send()


@dramatiq.actor(max_age=1)
def perishable():
    pass
