"""Notify Gateway: events from background workers, through Redis, to the browsers that wait for them.

Most run it by its command, ``gateway serve``. To run or mount it as an ASGI application:

>>> from gateway import Settings, create_app
>>> app = create_app(Settings(redis_url="redis://localhost:6379", auth="none"))
"""

from gateway.app import create_app
from gateway.settings import Settings

__version__ = "0.1.0"
__all__ = ["Settings", "create_app"]
