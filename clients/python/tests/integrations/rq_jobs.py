"""What the RQ worker of the tests does."""

import os
import signal

import rq
from notify_client import Publisher
from notify_client.integrations.jobs import Jobs
from notify_client.integrations.rq import ReportingQueue, ReportingWorker, progress

reports = Jobs(Publisher(os.environ["TEST_REDIS_URL"], timeout=5))  # as on a machine that others use too


class PatientQueue(ReportingQueue):
    reports = reports


class PatientWorker(ReportingWorker):
    reports = reports


class Spawning(PatientWorker, rq.SpawnWorker):
    pass


class Simple(PatientWorker, rq.SimpleWorker):
    pass


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
