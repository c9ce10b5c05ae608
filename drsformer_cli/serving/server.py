"""Listen on a port, and stop when asked: the running request is finished, those that wait are refused."""

from __future__ import annotations

import ipaddress
import os
import socket
from typing import TYPE_CHECKING

import uvicorn

from drsformer_cli.errors import UsageError, reason
from drsformer_cli.serving.app import Settings, make_app

if TYPE_CHECKING:
    from drsformer_cli.serving.worker import Worker


def listen(host: str, port: int) -> socket.socket:
    """A socket that accepts connections.

    Args:
        host: Name or address of this machine.
        port: Port; 0: any that is free.

    Raises:
        UsageError: There is no such host, or the port is in use or not allowed.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=128)
    except (OSError, UnicodeError) as error:
        number = getattr(error, "errno", 0) or 0  # negative: of getaddrinfo
        why = os.strerror(number) if number > 0 else reason(error)
        raise UsageError(f"--host {host} --port {port}: {why}") from None


def address_of(listening: socket.socket) -> str:
    """The address for a browser."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def is_loopback(listening: socket.socket) -> bool:
    """Whether only this machine can connect."""
    return ipaddress.ip_address(listening.getsockname()[0]).is_loopback


def make_server(worker: Worker, settings: Settings) -> uvicorn.Server:
    """A server that finishes the running request when it is stopped, and refuses those that wait."""
    config = uvicorn.Config(
        make_app(worker, settings),
        http="h11",
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=int(settings.timeout) + 1,
    )
    return _Server(config, worker)


def serve(listening: socket.socket, worker: Worker, settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM; a second SIGINT ends the running request, too."""
    server = make_server(worker, settings)
    try:
        server.run(sockets=[listening])
    except (KeyboardInterrupt, SystemExit):  # uvicorn sends itself the signal again after it has stopped
        if not server.should_exit:
            raise


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, worker: Worker) -> None:
        super().__init__(config)
        self._worker = worker

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._worker.stop()
        await super().shutdown(sockets)
