"""A web server for one file that can misbehave in every way that a download must survive."""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FORM = (
    "<!DOCTYPE html><html><body><p class='uc-warning-subcaption'>too large to scan</p>"
    "<form id='download-form' action='{action}' method='get'><input type='submit' value='Download anyway'>"
    "<input type='hidden' name='id' value='x&amp;y'><input type='hidden' name='confirm' value='t'></form></body></html>"
)
QUOTA = (
    "<html><body><p class='uc-error-caption'>Sorry</p>"
    "<p class='uc-error-subcaption'>Too many users have <b>viewed</b>\n"
    " or downloaded this file recently.\x1b[31m</p></body></html>"
)


class Request(BaseHTTPRequestHandler):
    """One request; faults are built from its methods."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server = self.server
        server.asked.append((self.path, self.headers))
        fault = server.faults.pop(0) if server.faults else server.always
        self.close_connection = True
        with contextlib.suppress(ConnectionError):
            fault(self)

    def log_message(self, *_):
        pass

    @property
    def body(self):
        return self.server.body

    @property
    def etag(self):
        return f'"{hashlib.sha256(self.body).hexdigest()[:16]}"'

    @property
    def offset(self):
        """Where the asked range begins, if it is of this version."""
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        return int(found[1]) if found and self.headers.get("If-Range", self.etag) == self.etag else None

    def head(self, status, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.send_header("Connection", "close")
        self.end_headers()

    def page(self, text, status=200, kind="text/html; charset=utf-8", **headers):
        data = text.encode()
        self.head(status, Content_Type=kind, Content_Length=len(data), **headers)
        self.wfile.write(data)


def honest(request, cut=None, pause=0.0, **headers):
    """The file, or the rest of it; with `cut` the connection breaks after so many bytes."""
    body, start = request.body, request.offset
    headers = {"ETag": request.etag, "Content_Type": "application/octet-stream", **headers}
    headers = {name: value for name, value in headers.items() if value is not None}
    if start is None:
        request.head(200, Content_Length=len(body), **headers)
    elif start >= len(body):
        request.head(416, Content_Range=f"bytes */{len(body)}", Content_Length=0)
        return
    else:
        span = f"bytes {start}-{len(body) - 1}/{len(body)}"
        request.head(206, Content_Length=len(body) - start, Content_Range=span, **headers)
    data = body[start or 0 :]
    data = data if cut is None else data[:cut]
    for i in range(0, len(data), 4096):
        request.wfile.write(data[i : i + 4096])
        if pause:
            request.wfile.flush()
            time.sleep(pause)


def stuck(request, released):
    """The beginning of the file, and nothing more until the event is set."""
    request.head(200, Content_Length=len(request.body), ETag=request.etag)
    request.wfile.write(request.body[:30_000])
    request.wfile.flush()
    released.wait(60)


def no_ranges(request, cut=None):
    """200 whatever was asked."""
    request.head(200, Content_Length=len(request.body), ETag=request.etag)
    request.wfile.write(request.body[:cut])


def wrong_range(request):
    """206 from another place than was asked for."""
    if request.offset is None:
        honest(request)
        return
    end = len(request.body) - 1
    request.head(206, Content_Length=end, Content_Range=f"bytes 1-{end}/{end + 1}")
    request.wfile.write(request.body[1:])


def longer_than_said(request):
    request.head(200, Content_Length=len(request.body) - 100)
    request.wfile.write(request.body)


def shorter_than_said(request):
    request.head(200, Content_Length=len(request.body) + 100)
    request.wfile.write(request.body)


def without_length(request, data=None):
    request.head(200)
    request.wfile.write(request.body if data is None else data)


def endless(request):
    request.head(200, Transfer_Encoding="chunked")
    block = b"\0" * 65536
    for _ in range(100_000):
        request.wfile.write(b"%x\r\n%s\r\n" % (len(block), block))


def chunked(request, cut=None):
    request.head(200, Transfer_Encoding="chunked", ETag=request.etag)
    for i in range(0, len(request.body[:cut]), 5000):
        piece = request.body[:cut][i : i + 5000]
        request.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
    if cut is None:
        request.wfile.write(b"0\r\n\r\n")


def status(code, **headers):
    return lambda request: request.head(code, Content_Length=0, **headers)


def page(text, code=200, **headers):
    return lambda request: request.page(text, code, **headers)


def redirect(target):
    return lambda request: request.head(302, Location=target, Content_Length=0)


def drive(request):
    """Google Drive: a form first, then the file."""
    if "confirm=t" in request.path and request.path.startswith("/download?id=x%26y"):
        honest(request)
    else:
        request.page(FORM.format(action="/download"))


class Server(ThreadingHTTPServer):
    """Answers each request by the next of `faults`, then by `always`."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Request)
        self.body = b""
        self.faults = []
        self.always = honest
        self.asked = []

    def handle_error(self, *_):
        """Ignore connections that the client closed."""

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextlib.contextmanager
def serving():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
