"""Threads that do nothing, because they find no memory when they begin."""

from __future__ import annotations

import _thread
import contextlib
import threading
from collections.abc import Iterator

import pytest


@contextlib.contextmanager
def threads_in_vain() -> Iterator[None]:
    """Until this is left, every thread that is started ends before it has called its function, of which Python tells nobody."""
    begin = _thread.start_new_thread

    def begin_in_vain(_function: object, _arguments: object) -> int:
        return begin(lambda: None, ())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_thread, "start_new_thread", begin_in_vain)
        # With these threading.Thread would wait for ever: with the first one before Python 3.13, with the second one since then.
        patch.setattr(threading, "_start_new_thread", begin_in_vain, raising=False)
        patch.setattr(threading, "_start_joinable_thread", begin_in_vain, raising=False)
        yield
