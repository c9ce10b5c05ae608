"""Downloads from a server that misbehaves."""

import errno
import json
import resource
import threading
import time
from email.utils import formatdate
from functools import partial
from types import SimpleNamespace

import misbehaving
import pytest
from misbehaving import honest, page, redirect, status

from drsformer_cli.downloads import http
from drsformer_cli.downloads.http import PartialFile
from drsformer_cli.errors import DownloadError

SIZE = (1000, 300_000)


@pytest.fixture
def part(tmp_path):
    return PartialFile(tmp_path / "file.part")


@pytest.fixture
def server(server):
    server.body = bytes(i * i % 251 for i in range(100_000))
    return server


@pytest.fixture
def bring(server, part):
    """Download from the server, or from another address or with other limits."""

    def bring(url=None, size=SIZE, progress=lambda done, total: None):
        http.download(url or f"{server.url}/file", part, size, progress)
        return part.path.read_bytes()

    return bring


def ranges(server):
    return [headers.get("Range") for _, headers in server.asked]


def cut(length):
    return partial(honest, cut=length)


def test_one_request_and_no_secrets_on_disk(server, part, bring):
    reports = []
    url = server.url.replace("//", "//me:secret@") + "/file?token=secret"
    assert bring(url, progress=lambda done, total: reports.append((done, total))) == server.body
    assert reports[-1] == (100_000, 100_000)
    path, headers = server.asked[0]
    assert (len(server.asked), path) == (1, "/file?token=secret")
    assert headers["Authorization"].startswith("Basic")
    assert headers["Accept-Encoding"] == "identity"
    assert "secret" not in part.version_path.read_text()


def test_resumes_after_every_cut(server, bring):
    server.always = cut(10_000)
    assert bring() == server.body
    assert ranges(server) == [None, *(f"bytes={n}-" for n in range(10_000, 100_000, 10_000))]
    assert {headers.get("If-Range") for _, headers in server.asked[1:]} == {server.asked[1][1]["If-Range"]}


@pytest.mark.parametrize(
    ("faults", "requests"),
    [
        ([cut(50_000), misbehaving.no_ranges], 2),
        ([cut(50_000), misbehaving.wrong_range], 3),
        ([cut(50_000), status(416)], 3),
        ([cut(50_000), page("<html>416 Range Not Satisfiable</html>", 416)], 3),
        ([partial(misbehaving.chunked, cut=50_000)], 2),
        ([partial(honest, cut=50_000, ETag=None)], 2),
        ([partial(honest, cut=50_000, ETag='W/"weak"', Last_Modified=None)], 2),
        ([misbehaving.chunked], 1),
        ([misbehaving.without_length], 1),
        ([status(500), status(503)], 3),
        ([status(429, Retry_After=0)], 2),
        ([status(429, Retry_After="soon")], 2),
        ([status(503, Retry_After=formatdate(0, usegmt=True))], 2),
        ([redirect("/elsewhere"), redirect("there?a=b")], 3),
        ([partial(honest, pause=0.02)], 1),
        ([misbehaving.drive, misbehaving.drive], 2),
        ([lambda request: request.wfile.write(b"gibberish\r\n\r\n")], 2),
        ([lambda request: None], 2),
    ],
)
def test_survives(server, bring, faults, requests):
    server.faults = list(faults)
    assert bring() == server.body
    assert len(server.asked) == requests


def test_another_version_starts_over(server, part, bring):
    server.faults = [cut(50_000)] + [status(500)] * http.ATTEMPTS
    with pytest.raises(DownloadError, match=r"answers 500 Internal Server Error; 50000 bytes are kept"):
        bring()
    server.body = server.body[::-1]
    assert bring() == server.body
    assert ranges(server)[-1] == "bytes=50000-"


@pytest.mark.parametrize(
    "note", ["{}", "[1]", "not json", '{"source": "http://other/file", "validator": "x", "total": 1}']
)
def test_bytes_of_unknown_origin_are_not_resumed(server, part, bring, note):
    part.path.write_bytes(b"x" * 5000)
    part.version_path.write_text(note)
    assert bring() == server.body
    assert ranges(server) == [None]


def test_bytes_without_a_validator_are_not_resumed_later(server, part, bring):
    part.path.write_bytes(b"x" * 5000)
    part.version_path.write_text(json.dumps({"source": f"{server.url}/file", "validator": None, "total": 100_000}))
    assert bring() == server.body
    assert ranges(server) == [None]


