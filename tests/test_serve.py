"""`drsformer serve`: the HTTP interface in this process, and one real server."""

import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import photo
from image_files import chunk, png
from PIL import Image

from drsformer.inference import Restorer
from drsformer_cli import __version__, images
from drsformer_cli.deraining.pipeline import restore_image

pytest.importorskip("fastapi", reason="the extra serve is not installed")
pytest.importorskip("uvicorn", reason="the extra serve is not installed")

from drsformer_cli.formats import FORMATS, format_of
from drsformer_cli.serving import app as app_module
from drsformer_cli.serving import server
from drsformer_cli.serving.app import Settings, make_app
from drsformer_cli.serving.guard import LOOPBACK_NAMES
from drsformer_cli.serving.worker import StoppedError, Task, Worker

SETTINGS = {"model": "tiny", "queue": 1, "largest_body": 100_000, "timeout": 60, "hosts": LOOPBACK_NAMES}


class Gate:
    """A restorer that restores when the test says so."""

    def __init__(self, restorer):
        self.restorer = restorer
        self.strength = 1.0
        self.begun, self.go, self.tiles = threading.Event(), threading.Event(), 0

    def restore(self, pixels, progress=None):
        self.begun.set()
        while not self.go.wait(0.005):  # a tile
            progress(self.tiles, 0)
            self.tiles += 1
        return self.restorer.restore(pixels, progress)


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    content: bytes

    def json(self):
        return json.loads(self.content)


@dataclass
class Client:
    """A client of a server on this machine; each request has its own connection."""

    port: int

    def request(self, method, path, body=None, headers=None):
        with closing(http.client.HTTPConnection("localhost", self.port, timeout=60)) as connection:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())

    def get(self, path, headers=None):
        return self.request("GET", path, None, headers)

    def post(self, path, body=None, headers=None):
        return self.request("POST", path, encoded() if body is None else body, headers)

    def wait_for_free_places(self, number):
        end = time.monotonic() + 60
        while (free := self.get("/health").json()["free_places"]) != number:
            assert time.monotonic() < end, free
            time.sleep(0.02)


@contextmanager
def serving(restorer, **changes):
    """A client of a real server in another thread."""
    with server.listen("127.0.0.1", 0) as listening:
        running = server.make_server(Worker(restorer), Settings(**SETTINGS | changes))
        thread = threading.Thread(target=running.run, args=[[listening]])
        thread.start()
        try:
            yield Client(listening.getsockname()[1])
        finally:
            running.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def restorer(tiny):
    return Restorer(tiny, scale=1)


@pytest.fixture(scope="module")
def client(restorer):
    with serving(restorer) as client:
        yield client


def encoded(image_format="PNG", pixels=None, **options):
    buffer = io.BytesIO()
    Image.fromarray(photo() if pixels is None else pixels).save(buffer, image_format, **options)
    return buffer.getvalue()


def error_of(answer):
    """The status and the message of an error, which is one line."""
    (text,) = answer.json().values()
    assert list(answer.json()) == ["error"]
    assert text
    assert "\n" not in text
    return answer.status, text


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "TIFF", "BMP"])
def test_answer_is_what_derain_writes(client, restorer, image_format):
    data = encoded(image_format)
    answer = client.post("/derain", data)
    expected = restore_image(images.read(data), restorer)
    assert answer.status == 200
    assert answer.content == images.encode(expected.image, image_format)
    assert answer.headers["content-type"] == Image.MIME[image_format]
    assert json.loads(answer.headers["x-drsformer-notes"]) == []
    assert answer.headers["x-drsformer-scale"] == "1"
    assert float(answer.headers["x-drsformer-mean-change"]) == pytest.approx(expected.mean_change, abs=1e-3)


@pytest.mark.parametrize("row", FORMATS.values(), ids=lambda row: row.title)
def test_every_format_is_written(client, row):
    answer = client.post(f"/derain?format={row.endings[0]}", encoded())
    assert (answer.status, answer.headers["content-type"]) == (200, row.mime)
    assert format_of(answer.content[:64]) == row.name


