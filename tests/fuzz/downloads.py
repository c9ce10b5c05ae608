"""Random answers of a web server: each download is complete, or one line of DownloadError says why not."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import harness
from harness import one_line
from misbehaving import FORM, QUOTA, serving

from drsformer_cli.downloads import http
from drsformer_cli.errors import DownloadError

if TYPE_CHECKING:
    import random

BODY = bytes(i * i % 251 for i in range(5000))
SIZE = (4000, 6000)


@functools.cache
def seeds() -> list[bytes]:
    def answer(status: str, body: bytes, *headers: str) -> bytes:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
        return "\r\n".join([*lines, "", ""]).encode() + body

    page = FORM.format(action="/download").encode()
    return [
        answer("200 OK", BODY, 'ETag: "a"', "Content-Type: application/octet-stream"),
        answer("206 Partial Content", BODY[2000:], "Content-Range: bytes 2000-4999/5000", 'ETag: "a"'),
        answer("200 OK", page, "Content-Type: text/html; charset=utf-8"),
        answer("200 OK", QUOTA.encode(), "Content-Type: text/html"),
        answer("302 Found", b"", "Location: /elsewhere"),
        answer("416 Range Not Satisfiable", b"", "Content-Range: bytes */5000"),
        answer("503 Busy", b"", "Retry-After: 1"),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1388\r\n" + BODY + b"\r\n0\r\n\r\n",
    ]


def case(rng: random.Random) -> tuple[bytes, object]:
    answers = []
    for _ in range(rng.randrange(1, 5)):
        data = rng.choice(seeds())
        answers.append(harness.damaged(data, rng, seeds()) if rng.random() < 0.8 else data)
    return b"\n----\n".join(answers), functools.partial(check, answers)


def check(answers: list[bytes]) -> None:
    http.BACK_OFF_SECONDS, http.LONGEST_WAIT_SECONDS, http.READ_SECONDS = 0, 0, 0.2
    with serving() as server, tempfile.TemporaryDirectory() as folder:
        server.faults = [functools.partial(send, data) for data in answers]
        server.always = functools.partial(send, answers[-1])
        part = http.PartialFile(Path(folder) / "file.part")
        done = one_line(
            DownloadError, lambda: (http.download(f"{server.url}/file", part, SIZE, lambda *_: None), True)[1]
        )
        if done:
            assert SIZE[0] <= part.size <= SIZE[1], part.size


def send(data: bytes, request: object) -> None:
    request.wfile.write(data)


if __name__ == "__main__":
    harness.main(case)
