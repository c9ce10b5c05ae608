"""Downloads over HTTP that survive cut connections, killed processes and servers that misbehave."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import time
from dataclasses import asdict, dataclass
from html.parser import HTMLParser
from http import HTTPStatus
from itertools import chain
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urljoin, urlsplit

from drsformer_cli import __version__, console
from drsformer_cli.errors import DownloadError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    import requests

    ProgressCallback = Callable[[int, int | None], None]

DRIVE = "https://drive.usercontent.google.com/download"
"""Address of downloads from Google Drive."""

CONNECT_SECONDS, READ_SECONDS = 10.0, 30.0
STALL_SECONDS, STALL_BYTES = 60.0, 60 * 1024
"""A connection that delivers fewer bytes in this time is considered broken."""

ATTEMPTS = 4
"""Failures in a row after which a download gives up; attempts that bring at least 1 % of the file do not count."""

BACK_OFF_SECONDS = 1.0
"""Wait after the first failure in a row; it doubles with each further failure."""

LONGEST_WAIT_SECONDS = 60.0
"""A download gives up if Retry-After asks for more."""

KEPT = "bytes are kept; run the same command again to resume"

_MAX_HOPS = 10
_CHUNK = 2**18
_MAX_PAGE = 2**18
_HEADERS = {
    "User-Agent": f"drsformer/{__version__}",
    "Accept-Encoding": "identity",  # ranges count the bytes that are sent
}


def drive_url(file_id: str) -> str:
    """The address of a file on Google Drive; it skips the page that asks for confirmation for large files."""
    return f"{DRIVE}?{urlencode({'id': file_id, 'export': 'download', 'confirm': 't'})}"


def without_secrets(url: str) -> str:
    """An address without user, password and query."""
    parts = urlsplit(url)
    return shortened(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}")


def shortened(text: str, length: int = 200) -> str:
    """Text from a server or a user on one line, as `console.printable`."""
    line = console.printable(" ".join(text.split()))
    return line if len(line) <= length else f"{line[:length]}..."


@dataclass(frozen=True)
class _Version:
    """The version of the file that a partial file belongs to.

    Attributes:
        source: Address without secrets.
        validator: ETag or date for If-Range; None: the server sent none.
        total: Bytes of the whole file; None: unknown.
    """

    source: str
    validator: str | None
    total: int | None


@dataclass(frozen=True)
class PartialFile:
    """The file that a download is written to; a JSON file beside it records the version that it belongs to."""

    path: Path

    @property
    def version_path(self) -> Path:
        """Path of the JSON file."""
        return self.path.with_name(f"{self.path.name}.json")

    @property
    def size(self) -> int:
        """Number of bytes so far."""
        return self.path.stat().st_size if self.path.exists() else 0

    def discard(self) -> None:
        """Remove both files."""
        self.path.unlink(missing_ok=True)
        self.version_path.unlink(missing_ok=True)

    def begin(self, version: _Version) -> None:
        """Start over with this version."""
        self.discard()
        self.version_path.write_text(json.dumps(asdict(version)), encoding="utf-8")

    def version(self, source: str) -> _Version | None:
        """The version that the bytes so far belong to; None: a download from this source cannot resume."""
        if not self.size:
            return None
        try:
            version = _Version(**json.loads(self.version_path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):  # missing, or written by another program
            return None
        return version if version.source == source else None

    def keep(self, source: str) -> int:
        """Number of bytes that a later download from this source can resume from.

        Without a validator they are removed, because the file may change on the server.
        """
        version = self.version(source)
        if version is None or version.validator is None:
            self.discard()
        return self.size


class _TemporaryError(Exception):
    """An error after which another attempt may succeed, in `wait` seconds. None: after the usual wait."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


def download(url: str, part: PartialFile, size: tuple[int, int], progress: ProgressCallback) -> None:
    """Download into `part`, resuming from what it holds. The caller verifies the file.

    Plain http is used only if `url` begins with it. Proxies are those of the environment.

    Args:
        url: Address of the file, or of a page of Google Drive that asks for a confirmation first.
        part: Kept when the connection fails, so that a later call can resume; removed when the content is wrong.
        size: Smallest and largest number of bytes that the file may have.
        progress: Called with the number of bytes so far and the total, which is None if unknown.

    Raises:
        DownloadError: The server cannot be reached, refuses, or sends something else. The caller adds the address.
        OSError: `part` cannot be written; it is removed.
    """
    failures, most = 0, part.keep(without_secrets(url))
    while True:
        try:
            with _network_errors():
                _attempt(url, part, size, progress)
        except _TemporaryError as error:
            failures = 0 if part.size - most > size[0] / 100 else failures + 1
            most = max(most, part.size)
            if failures == ATTEMPTS:
                kept = part.keep(without_secrets(url))
                raise DownloadError(f"{error}{f'; {kept} {KEPT}' if kept else ''}") from None
            time.sleep(BACK_OFF_SECONDS * 2 ** max(failures - 1, 0) if error.wait is None else error.wait)
        else:
            return


