"""The gate alone: CPU of who may come in, to be watched over and to be forgotten, without sockets."""

import asyncio
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))
from tests.support.tokens import SECRET, make_token
from gateway.app import create_app
from gateway import Settings


async def main():
    g = create_app(Settings(redis_url="redis://127.0.0.1:1", jwt_secret=SECRET)).services
    o = create_app(Settings(redis_url="redis://127.0.0.1:1", auth="none")).services
    g.access._loaded.set()

    class H:
        def __init__(s, gr):
            s.grant = gr

        def lose(s, e):
            print(e)

    def scope(t):
        return {
            "query_string": b"channel=user:ann",
            "headers": [
                (b"host", b"127.0.0.1:8000"),
                (b"upgrade", b"websocket"),
                (b"connection", b"Upgrade"),
                (b"sec-websocket-key", b"x" * 24),
                (b"sec-websocket-version", b"13"),
                (b"user-agent", b"x" * 80),
                (b"authorization", b"Bearer " + t.encode()),
            ],
        }

    toks = [make_token(jti=str(i)) for i in range(3000)]
    scopes = [scope(t) for t in toks]
    for r in range(2):
        for name, s in (("none", o), ("cold" if not r else "warm", g)):
            a = time.process_time()
            for x in scopes:
                gr = await s.gate.authenticate(x)
                h = H(gr)
                s.access.admit(h)
                s.access.dismiss(h)
            print(name, round((time.process_time() - a) / 3000 * 1e6, 1))


asyncio.run(main())
