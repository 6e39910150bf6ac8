"""A small HTTP server that gives the answer a test sets and records the requests it gets."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, bytes]


class Answering:
    """The state of such a server; a test may change its answers at any time.

    Attributes:
        url: the address
        answer: status and body, or what makes them from the request's headers and body
        headers: of the answer
        delay: seconds before it answers
        requests: headers and body of each request so far
    """

    def __init__(self) -> None:
        self.url = ""
        self.answer: Answer | Callable[[dict[str, str], bytes], Answer] = (200, b"{}")
        self.headers: dict[str, str] = {}
        self.delay = 0.0
        self.requests: list[tuple[dict[str, str], bytes]] = []


@contextmanager
def answering() -> Iterator[Answering]:
    """Run such a server on a free port of 127.0.0.1."""
    state = Answering()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers.get("content-length", "0")))
            state.requests.append((headers, body))
            time.sleep(state.delay)
            status, content = state.answer(headers, body) if callable(state.answer) else state.answer
            self.send_response(status)
            for name, value in state.headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET  # noqa: N815 - http.server's name

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_address[1]}/"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
