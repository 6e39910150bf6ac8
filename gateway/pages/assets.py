"""Assets: the files of the demo's page, with headers that let it load and run nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from gateway.transports.files import FileEndpoint
from gateway.transports.guarded import Guarded

HERE: Final = Path(__file__).parent

_POLICY: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def asset(name: str) -> Guarded:
    """The endpoint of a file of the page."""
    return Guarded(FileEndpoint(HERE / name, [(b"content-security-policy", _POLICY), (b"referrer-policy", b"no-referrer")]))