def test_query_has_the_options_of_derain(client):
    data = encoded("JPEG", quality=95, comment=b"kept")
    png = client.post("/derain?format=png&strength=0", data)
    with Image.open(io.BytesIO(png.content)) as opened, Image.open(io.BytesIO(data)) as original:
        assert opened.format == "PNG"
        assert np.array_equal(np.asarray(opened), np.asarray(original))
    assert json.loads(png.headers["x-drsformer-notes"]) == ["comment dropped: PNG has none"]
    small, large = (client.post(f"/derain?quality={quality}", data) for quality in (10, 95))
    assert len(small.content) < len(large.content)
    with Image.open(io.BytesIO(small.content)) as opened:
        assert opened.info["comment"] == b"kept"
    assert client.post("/derain", data).content == large.content  # strength is that of each request


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (b"", 400, "the body is empty"),
        (encoded()[:2000], 422, "damaged image"),
        (encoded()[:30], 422, "damaged image"),
        (encoded("JPEG")[:300], 422, "damaged image"),
        (b"x" * 100_001, 413, "the file is larger than the limit of 0.1 MB"),
        ((b"x" * 10_000 for _ in range(11)), 413, "the file is larger than the limit of 0.1 MB"),
    ],
    ids=["empty", "truncated", "header", "jpeg", "too-large", "streamed"],
)
def test_bad_body_is_one_line_and_a_status(client, body, status, text):
    answer = error_of(client.post("/derain", body))
    assert answer[0] == status
    assert text in answer[1]
    assert client.get("/health").json()["free_places"] == 2


ANIMATED = {"save_all": True, "append_images": [Image.fromarray(photo(seed=1))]}
UNSUPPORTED = {
    "nothing": (b"\0", "not an image"),
    "gif": (b"GIF89a" + bytes(50), "is a GIF"),
    "jpeg-xl": (b"\xff\x0a" + bytes(50), "is a JPEG XL image"),
    "video": (b"\0\0\0\x18ftypisom" + bytes(50), "is a video"),
    "raw": (b"IIRO" + bytes(50), "is a raw file"),
    "dng": (encoded("TIFF", tiffinfo={50706: bytes([1, 4, 0, 0])}), "is a raw file"),
    "animated-png": (encoded(**ANIMATED), "has 2 frames or pages"),
    "animated-webp": (encoded("WEBP", **ANIMATED), "has 2 frames or pages"),
    "animated-avif": (encoded("AVIF", **ANIMATED), "has 2 frames or pages"),
    "pages": (encoded("TIFF", **ANIMATED), "has 2 frames or pages"),
    "thumbnail": (encoded("TIFF", tiffinfo={254: 1}), "holds only a reduced image"),
    "float": (encoded("TIFF", np.zeros((8, 8), np.float32)), "not supported: TIFF of 1 channel of 32-bit"),
    "hdr": (png(photo(), before=chunk(b"cICP", bytes([9, 16, 0, 1]))), "is HDR"),
    "iphone": (png(photo(), before=chunk(b"CgBI", bytes(4))), "iPhone-optimized PNG"),
    "jpeg-12": (
        encoded("JPEG").replace(b"\xff\xc0\0\x11\x08", b"\xff\xc1\0\x11\x0c"),
        "not supported: JPEG of 12 bits",
    ),
    "sequence": (b"\0\0\0\x18ftyphevc" + bytes(50), "is an image sequence"),
}


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_every_kind_that_is_not_read_has_one_status(client, kind):
    if kind == "sequence":
        pytest.importorskip("pillow_heif")
    body, text = UNSUPPORTED[kind]
    answer = error_of(client.post("/derain", body))
    assert answer[0] == 415
    assert text in answer[1]


def test_heic_without_the_extra(client, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    line = "HEIC needs pip install 'drsformer[heic]'"
    assert error_of(client.post("/derain", b"\0\0\0\x18ftypheic" + bytes(50))) == (415, line)
    assert error_of(client.post("/derain?format=heic")) == (422, f"format: {line}")
    assert client.get("/health").json()["free_places"] == 2


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("quality=0", "quality: Input should be greater than or equal to 1, not '0'"),
        ("quality=x", "quality: Input should be a valid integer, unable to parse string as an integer, not 'x'"),
        ("strength=nan", "strength: Input should be less than or equal to 1, not 'nan'"),
        ("strength=1.01", "strength: Input should be less than or equal to 1, not '1.01'"),
        ("qualty=9", "qualty: no such option; expected format, quality or strength"),
    ],
)
def test_invalid_query(client, query, message):
    assert error_of(client.post(f"/derain?{query}")) == (422, message)


