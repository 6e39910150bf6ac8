"""Streams: the writer of a response in chunks, which lets that go on without the application's call.

While a response lasts, uvicorn keeps a parser, a scope, a task and the frames of all coroutines that led to the endpoint: 9 KiB that are
no longer needed. Here the application can return and leave its stream behind (``detach``), to which the feed goes on writing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.server.transport_writer import TransportWriter

if TYPE_CHECKING:
    from gateway.server.protocols import HttpProtocol


class StreamWriter(TransportWriter):
    """The writer of one response in chunks, to be used once the head was sent, or taken by ``take_head``.

    The transport's protocol is still the HTTP protocol, which passes on what this must know: when a transport gets another protocol,
    uvloop stops reading and starts again, which takes two system calls.
    """

    __slots__ = ("_http",)

    def __init__(self, http: HttpProtocol) -> None:
        super().__init__(http.transport)
        self._http: HttpProtocol | None = http

    def take_head(self) -> bytes:
        """The head of the response that was started, which the caller must write first; empty if it was sent already."""
        return b"" if self._http is None else self._http.take_head()

    def detach(self) -> bool:
        """Let the stream outlive the application's call.

        Returns:
            ``False`` if that is not possible, because the client is gone, or because other requests wait on the same connection
        """
        http = self._http
        if http is None or not http.hand_over():
            return False
        self._http = None
        return True

    def end(self) -> None:
        """Send the last chunk and close.

        The head does not tell of that with ``Connection: close``: Node's fetch (undici) would take a stream that is cut for a whole one.
        """
        if not self.gone:
            self.write(b"0\r\n\r\n")
            self.leave()
            self.transport.close()
