"""Publish and follow the events of a Notify Gateway.

>>> from notify_client import Publisher
>>> publisher = Publisher("redis://localhost:6379")
>>> publisher.dropped
0
"""

from notify_client.blocking import watch
from notify_client.event import Event, Refused
from notify_client.publisher import AsyncPublisher, Publisher
from notify_client.subscription import Subscription, subscribe
from notify_client.token import issue_token

__all__ = ["AsyncPublisher", "Event", "Publisher", "Refused", "Subscription", "issue_token", "subscribe", "watch"]
