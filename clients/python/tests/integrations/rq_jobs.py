"""What the RQ worker of the tests does."""

import os
import signal

import rq
from notify_client.integrations.rq import progress


def resize():
    for percent in range(3):
        progress(percent=percent)
    return {"url": "/files/42"}


def broken():
    raise ValueError("the secret of the team")


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def again():
    return rq.Retry(max=1)


def wait():
    signal.pause()
