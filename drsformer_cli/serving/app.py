"""The HTTP interface: an image is posted, and the answer is the restored image or an error on one line."""

# Without `from __future__ import annotations`: FastAPI reads the annotations of functions inside of functions.

import asyncio
import json
import logging
import math
import threading
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from drsformer.errors import DeviceError
from drsformer_cli import __version__
from drsformer_cli.errors import IMAGE_ERRORS, reason
from drsformer_cli.formats import DEFAULT_QUALITY, FORMAT_OF_ENDING, FORMATS, FormatName, listed, missing_extra
from drsformer_cli.images import TooLargeError, UnsupportedError
from drsformer_cli.pages.page import assemble, escape
from drsformer_cli.serving.guard import Guard
from drsformer_cli.serving.worker import Answer, Job, StoppedError, Task, Worker

_IDLE_SECONDS = 20.0  # a client that sends nothing for so long has gone
_DRAIN_SECONDS = 5.0
_CLIENT_CLOSED = 499  # nginx's number; nobody reads the answer

logger = logging.getLogger("drsformer")


@dataclass(frozen=True)
class Settings:
    """How requests are served.

    Attributes:
        model: The model, as the user named it.
        queue: Number of requests that may wait while one is processed.
        largest_body: Largest file in bytes.
        timeout: Seconds after which a request is given up.
        hosts: Names that requests may be sent to; None: any.
    """

    model: str
    queue: int
    largest_body: int
    timeout: float
    hosts: frozenset[str] | None


class Options(BaseModel):
    """The query of a request; the options of `derain` with these names."""

    model_config = ConfigDict(extra="forbid")

    format: Annotated[FormatName | None, BeforeValidator(str.lower)] = None
    quality: int = Field(DEFAULT_QUALITY, ge=1, le=100)
    strength: float = Field(1.0, ge=0, le=1)


class _Refusal(Exception):  # noqa: N818 - an answer, not an error of the program
    """A request without an image in its answer."""

    def __init__(
        self, status: int, text: str, headers: Mapping[str, str] | None = None, *, retry_after: int | None = None
    ) -> None:
        super().__init__(text)
        self.status = status
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["Retry-After"] = str(retry_after)


def make_app(worker: Worker, settings: Settings) -> FastAPI:
    """The web application."""
    app = FastAPI(title="drsformer", version=__version__, docs_url=None, redoc_url=None)
    app.add_middleware(Guard, hosts=settings.hosts)
    service = _Service(worker, settings)
    page = _page(settings)

    # Monitors ask for the head alone.
    @app.head("/", include_in_schema=False)
    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def index() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": "frame-ancestors 'none'"})

    @app.head("/health", include_in_schema=False)
    @app.get("/health")
    async def health() -> dict[str, object]:
        return {"status": "ok", "version": __version__, "model": settings.model, "free_places": service.free_places}

    @app.head("/models", include_in_schema=False)
    @app.get("/models")
    async def models() -> dict[str, object]:
        device = str(worker.restorer.device)
        return {"models": [{"name": settings.model, "device": device, "precision": worker.restorer.precision}]}

    @app.post("/derain", response_class=Response, openapi_extra=_BODY)
    async def derain(request: Request, options: Annotated[Options, Query()]) -> Response:
        return await service.derain(request, options)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return await _refused(request, _Refusal(422, _in_words(error.errors()[0])))

    @app.exception_handler(HTTPException)
    async def not_found(request: Request, error: HTTPException) -> Response:
        return await _refused(request, _Refusal(error.status_code, str(error.detail), error.headers))

    @app.exception_handler(Exception)
    async def failed(_request: Request, _error: Exception) -> Response:
        return JSONResponse({"error": "internal error; the server's log has the details"}, 500)

    return app