def test_killed_between_the_last_byte_and_the_name(server, part, bring):
    assert bring() == server.body
    assert bring() == server.body
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("fault", "message", "requests"),
    [
        (status(404), "answers 404 Not Found", 1),
        (status(403), "answers 403 Forbidden", 1),
        (status(204), "answers 204 No Content", 1),
        (status(799), "answers 799", http.ATTEMPTS),
        (status(500), "answers 500 Internal Server Error", http.ATTEMPTS),
        (status(429, Retry_After=3600), "429 Too Many Requests and asks to retry after 3600 seconds", 1),
        (status(503, Retry_After="Wed, 21 Oct 2099 07:28:00 GMT"), "503 Service Unavailable and asks to retry", 1),
        (page("<html><p>hello</p></html>"), "sends a web page instead of the file", 1),
        (page("\n <!-- hello -->", kind="text/plain"), "sends a web page", 1),
        (page("Nothing here."), "sends a web page", 1),
        (
            page("<![foo <p id='uc-error-subcaption'>You need <i>access</i>.</p>", 403),
            r"^refused: You need access\.$",
            1,
        ),
        (page(misbehaving.QUOTA), "^refused: Too many users have viewed or downloaded this file recently", 1),
        (page(misbehaving.FORM.format(action="")), "redirects more than 10 times", 10),
        (page(misbehaving.FORM.format(action="ftp://host/x")), "redirects to ftp://host/x, expected http or https", 1),
        (redirect("/file"), "redirects more than 10 times", 10),
        (redirect("file:///etc/passwd"), "redirects to file:///etc/passwd, expected http or https", 1),
        (redirect("http://[::1"), "redirects to an invalid address", 1),
        (redirect("http://:80:80/"), "cannot be requested", 1),
        (partial(honest, Content_Encoding="gzip"), "encoded as 'gzip'", 1),
        (misbehaving.endless, "sends more than 300000 bytes", 1),
        (partial(misbehaving.without_length, data=b"\0" * 10), "the connection broke", http.ATTEMPTS),
        (page("\0tiny", kind="application/octet-stream"), "5 bytes, expected 1000 to 300000", 1),
    ],
)
def test_gives_up(server, part, bring, fault, message, requests):
    server.always = fault
    with pytest.raises(DownloadError, match=message) as error:
        bring()
    assert len(server.asked) == requests
    assert str(error.value).isprintable()
    assert not part.path.exists()
    assert not part.version_path.exists()


def test_no_answer(server, bring, monkeypatch):
    monkeypatch.setattr(http, "READ_SECONDS", 0.3)
    late = threading.Event()
    server.always = lambda request: late.wait(60)
    with pytest.raises(DownloadError, match="no answer in time"):
        bring()
    late.set()
    assert len(server.asked) == http.ATTEMPTS


def test_cut_again_and_again_without_ranges(server, part, bring):
    server.always = partial(misbehaving.no_ranges, cut=60_000)
    with pytest.raises(DownloadError, match="the connection broke; 60000 bytes are kept"):
        bring()
    assert len(server.asked) == 1 + http.ATTEMPTS  # the first brought something


def test_too_little_each_time(server, part, bring):
    server.always = cut(600)
    with pytest.raises(DownloadError, match="the connection broke; 2400 bytes are kept"):
        bring(size=(90_000, 100_000))
    server.always = honest
    assert bring() == server.body
    assert ranges(server) == [None, "bytes=600-", "bytes=1200-", "bytes=1800-", "bytes=2400-"]


def test_trickle(server, bring, monkeypatch):
    monkeypatch.setattr(http, "STALL_SECONDS", 0.1)
    server.body *= 95
    server.always = partial(honest, pause=0.02)
    with pytest.raises(DownloadError, match=r"only \d+ bytes in 0 seconds; \d+ bytes are kept"):
        bring(size=(9_000_000, 10_000_000))


def test_waits_as_asked(server, bring, monkeypatch):
    waits = []
    monkeypatch.setattr(http, "BACK_OFF_SECONDS", 1)
    monkeypatch.setattr(http, "time", SimpleNamespace(sleep=waits.append, monotonic=time.monotonic, time=time.time))
    server.faults = [status(503), status(503), status(429, Retry_After=7)]
    bring()
    assert waits == [1, 2, 7]


def test_never_from_https_to_http():
    with pytest.raises(DownloadError, match=r"^redirects to http://host/x, expected https$"):
        http._next_url("https://mirror/a", "http://me:secret@host/x?secret", ("https",))


def test_tls_errors_are_final(server, bring):
    with pytest.raises(DownloadError, match="TLS: "):
        bring(server.url.replace("http:", "https:"))


def test_proxy_of_the_environment(bring, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://me:secret@127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(DownloadError, match=r"^the proxy: Connection refused$"):
        bring()


def test_no_network(bring):
    with pytest.raises(DownloadError, match=r"^Connection refused$"):
        bring("http://127.0.0.1:9/file")


def test_no_room(server, part, bring, monkeypatch):
    monkeypatch.setattr(http.shutil, "disk_usage", lambda folder: SimpleNamespace(free=99_999))
    with pytest.raises(DownloadError, match="has 99999 bytes left; 100000 are needed"):
        bring()
    assert part.size == 0


def test_disk_that_fills_up(server, part, bring):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(OSError, match="too large") as error:
            bring()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert error.value.errno == errno.EFBIG
    assert not part.path.exists()
    assert not part.version_path.exists()


def test_drive_url():
    assert http.drive_url("a b") == f"{http.DRIVE}?id=a+b&export=download&confirm=t"
    assert http.without_secrets(http.drive_url("a b")) == http.DRIVE
