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

from drsformer_cli import __version__
from drsformer_cli.errors import DownloadError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    import requests

    Progress = Callable[[int, int | None], None]

DRIVE = "https://drive.usercontent.google.com/download"
"""Where Google Drive hands out files."""

CONNECT_SECONDS, READ_SECONDS = 10.0, 30.0
STALL_SECONDS, STALL_BYTES = 60.0, 60 * 1024
"""Less than so many bytes in that time, and the connection counts as broken."""

ATTEMPTS = 4
"""Failures in a row; one that brought a hundredth of the file is none."""

BACK_OFF_SECONDS = 1.0
"""Wait after the first failure in a row; it doubles each time."""

LONGEST_WAIT_SECONDS = 60.0
"""Whoever asks for more in Retry-After is not waited for."""

KEPT = "bytes are kept, the same command goes on from there"

_MAX_HOPS = 10
_CHUNK = 2**18
_MAX_PAGE = 2**18
_HEADERS = {
    "User-Agent": f"drsformer/{__version__}",
    "Accept-Encoding": "identity",  # ranges count the bytes that are sent
}


def drive_url(file_id: str) -> str:
    """The direct form, which skips the question whether a file over 100 MB may come unscanned."""
    return f"{DRIVE}?{urlencode({'id': file_id, 'export': 'download', 'confirm': 't'})}"


def shown(url: str) -> str:
    """The address without what may be secret in it: user, password and query."""
    parts = urlsplit(url)
    return printable(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}")


def printable(text: str, length: int = 200) -> str:
    """Foreign text on one line, without what could steer a terminal."""
    line = "".join(character for character in " ".join(text.split()) if character.isprintable())
    return line if len(line) <= length else f"{line[:length]}..."


@dataclass(frozen=True)
class _Version:
    """What a partial file is a part of."""

    source: str
    validator: str | None
    total: int | None