def _attempt(url: str, part: PartialFile, size: tuple[int, int], progress: ProgressCallback) -> None:
    """Send one request and save the response."""
    version = part.version(without_secrets(url))
    offset = part.size if version else 0
    headers = dict(_HEADERS)
    if version:
        if offset == version.total:
            return
        headers["Range"] = f"bytes={offset}-"
        if version.validator:
            headers["If-Range"] = version.validator
    with _session() as session, _open(session, url, headers) as (response, chunks):
        if response.headers.get("Content-Encoding", "").lower() not in {"", "identity"}:
            raise DownloadError(
                f"sends the file encoded as {response.headers['Content-Encoding']!r:.20}; expected no encoding"
            )
        if response.status_code == HTTPStatus.OK:
            offset, version = 0, _Version(without_secrets(url), _validator(response), _content_length(response))
            part.begin(version)
        elif version is None or not _continues(response, offset, version.total):
            part.discard()
            raise _TemporaryError("sends the wrong range", wait=0)
        total = version.total
        if total is not None and not size[0] <= total <= size[1]:
            part.discard()
            raise DownloadError(wrong_size(total, size))
        check_free_space(part.path.parent, (total or size[1]) - offset)
        _write(chunks, part, offset, total, size, progress)


def _write(
    chunks: Iterable[bytes],
    part: PartialFile,
    offset: int,
    total: int | None,
    size: tuple[int, int],
    progress: ProgressCallback,
) -> None:
    try:
        with part.path.open("ab") as file:
            for chunk in chunks:
                offset += len(chunk)
                if offset > (total or size[1]):
                    break
                file.write(chunk)
                progress(offset, total)
    except OSError:  # such as a full disk: the part is removed to free the space
        part.discard()
        raise
    if offset > (total or size[1]):
        part.discard()
        raise DownloadError(f"sends more than {total or size[1]} bytes")
    if offset < (total or size[0]):
        raise _TemporaryError("the connection broke")


def wrong_size(found: int, size: tuple[int, int]) -> str:
    """The error message for a file of the wrong size."""
    expected = f"{size[0]}" if size[0] == size[1] else f"{size[0]} to {size[1]}"
    return f"{found} bytes, expected {expected}"


def check_free_space(folder: Path, needed: int) -> None:
    """Check that a disk has enough space.

    Raises:
        DownloadError: Fewer than `needed` bytes are left.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DownloadError(f"{folder} has {free} bytes left; {needed} are needed")


def _session() -> requests.Session:
    """A session that does not follow redirects: requests would read their bodies, and also go from https to http."""
    import requests

    class Session(requests.Session):
        def get_redirect_target(self, resp: requests.Response) -> None:
            """Return None: no redirect is followed."""

    return Session()


@contextlib.contextmanager
def _open(
    session: requests.Session, url: str, headers: dict[str, str]
) -> Iterator[tuple[requests.Response, Iterable[bytes]]]:
    """The response (status 200, 206 or 416) and its body, after redirects and Google Drive's confirmation."""
    schemes = ("http", "https") if urlsplit(url).scheme == "http" else ("https",)
    timeout = CONNECT_SECONDS, READ_SECONDS
    for _ in range(_MAX_HOPS):
        with session.get(url, headers=headers, timeout=timeout, stream=True, allow_redirects=False) as response:
            target = response.headers["Location"] if response.is_redirect else None
            if target is None:
                chunks = _chunks(response)
                head = _first_bytes(chunks, 512)
                if response.status_code in {200, 206, 416} and not _is_page(response, head):
                    yield response, chain([head], chunks)
                    return
                page = _DrivePage((head + _first_bytes(chunks, _MAX_PAGE)).decode("utf-8", "replace"))
                if page.target is None or response.status_code != HTTPStatus.OK:
                    raise _refusal(response, page)
                target = page.target
        url = _next_url(url, target, schemes)
    raise DownloadError(f"redirects more than {_MAX_HOPS} times")


def _next_url(url: str, target: str, schemes: tuple[str, ...]) -> str:
    try:
        url = urljoin(url, target)
        scheme = urlsplit(url).scheme
    except ValueError:
        raise DownloadError("redirects to an invalid address") from None
    if scheme not in schemes:
        raise DownloadError(f"redirects to {without_secrets(url)}, expected {' or '.join(schemes)}")
    return url


def _chunks(response: requests.Response) -> Iterator[bytes]:
    """The body in chunks, not decoded."""
    read = getattr(response.raw, "read1", response.raw.read)  # urllib3 1 has no read1
    since, seen = time.monotonic(), 0
    while chunk := read(_CHUNK):
        yield chunk
        seen += len(chunk)
        if time.monotonic() - since > STALL_SECONDS:
            if seen < STALL_BYTES:
                raise _TemporaryError(f"only {seen} bytes in {STALL_SECONDS:.0f} seconds")
            since, seen = time.monotonic(), 0