class _Service:
    """Requests for images: their places in the queue, their bodies and their time."""

    def __init__(self, worker: Worker, settings: Settings) -> None:
        self.worker = worker
        self.settings = settings
        self.free_places = settings.queue + 1
        self._lock = threading.Lock()  # places are taken in the event loop and given back in the worker's thread

    async def derain(self, request: Request, options: Options) -> Response:
        try:
            answer = await self._answer(request, options)
        except _Refusal as refusal:
            return await _refused(request, refusal)
        except ClientDisconnect:
            return Response(status_code=_CLIENT_CLOSED)
        except IMAGE_ERRORS as error:
            return await _refused(request, _Refusal(_status(error), reason(error)))
        logger.info("%d bytes restored in %.2f s", len(answer.file), answer.seconds)
        headers = {
            "X-Drsformer-Notes": json.dumps(answer.notes),  # ASCII, on one line
            "X-Drsformer-Seconds": f"{answer.seconds:.3f}",
            "X-Drsformer-Scale": f"{answer.scale:g}",
            "X-Drsformer-Mean-Change": f"{answer.mean_change:.3f}",
            "Cache-Control": "no-store",
        }
        return Response(answer.file, headers=headers, media_type=FORMATS[answer.image_format].mime)

    async def _answer(self, request: Request, options: Options) -> Answer:
        deadline = asyncio.get_running_loop().time() + self.settings.timeout
        if options.format and (missing := missing_extra(f".{options.format}")):
            raise _Refusal(422, f"format: {missing}")
        if request.headers.get("content-type", "").startswith("multipart/form-data"):
            expected = "the bytes of an image file, as curl --data-binary sends them"
            raise _Refusal(415, f"the body is a form; expected {expected}")
        self._take_place()
        job = None
        try:
            file = await self._body(request, deadline)
            image_format = FORMAT_OF_ENDING[f".{options.format}"] if options.format else None
            job = self.worker.submit(Task(file, image_format, options.quality, options.strength))
            job.answer.add_done_callback(lambda _: self._give_place())
        except StoppedError:
            raise _Refusal(503, "the server is stopping", retry_after=10) from None
        finally:
            if job is None:
                self._give_place()
        return await self._wait(request, job, deadline)

    def _take_place(self) -> None:
        with self._lock:
            if self.free_places == 0:
                raise _Refusal(
                    429,
                    "the queue is full; try again later",
                    retry_after=max(1, math.ceil(self.worker.last_seconds)),
                )
            self.free_places -= 1

    def _give_place(self) -> None:
        with self._lock:
            self.free_places += 1

    async def _body(self, request: Request, deadline: float) -> bytes:
        largest = self.settings.largest_body
        too_large = _Refusal(413, f"the file is larger than the limit of {largest / 1e6:g} MB")
        length = request.headers.get("content-length", "0")
        if length.isdecimal() and int(length) > largest:
            raise too_large
        parts, size = [], 0
        try:
            async with asyncio.timeout_at(deadline):
                async for part in _stream(request):
                    size += len(part)
                    if size > largest:
                        raise too_large
                    parts.append(part)
        except TimeoutError:
            raise _Refusal(408, "the file did not arrive in time") from None
        if not size:
            raise _Refusal(400, "the body is empty; expected the bytes of an image file")
        return b"".join(parts)

    async def _wait(self, request: Request, job: Job, deadline: float) -> Answer:
        answer, gone = asyncio.wrap_future(job.answer), asyncio.create_task(_disconnected(request))
        try:
            either: set[asyncio.Future[Any]] = {answer, gone}
            left = deadline - asyncio.get_running_loop().time()
            await asyncio.wait(either, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if answer.cancelled():
                raise _Refusal(503, "the server is stopping", retry_after=10)
            if answer.done() and (result := answer.result()) is not None:
                return result
            if gone.done():
                raise ClientDisconnect
            if job.abandon():
                raise _Refusal(503, f"no result in {self.settings.timeout:g} s: the server is busy", retry_after=10)
            raise _Refusal(504, f"no result in {self.settings.timeout:g} s: the image takes too long")
        finally:  # also when the server is stopped
            gone.cancel()
            if not answer.done():
                job.abandon()
                answer.cancel()


async def _stream(request: Request) -> AsyncIterator[bytes]:
    """The parts of a body as they arrive.

    Raises:
        TimeoutError: The client sends nothing.
        ClientDisconnect: The client has gone.
    """
    parts = aiter(request.stream())
    while True:
        try:
            yield await asyncio.wait_for(anext(parts), _IDLE_SECONDS)
        except StopAsyncIteration:
            return


async def _disconnected(request: Request) -> None:
    """Wait until the client has gone; its body was read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _refused(request: Request, refusal: _Refusal) -> Response:
    """The answer to a request that is refused; clients read it only after they have sent the whole body."""
    try:
        async with asyncio.timeout(_DRAIN_SECONDS):
            async for _ in request.stream():
                pass
    except (TimeoutError, ClientDisconnect, RuntimeError):  # RuntimeError: it was read
        pass
    return JSONResponse({"error": str(refusal)}, refusal.status, refusal.headers)


def _in_words(problem: Mapping[str, Any]) -> str:
    """What is wrong with a query, by what pydantic found."""
    name = problem["loc"][-1]
    if problem["type"] == "extra_forbidden":
        return f"{name}: no such option; expected {listed(list(Options.model_fields), 'or')}"
    return " ".join(f"{name}: {problem['msg']}, not {problem['input']!r}".split())


def _status(error: BaseException) -> int:
    """The status for an image that cannot be restored."""
    if isinstance(error, UnsupportedError):
        return 415
    if isinstance(error, TooLargeError):
        return 413
    return 503 if isinstance(error, DeviceError | MemoryError) else 422


_BODY: dict[str, Any] = {
    "requestBody": {"required": True, "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}}
}


def _page(settings: Settings) -> str:
    """The page to drop an image on."""
    formats = "".join(
        f'<option value="{escape(row.endings[0])}">{escape(row.title)}</option>'
        for row in FORMATS.values()
        if row.missing() is None
    )
    values = {"model": escape(settings.model), "formats": formats}
    return assemble("serve", "Remove rain from an image", values, policy="img-src data: blob:; connect-src 'self'")
