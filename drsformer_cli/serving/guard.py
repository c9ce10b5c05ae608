"""Refuse requests that a page of another web site has a browser make."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
"""Names of this machine that nobody else can give to theirs."""

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class Guard:
    """ASGI middleware that checks the headers Host and Origin.

    A browser tells in Origin which site a request comes from; programs need not send it. A site whose name is resolved
    to this machine (DNS rebinding) is the same origin for the browser, but has its own name in Host.

    Args:
        app: The application.
        hosts: Names that requests may be sent to; None: any.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str] | None) -> None:
        self.app = app
        self.hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403, or pass the request on."""
        problem = self._problem(scope) if scope["type"] == "http" else None
        if problem is None:
            await self.app(scope, receive, send)
            return
        body = json.dumps({"error": problem}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 403, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _problem(self, scope: Scope) -> str | None:
        headers = {name: value.decode("latin-1").lower() for name, value in scope["headers"]}
        host, origin = headers.get(b"host", ""), headers.get(b"origin")
        if self.hosts is not None and _name(f"//{host}") not in self.hosts:
            return "the Host header is not a name of this server"
        if origin is not None and scope["method"] not in _SAFE_METHODS and origin.partition("://")[2] != host:
            return "requests from pages of other web sites are refused"
        return None


def _name(address: str) -> str | None:
    """The host name in an address; None: it is invalid."""
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None