def _first_bytes(chunks: Iterator[bytes], number: int) -> bytes:
    """The first bytes, at least `number` unless the body is shorter."""
    head = b""
    for chunk in chunks:
        head += chunk
        if len(head) >= number:
            break
    return head


def _is_page(response: requests.Response, head: bytes) -> bool:
    if response.status_code in {206, 416} or b"\0" in head[:512]:
        return False
    kind = response.headers.get("Content-Type", "").lower()
    return "html" in kind or head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<")


class _DrivePage(HTMLParser):
    """A page of Google Drive: a form to confirm the download (`#download-form`), or a refusal (`uc-error-subcaption`).

    Attributes:
        caption: The text of a refusal, or "".
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.caption = ""
        self._action: str | None = None
        self._fields: dict[str, str] = {}
        self._in_form = False
        self._caption_tag: str | None = None
        self.feed(text.replace("<![", ""))  # in Python 3.11, unknown declarations raise an AssertionError

    @property
    def target(self) -> str | None:
        """The address that the form leads to; None: the page has no form."""
        if self._action is None or not self._fields:
            return self._action
        return f"{self._action.partition('?')[0]}?{urlencode(self._fields)}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Record the form's address and hidden inputs."""
        values = {name: value or "" for name, value in attrs}
        if tag == "form":
            self._in_form = values.get("id") == "download-form"
            if self._in_form:
                self._action = values.get("action", "")
        elif tag == "input" and self._in_form and values.get("type", "").lower() == "hidden" and "name" in values:
            self._fields[values["name"]] = values.get("value", "")
        elif "uc-error-subcaption" in (*values.get("class", "").split(), values.get("id")):
            self._caption_tag = tag

    def handle_endtag(self, tag: str) -> None:
        """End the form or the refusal."""
        self._in_form = self._in_form and tag != "form"
        if tag == self._caption_tag:
            self._caption_tag = None

    def handle_data(self, data: str) -> None:
        """Record the text of a refusal."""
        if self._caption_tag is not None:
            self.caption += data


def _refusal(response: requests.Response, page: _DrivePage) -> Exception:
    """The error for a response that is not the file."""
    status = response.status_code
    if page.caption.strip():
        return DownloadError(f"refused: {shortened(page.caption)}")
    if status == HTTPStatus.OK:
        return DownloadError("sends a web page instead of the file")
    phrase = f" {HTTPStatus(status).phrase}" if status in set(HTTPStatus) else ""
    if status != HTTPStatus.TOO_MANY_REQUESTS and status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return DownloadError(f"answers {status}{phrase}")
    wait = _retry_after(response.headers.get("Retry-After", ""))
    if wait is not None and wait > LONGEST_WAIT_SECONDS:
        return DownloadError(f"answers {status}{phrase} and asks to retry after {wait:.0f} seconds")
    return _TemporaryError(f"answers {status}{phrase}", wait)


def _retry_after(value: str) -> float | None:
    """Seconds to wait, from a number or a date; None if it is neither."""
    from email.utils import mktime_tz, parsedate_tz

    if value.isdecimal():
        return float(value)
    date = parsedate_tz(value)
    try:
        return max(mktime_tz(date) - time.time(), 0) if date else None
    except (ValueError, OverflowError):
        return None


def _content_length(response: requests.Response) -> int | None:
    value = response.headers.get("Content-Length", "")
    return int(value) if re.fullmatch(r"\d{1,15}", value) and "Transfer-Encoding" not in response.headers else None


def _validator(response: requests.Response) -> str | None:
    """The value for If-Range: a strong ETag, or the date."""
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified")


def _continues(response: requests.Response, offset: int, total: int | None) -> bool:
    """Whether the body begins where the partial file ends, and the file still has the same size."""
    found = re.fullmatch(r"bytes (\d{1,15})-\d{1,15}/(\d{1,15})", response.headers.get("Content-Range", "").strip())
    if response.status_code != HTTPStatus.PARTIAL_CONTENT or found is None:
        return False
    return int(found[1]) == offset and total in (None, int(found[2]))


@contextlib.contextmanager
def _network_errors() -> Iterator[None]:
    """Replace the errors of requests, whose messages contain user, password and query of the address."""
    import requests
    from urllib3.exceptions import HTTPError

    try:
        yield
    except requests.exceptions.SSLError as error:
        raise DownloadError(f"TLS: {_cause(error)}") from None
    except requests.exceptions.ProxyError as error:
        raise _TemporaryError(f"the proxy: {_cause(error)}") from None
    except requests.Timeout:
        raise _TemporaryError("no answer in time") from None
    except (requests.ConnectionError, HTTPError) as error:
        raise _TemporaryError(_cause(error)) from None
    except requests.RequestException as error:
        raise DownloadError(f"cannot be requested ({type(error).__name__})") from None


def _cause(error: BaseException) -> str:
    """The message of the system error that caused an error."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return (error.strerror if isinstance(error, OSError) else None) or "the connection broke"