def test_an_unknown_format(client):
    status, text = error_of(client.post("/derain?format=Gif"))
    assert status == 422
    assert re.fullmatch(r"format: Input should be 'jpg'.*, not 'gif'", text)


def test_a_format_in_capitals(client):
    assert client.post("/derain?format=PNG", encoded("JPEG")).headers["content-type"] == "image/png"


def test_a_form_is_not_the_bytes_of_an_image(client):
    form = b'--x\r\nContent-Disposition: form-data; name="a"; filename="a.png"\r\n\r\n' + encoded() + b"\r\n--x--\r\n"
    answer = client.post("/derain", form, {"Content-Type": "multipart/form-data; boundary=x"})
    assert error_of(answer) == (
        415, "the body is a form; expected the bytes of an image file, as curl --data-binary sends them"
    )  # fmt: skip


def test_too_many_megapixels(client, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    status, text = error_of(client.post("/derain"))
    assert (status, text) == (413, "0.00224 megapixels, more than the limit of 0.002")


def test_what_a_format_cannot_hold_is_no_server_error():
    data = encoded(pixels=np.zeros((1, 17_000, 3), np.uint8))
    with serving(SimpleNamespace()) as client:  # the network is not asked
        status, text = error_of(client.post("/derain?format=webp", data))
    assert (status, text) == (422, "cannot be written as WebP, 17000x1: expected at most 16383 pixels a side")


def test_bug_is_a_server_error_without_details(caplog):
    class Broken:
        def restore(self, *_):
            raise ZeroDivisionError("secret")

    with serving(Broken()) as client:
        status, text = error_of(client.post("/derain"))
        assert status == 500
        assert "secret" not in text
        assert client.get("/health").json()["free_places"] == 2
    assert "ZeroDivisionError" in caplog.text


def test_other_addresses(client):
    assert client.get("/health").json() == {
        "status": "ok", "version": __version__, "model": "tiny", "free_places": 2,
    }  # fmt: skip
    assert client.get("/models").json() == {"models": [{"name": "tiny", "device": "cpu", "precision": "fp32"}]}
    assert error_of(client.get("/nothing"))[0] == 404
    assert error_of(client.get("/derain"))[0] == 405
    assert client.get("/derain").headers["allow"] == "POST"
    assert [client.request("HEAD", path).status for path in ("/", "/health", "/models", "/derain")] == [
        200,
        200,
        200,
        405,
    ]
    page = client.get("/")
    assert page.headers["content-security-policy"] == "frame-ancestors 'none'"
    assert "<title>Remove rain from an image</title>" in page.content.decode()
    assert client.get("/docs").status == 404  # FastAPI's would load scripts from elsewhere
    assert "/derain" in client.get("/openapi.json").json()["paths"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "localhost", "Origin": "http://localhost"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Host": "localhost", "Origin": "http://localhost:81"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example", "Origin": "http://evil.example"}, 403),
        ({"Host": "[::1]:8000", "Origin": "http://[::1]:8000"}, 200),
        ({"Host": "[::1"}, 403),
        ({"Host": ""}, 403),
    ],
)
def test_pages_of_other_web_sites_are_refused(client, headers, status):
    answer = client.post("/derain", None, headers)
    assert answer.status == status
    if status != 200:
        assert error_of(answer)


def test_scale(tiny):
    larger = Restorer(tiny, scale=2)
    with serving(larger) as client:
        answer = client.post("/derain")
    assert answer.headers["x-drsformer-scale"] == "2"
    assert np.array_equal(images.read(answer.content).pixels, larger(photo()))


def test_on_other_addresses_any_host_name_is_ours(restorer):
    with serving(restorer, hosts=None) as client:
        assert client.get("/health", {"Host": "gpu-server:8000"}).status == 200
        origin = {"Host": "gpu-server:8000", "Origin": "http://evil.example"}
        assert client.post("/derain", None, origin).status == 403