@dataclass(frozen=True)
class Part:
    """The file that a download grows in, with a note beside it of what it is a part of."""

    path: Path

    @property
    def note(self) -> Path:
        """Where the version is written down."""
        return self.path.with_name(f"{self.path.name}.json")

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self.path.stat().st_size if self.path.exists() else 0

    def discard(self) -> None:
        """Remove both files."""
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)

    def begin(self, version: _Version) -> None:
        """Forget what came before and write down what comes now."""
        self.discard()
        self.note.write_text(json.dumps(asdict(version)), encoding="utf-8")

    def version(self, source: str) -> _Version | None:
        """What the bytes so far are a part of; None when a download from this source cannot go on from them."""
        if not self.size:
            return None
        try:
            version = _Version(**json.loads(self.note.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):  # another program wrote it, or none
            return None
        return version if version.source == source else None

    def keep(self, source: str) -> int:
        """Bytes that a later download from there can go on from.

        They are removed where the source gives no validator: by then it may well have another file.
        """
        version = self.version(source)
        if version is None or version.validator is None:
            self.discard()
        return self.size


class _TemporaryError(Exception):
    """Worth another attempt, after that many seconds or the usual wait."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


def fetch(url: str, part: Part, size: tuple[int, int], progress: Progress) -> None:
    """Complete `part`, going on from what it holds. The caller verifies what came.

    Plain http is spoken where `url` itself begins with it. Proxies are those of the environment.

    Args:
        url: Where the file is, or a page of Google Drive that asks for a confirmation first.
        part: Kept when the connection fails, so that a later call can go on; removed when what comes is wrong.
        size: The fewest and the most bytes that the file may have.
        progress: Called with the bytes so far and, where known, their final number.

    Raises:
        DownloadError: The server cannot be reached, refuses, or sends something else; the caller says which.
        OSError: The part cannot be written; it is removed.
    """
    failures, most = 0, part.keep(shown(url))
    while True:
        try:
            with _network_errors():
                _attempt(url, part, size, progress)
        except _TemporaryError as error:
            failures = 0 if part.size - most > size[0] / 100 else failures + 1
            most = max(most, part.size)
            if failures == ATTEMPTS:
                kept = part.keep(shown(url))
                raise DownloadError(f"{error}{f'; {kept} {KEPT}' if kept else ''}") from None
            time.sleep(BACK_OFF_SECONDS * 2 ** max(failures - 1, 0) if error.wait is None else error.wait)
        else:
            return


def _attempt(url: str, part: Part, size: tuple[int, int], progress: Progress) -> None:
    """One connection."""
    version = part.version(shown(url))
    offset = part.size if version else 0
    headers = dict(_HEADERS)
    if version:
        if offset == version.total:
            return
        headers["Range"] = f"bytes={offset}-"
        if version.validator:
            headers["If-Range"] = version.validator
    with _session() as session, _answer(session, url, headers) as (response, chunks):
        if response.headers.get("Content-Encoding", "").lower() not in {"", "identity"}:
            raise DownloadError(f"sends the file encoded as {response.headers['Content-Encoding']!r:.20}, unasked")
        if response.status_code == HTTPStatus.OK:
            offset, version = 0, _Version(shown(url), _validator(response), _content_length(response))
            part.begin(version)
        elif version is None or not _continues(response, offset, version.total):
            part.discard()
            raise _TemporaryError("answers with a wrong range", wait=0)
        total = version.total
        if total is not None and not size[0] <= total <= size[1]:
            part.discard()
            raise DownloadError(wrong_size(total, size))
        check_free_space(part.path.parent, (total or size[1]) - offset)
        _write(chunks, part, offset, total, size, progress)


def _write(
    chunks: Iterable[bytes],
    part: Part,
    offset: int,
    total: int | None,
    size: tuple[int, int],
    progress: Progress,
) -> None:
    try:
        with part.path.open("ab") as file:
            for chunk in chunks:
                offset += len(chunk)
                if offset > (total or size[1]):
                    break
                file.write(chunk)
                progress(offset, total)
    except OSError:  # a full disk; what came so far would keep it full
        part.discard()
        raise
    if offset > (total or size[1]):
        part.discard()
        raise DownloadError(f"sends more than {total or size[1]} bytes")
    if offset < (total or size[0]):
        raise _TemporaryError("the connection broke")


def wrong_size(found: int, size: tuple[int, int]) -> str:
    """What a file of another size is told."""
    expected = f"{size[0]}" if size[0] == size[1] else f"{size[0]} to {size[1]}"
    return f"{found} bytes, expected {expected}"


def check_free_space(folder: Path, needed: int) -> None:
    """Refuse to fill a disk.

    Raises:
        DownloadError: It has fewer bytes left.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DownloadError(f"{folder} has {free} bytes left, {needed} are needed")


def _session() -> requests.Session:
    """A session that leaves redirects to us: requests reads their bodies to the end, and goes from https to http."""
    import requests  # noqa: PLC0415 - `--help` needs none

    class Session(requests.Session):
        def get_redirect_target(self, resp: requests.Response) -> None:
            """There is none."""

    return Session()


@contextlib.contextmanager
def _answer(
    session: requests.Session, url: str, headers: dict[str, str]
) -> Iterator[tuple[requests.Response, Iterable[bytes]]]:
    """An answer of 200, 206 or 416 and its body, past redirects and past the question of Google Drive."""
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
                page = _Page((head + _first_bytes(chunks, _MAX_PAGE)).decode("utf-8", "replace"))
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
        raise DownloadError("redirects to something that is no address") from None
    if scheme not in schemes:
        raise DownloadError(f"redirects to {shown(url)}, expected {' or '.join(schemes)}")
    return url


def _chunks(response: requests.Response) -> Iterator[bytes]:
    """The body as it arrives, undecoded."""
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
    """At least so many bytes, where there are as many."""
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


class _Page(HTMLParser):
    """What Google Drive's pages ask (`#download-form`) or say (`uc-error-subcaption`).

    Attributes:
        caption: The text of a refusal, or nothing.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.caption = ""
        self._action: str | None = None
        self._fields: dict[str, str] = {}
        self._in_form = False
        self._caption_tag: str | None = None
        self.feed(text.replace("<![", ""))  # an unknown one of these is an AssertionError in Python 3.11

    @property
    def target(self) -> str | None:
        """Where the form leads when it is sent as it is; None where the page has none."""
        if self._action is None or not self._fields:
            return self._action
        return f"{self._action.partition('?')[0]}?{urlencode(self._fields)}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep the form's address and its hidden inputs."""
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
        """Leave the form or the refusal."""
        self._in_form = self._in_form and tag != "form"
        if tag == self._caption_tag:
            self._caption_tag = None

    def handle_data(self, data: str) -> None:
        """Keep the text of a refusal."""
        if self._caption_tag is not None:
            self.caption += data


def _refusal(response: requests.Response, page: _Page) -> Exception:
    """The error for an answer without the file."""
    status = response.status_code
    if page.caption.strip():
        return DownloadError(f"refused: {printable(page.caption)}")
    if status == HTTPStatus.OK:
        return DownloadError("answers with a web page instead of the file")
    phrase = f" {HTTPStatus(status).phrase}" if status in set(HTTPStatus) else ""
    if status != HTTPStatus.TOO_MANY_REQUESTS and status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return DownloadError(f"answers {status}{phrase}")
    wait = _retry_after(response.headers.get("Retry-After", ""))
    if wait is not None and wait > LONGEST_WAIT_SECONDS:
        return DownloadError(f"answers {status}{phrase} and asks to come back in {wait:.0f} seconds")
    return _TemporaryError(f"answers {status}{phrase}", wait)


def _retry_after(value: str) -> float | None:
    """Seconds to wait, from a number or a date; None where it says neither."""
    from email.utils import mktime_tz, parsedate_tz  # noqa: PLC0415 - `--help` is quicker without

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
    """What If-Range takes: a strong ETag, else the date."""
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified")


def _continues(response: requests.Response, offset: int, total: int | None) -> bool:
    """Whether the body begins where the part ends, of a file of the same size."""
    found = re.fullmatch(r"bytes (\d{1,15})-\d{1,15}/(\d{1,15})", response.headers.get("Content-Range", "").strip())
    if response.status_code != HTTPStatus.PARTIAL_CONTENT or found is None:
        return False
    return int(found[1]) == offset and total in (None, int(found[2]))


@contextlib.contextmanager
def _network_errors() -> Iterator[None]:
    """What requests raises, in our words: its own would show user, password and query of the address."""
    import requests  # noqa: PLC0415
    from urllib3.exceptions import HTTPError  # noqa: PLC0415 - of the raw body, which requests does not translate

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
        raise DownloadError(f"cannot be asked ({type(error).__name__})") from None


def _cause(error: BaseException) -> str:
    """What the system said at the bottom of it."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return (error.strerror if isinstance(error, OSError) else None) or "the connection broke"
