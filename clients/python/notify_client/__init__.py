"""Publish the events of a Notify Gateway from Python workers.

>>> from notify_client import Publisher
>>> publisher = Publisher("redis://localhost:6379")
>>> publisher.dropped
0
"""

from notify_client.publisher import AsyncPublisher, Publisher

__all__ = ["AsyncPublisher", "Publisher"]
