"""Notify Gateway: events from background workers, through Redis, to the browsers that wait for them."""

from gateway.app import create_app
from gateway.settings import Settings

__version__ = "0.1.0"
__all__ = ["Settings", "create_app"]
