"""`drsformer serve`: its options, and the address that it prints."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated

import typer

from drsformer_cli import console, options
from drsformer_cli.downloads import zoo
from drsformer_cli.errors import UsageError


def serve(
    model: options.ModelOption = zoo.DEFAULT_MODEL,
    host: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Name or address to listen on; 0.0.0.0: all of this machine. Default: 127.0.0.1.",
            show_default=False,
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            parser=options.number(int, 0, 65535),
            metavar="N",
            help="Port; 0: any that is free. Default: 8000.",
            show_default=False,
        ),
    ] = 8000,
    queue: Annotated[
        int,
        typer.Option(
            parser=options.number(int, 0, 1000),
            metavar="N",
            help="Requests that may wait; further ones are refused. Default: 8.",
            show_default=False,
        ),
    ] = 8,
    timeout: Annotated[
        float,
        typer.Option(
            parser=options.number(float, 0.1, 86_400),
            metavar="SECONDS",
            help="Give a request up after this time. Default: 300.",
            show_default=False,
        ),
    ] = 300,
    max_megabytes: Annotated[
        float,
        typer.Option(
            parser=options.number(float, 0.001, 100_000),
            metavar="N",
            help="Refuse larger files. Default: 100.",
            show_default=False,
        ),
    ] = 100,
    max_megapixels: Annotated[
        float,
        typer.Option(
            parser=options.number(float, 0.001, 1_000_000),
            metavar="N",
            help="Refuse larger images. Default: 64.",
            show_default=False,
        ),
    ] = 64,
    scale: options.ScaleOption = "auto",
    tile: options.TileOption = "auto",
    device: options.DeviceOption = "auto",
    precision: options.PrecisionOption = "auto",
    threads: options.ThreadsOption = None,
    quiet: options.QuietOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """Remove the rain from images over HTTP, and serve a page to drop an image on.

    POST an image file to /derain, and get the restored image in the same format: curl --data-binary @rainy.jpg
    localhost:8000/derain -o restored.jpg. Query: format, quality and strength, as the options of derain. What had to be
    changed is in the header X-Drsformer-Notes. Errors are JSON: {"error": "..."}. Also: GET /health, GET /models.

    Needs: pip install 'drsformer[serve]'

    Exit codes: 0 stopped by Ctrl-C or SIGTERM; 2 invalid usage or the port is in use; 4 weights unavailable.
    """
    if not (find_spec("fastapi") and find_spec("uvicorn")):
        raise UsageError("serve needs FastAPI and uvicorn: pip install 'drsformer[serve]'")

    from drsformer.inference import Restorer
    from drsformer_cli import images
    from drsformer_cli.serving import server
    from drsformer_cli.serving.app import Settings
    from drsformer_cli.serving.guard import LOOPBACK_NAMES
    from drsformer_cli.serving.worker import Worker

    console.show_log(verbose=verbose, quiet=quiet)
    with server.listen(host, port) as listening:
        images.allow_megapixels(max_megapixels)
        loaded = zoo.load_model(model, device=device, threads=threads, quiet=quiet)
        restorer = Restorer(
            loaded.network, scale=options.parse_scale(scale), tile=options.parse_tile(tile), precision=precision
        )
        local = server.is_loopback(listening)
        if not local and not quiet:
            console.say(f"{host}: everyone who can reach this machine can use the server; it has no password")
        settings = Settings(
            model=model,
            queue=queue,
            largest_body=int(max_megabytes * 1e6),
            timeout=timeout,
            hosts=LOOPBACK_NAMES | {host.lower()} if local else None,
        )
        if not quiet:
            console.result(f"{model} on {server.address_of(listening)}")
        server.serve(listening, Worker(restorer), settings)