def test_queue_has_a_limit(restorer):
    """One request runs, one waits, the third is refused; the others are answered."""
    gate, answers = Gate(restorer), []
    with serving(gate) as client:
        threads = [threading.Thread(target=lambda: answers.append(client.post("/derain").status)) for _ in range(2)]
        threads[0].start()
        assert gate.begun.wait(60)
        threads[1].start()
        client.wait_for_free_places(0)
        refused = client.post("/derain")
        assert error_of(refused) == (429, "the queue is full; try again later")
        assert int(refused.headers["retry-after"]) >= 1
        gate.go.set()
        for thread in threads:
            thread.join()
        assert answers == [200, 200]
        assert client.get("/health").json()["free_places"] == 2


def test_request_that_takes_too_long_is_given_up(restorer):
    for timeout in (0.05, 0.5, 5):  # on a busy machine, the image may not arrive or begin in a short time
        with serving(Gate(restorer), timeout=timeout) as client:
            status, text = error_of(client.post("/derain"))
            client.wait_for_free_places(2)  # it ends at the next tile
        if status == 504:
            break
        assert status in (408, 503)
    assert (status, text) == (504, f"no result in {timeout:g} s: the image takes too long")


def test_worker_that_was_stopped_takes_nothing(restorer):
    worker = Worker(restorer)
    worker.stop()
    with pytest.raises(StoppedError):
        worker.submit(Task(encoded(), None, 95, 1.0))


def test_what_cannot_be_served_is_one_line(run, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        answer = run("serve", "--port", port)
        assert (answer.code, answer.out) == (2, "")
        assert answer.err == f"drsformer: --host 127.0.0.1 --port {port}: Address already in use\n"
    assert run("serve", "--port", 0, "--model", "nothing.pth").code == 2
    monkeypatch.setattr("drsformer_cli.commands.serve.find_spec", lambda name: None)
    answer = run("serve")
    assert (answer.code, answer.err) == (
        2,
        "drsformer: serve needs FastAPI and uvicorn: pip install 'drsformer[serve]'\n",
    )


def test_real_server(tiny_file, tmp_path):
    """Bodies that stop arriving, clients that go away, and a signal while a request runs: it is finished."""
    command = [sys.executable, "-m", "drsformer_cli", "serve", "--port", "0", "--model", str(tiny_file)]
    process = subprocess.Popen(
        [*command, "--scale", "1", "--tile", "16", "--max-megabytes", "10"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    with process, ExitStack() as connections:
        port = int(re.search(r":(\d+)/$", process.stdout.readline())[1])
        client = Client(port)

        def connect(*arguments):
            connection = connections.enter_context(closing(http.client.HTTPConnection("localhost", port, timeout=60)))
            if arguments:
                connection.request(*arguments)
            return connection

        large = encoded(pixels=photo(400, 400))
        gone = connect("POST", "/derain", large)
        client.wait_for_free_places(8)
        gone.close()
        client.wait_for_free_places(9)  # its work ends at the next tile
        stalled = connect()
        stalled.putrequest("POST", "/derain")
        stalled.putheader("Content-Length", "100")
        stalled.endheaders(b"part")
        assert error_of(client.post("/derain", bytes(12_000_000)))[0] == 413
        running = connect("POST", "/derain", encoded(pixels=photo(96, 96)))
        waiting = connect("POST", "/derain", encoded())
        client.wait_for_free_places(6)
        stalled.close()
        process.send_signal(signal.SIGTERM)
        answer = running.getresponse()
        assert answer.status == 200
        assert images.read(answer.read()).pixels.shape == (96, 96, 3)
        assert waiting.getresponse().status in (200, 503)  # 200: it had begun
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "drsformer: tiles of less than 192 pixels leave more rain\n")
    assert list(Path(tmp_path).iterdir()) == []


def test_client_that_sends_nothing_loses_its_place(restorer, monkeypatch):
    """A body of which no part arrives, as the server's interface delivers it."""
    import asyncio

    monkeypatch.setattr(app_module, "_IDLE_SECONDS", 0.01)
    monkeypatch.setattr(app_module, "_DRAIN_SECONDS", 0.01)
    sent = []
    worker = Worker(restorer)
    app = make_app(worker, Settings(**SETTINGS))

    async def receive():
        await asyncio.sleep(60)

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/derain",
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
    }
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 408
    assert json.loads(sent[1]["body"]) == {"error": "the file did not arrive in time"}
    worker.stop()
