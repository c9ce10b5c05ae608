"""What enters the cache, and what is trusted afterwards."""

import errno
import hashlib
import json
import os
import pickle
import zipfile
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import misbehaving
import pytest
import torch
from conftest import TINY

from drsformer import DRSformer
from drsformer_cli.downloads import cache, http
from drsformer_cli.errors import DownloadError, UsageError


@pytest.fixture
def obtain(home, published, server):
    """Download the tiny network from the server."""
    return partial(cache.obtain, published, mirror=server.url)


@pytest.fixture
def cached(obtain):
    """It is in the cache already."""
    return obtain()


def files(home):
    return sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())


def altered(tmp_path, state, name="other.pth"):
    torch.save({"params": state}, tmp_path / name)
    return (tmp_path / name).read_bytes()


def other(tmp_path):
    """Another tiny network."""
    torch.manual_seed(1)
    return altered(tmp_path, DRSformer(TINY).state_dict())


def test_record(home, obtain, server):
    path = obtain()
    assert path == home / "weights/rain200h.pth"
    assert path.read_bytes() == server.body
    record = json.loads((home / "weights/rain200h.json").read_text())
    assert record["sha256"] == hashlib.sha256(server.body).hexdigest()
    assert (record["size"], record["source"]) == (len(server.body), f"{server.url}/rain200h.pth")
    assert files(home) == ["locks/rain200h.lock", "weights/rain200h.json", "weights/rain200h.pth"]
    assert obtain() == path
    assert len(server.asked) == 1


def test_hashed_again_only_when_size_or_date_changed(cached, published, monkeypatch):
    hashed = []
    honest = cache.sha256_of
    monkeypatch.setattr(cache, "sha256_of", lambda path: hashed.append(path) or honest(path))
    assert cache.verified(published) == cached
    assert hashed == []
    os.utime(cached)
    assert cache.state(published) == "unverified"
    assert cache.verified(published) == cached
    assert cache.verified(published) == cached
    assert hashed == [cached]
    assert cache.verified(published, rehash=True) == cached
    assert hashed == [cached] * 2


def test_a_changed_file_is_refused_until_forced(cached, published, obtain, server, tmp_path):
    cached.write_bytes(other(tmp_path))
    for act in (lambda: cache.verified(published), obtain):
        with pytest.raises(DownloadError, match=r"rain200h.pth: differs from what was verified on .*download --force"):
            act()
    assert len(server.asked) == 1
    assert obtain(force=True).read_bytes() == server.body
    assert cache.state(published) == "cached"


def test_a_new_version_is_refused_until_forced(cached, obtain, server, tmp_path):
    """Also where the old file is gone, but not the memory of it."""
    cached.unlink()
    server.body = other(tmp_path)
    with pytest.raises(DownloadError, match=r"differs from what was verified on .*; --force accepts it"):
        obtain()
    assert not cached.exists()
    assert obtain(force=True).read_bytes() == server.body


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_text('{"size": 1'),
        lambda path: path.write_text("[]"),
        lambda path: path.write_bytes(b"\xff"),
    ],
)
def test_without_a_record_everything_is_checked_again(cached, published, damage):
    damage(cached.with_suffix(".json"))
    assert cache.state(published) == "unverified"
    assert cache.verified(published) == cached
    assert cache.record(published).sha256 == hashlib.sha256(cached.read_bytes()).hexdigest()
    damage(cached.with_suffix(".json"))
    cached.write_bytes(b"\0" * cached.stat().st_size)
    with pytest.raises(
        DownloadError, match=r"weights/rain200h.pth: not a checkpoint.*--force rain200h downloads it again"
    ):
        cache.verified(published)


class Payload:
    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return open, (str(self.trace), "w")


def payload(body, tmp_path):
    return pickle.dumps({"params": Payload(tmp_path / "trace"), "room": body})


def zipped_payload(body, tmp_path):
    torch.save({"params": Payload(tmp_path / "trace"), "room": torch.zeros(len(body) // 4)}, tmp_path / "x")
    return (tmp_path / "x").read_bytes()


def bomb(body, tmp_path):
    with zipfile.ZipFile(tmp_path / "x", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 50_000_000)
        archive.writestr("archive/data/0", os.urandom(len(body) - 50_000))
    return (tmp_path / "x").read_bytes()


def network(change):
    return lambda body, tmp_path: altered(tmp_path, change(DRSformer(TINY).state_dict()))


def flipped(body, tmp_path):
    return body[: len(body) // 2] + bytes([body[len(body) // 2] ^ 1]) + body[len(body) // 2 + 1 :]


WRONG = [
    (payload, "not a checkpoint|wants to run"),
    (zipped_payload, "refused: it wants to run .*open while loading"),
    (bomb, "bytes that unpack to"),
    (network(lambda state: {**state, "output.weight": state["output.weight"] * float("nan")}), "not finite"),
    (network(lambda state: {key: t for key, t in state.items() if "attn1" not in key}), "attn1 .* missing"),
    (network(lambda state: {key.replace("attn1", "attn9"): t for key, t in state.items()}), "attn1 .* missing"),
    (network(lambda state: {**state, "output.weight": state["output.weight"][:2]}), "output.weight has shape"),
    (flipped, "checksum of .* inside it is wrong"),
    (lambda body, _: body[:-1000], "not a checkpoint"),
    (lambda body, _: b"\0" * len(body), "not a checkpoint"),
    (lambda body, _: body[:-40_000], "bytes, expected"),
    (lambda body, _: body * 2, "bytes, expected"),
]


@pytest.mark.parametrize("old", [True, False], ids=["old", "new"])
@pytest.mark.parametrize(("wrong", "message"), WRONG)
def test_nothing_else_gets_in(home, published, obtain, server, tmp_path, wrong, message, old):
    body = server.body
    if old:
        obtain()
    before = files(home)
    (tmp_path / "file").write_bytes(wrong(body, tmp_path))
    server.body = (tmp_path / "file").read_bytes()
    with pytest.raises(DownloadError, match=f"^rain200h: {server.url}/rain200h.pth: .*{message}.*; to add it by hand"):
        obtain(force=True)
    with pytest.raises(DownloadError, match=f"^rain200h: {tmp_path}/file: .*{message}"):
        cache.install(published, tmp_path / "file")
    assert files(home) == (before or ["locks/rain200h.lock"])
    assert not (tmp_path / "trace").exists()
    if old:
        assert obtain().read_bytes() == body


def test_known_hash(home, published, server):
    wrong = replace(published, sha256="0" * 64)
    with pytest.raises(DownloadError, match=f"has sha256 [0-9a-f]{{64}}, expected {'0' * 64}"):
        cache.obtain(wrong, mirror=server.url)
    assert files(home) == ["locks/rain200h.lock"]
    cache.obtain(replace(wrong, sha256=hashlib.sha256(server.body).hexdigest()), mirror=server.url)


def test_sources_in_order(home, published, server):
    server.faults = [misbehaving.status(404)]
    row = replace(published, urls=(f"{server.url}/first", f"{server.url}/second?id=7"))
    cache.obtain(row)
    assert [path for path, _ in server.asked] == ["/first", "/second?id=7"]
    assert cache.record(row).source == f"{server.url}/second?id=7"
    server.always = misbehaving.status(403)
    with pytest.raises(DownloadError, match=r"first: answers 403 .*second.*: answers 403 .*; to add it by hand"):
        cache.obtain(row, force=True)


def test_certificates_that_are_not_there(obtain, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere")
    with pytest.raises(DownloadError, match=r"^rain200h: Could not find a suitable TLS CA .*/nowhere$"):
        obtain(mirror="https://127.0.0.1:9")


def test_offline(home, published, obtain, server, monkeypatch):
    monkeypatch.setenv("DRSFORMER_OFFLINE", "1")
    with pytest.raises(
        DownloadError, match=r"^rain200h is not cached, and DRSFORMER_OFFLINE is set; .*drsformer download --from"
    ):
        obtain()
    assert server.asked == []
    monkeypatch.setenv("DRSFORMER_OFFLINE", "0")
    obtain()


def test_by_hand(home, published, tiny_file):
    row = published
    path = cache.install(row, tiny_file)
    assert cache.record(row).source == str(tiny_file)
    before = path.stat()
    assert cache.install(row, path) == path
    assert files(home) == ["locks/rain200h.lock", "weights/rain200h.json", "weights/rain200h.pth"]
    assert path.stat().st_size == before.st_size
    assert cache.verified(row, rehash=True) == path
    # A browser may have put it right where a download would grow.
    cache.remove(row)
    part = path.with_name("rain200h.pth.part")
    part.write_bytes(tiny_file.read_bytes())
    assert cache.install(row, part) == path


def test_by_hand_differs(cached, published, tmp_path):
    (tmp_path / "file").write_bytes(other(tmp_path))
    with pytest.raises(DownloadError, match="--force accepts it"):
        cache.install(published, tmp_path / "file")
    cache.install(published, tmp_path / "file", force=True)
    assert cached.read_bytes() == (tmp_path / "file").read_bytes()


def test_remove(home, cached, published, obtain, server):
    assert cache.remove(published)
    assert not cache.remove(published)
    assert files(home) == ["locks/rain200h.lock"]
    server.always = partial(misbehaving.honest, cut=600)
    with pytest.raises(DownloadError, match="2400 bytes are kept"):
        obtain()
    assert cache.state(published) == "partial"
    assert cache.remove(published)
    assert files(home) == ["locks/rain200h.lock"]


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_full_disk(home, cached, published, obtain, server, tiny_file, monkeypatch):
    for name, stand_in in (("fsync", full), ("disk_usage", lambda folder: SimpleNamespace(free=10))):
        with monkeypatch.context() as patch:
            patch.setattr(os if name == "fsync" else http.shutil, name, stand_in)
            with pytest.raises(DownloadError, match=r"No space left on device|has 10 bytes left"):
                obtain(force=True)
            with pytest.raises(DownloadError, match=r"No space left on device|has 10 bytes left"):
                cache.install(published, tiny_file, force=True)
    with monkeypatch.context() as patch:
        patch.setattr(http.shutil, "copyfile", full)
        with pytest.raises(DownloadError, match="No space left on device"):
            cache.install(published, tiny_file, force=True)
    assert cache.verified(published, rehash=True) == cached
    assert files(home) == ["locks/rain200h.lock", "weights/rain200h.json", "weights/rain200h.pth"]


def test_a_cache_that_cannot_be_written(home, cached, published, obtain, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "somewhere")

    os.utime(cached)
    monkeypatch.setattr(cache, "locked", refuse)
    monkeypatch.setattr(cache, "atomic_write", refuse)
    assert obtain() == cached
    with pytest.raises(DownloadError, match=r"^rain200h: somewhere: Read-only file system \(the cache is .*home; DRS"):
        obtain(force=True)


def test_a_file_where_the_cache_should_be(home, published, obtain):
    home.write_text("I am a file.")
    assert cache.state(published) == "absent"
    with pytest.raises(DownloadError, match=r"^rain200h: .*home"):
        obtain()
    assert home.read_text() == "I am a file."


@pytest.mark.parametrize(
    ("mirror", "url"),
    [
        ("http://host", "http://host/rain200h.pth"),
        ("https://host:8000/a%20b/?token=x#y", "https://host:8000/a%20b/rain200h.pth?token=x"),
        ("http://me:secret@[::1]/a", "http://me:secret@[::1]/a/rain200h.pth"),
    ],
)
def test_mirror(published, mirror, url, monkeypatch):
    assert cache.urls_of(published, mirror) == (url,)
    monkeypatch.setenv("DRSFORMER_MIRROR", mirror)
    assert cache.urls_of(published, None) == (url,)


@pytest.mark.parametrize("mirror", ["me:secret@host/x", "ftp://me:secret@host", "http://", "http://[::1", "http://h:x"])
def test_mirror_that_is_no_address(published, mirror):
    with pytest.raises(UsageError, match="expected http://HOST/FOLDER") as error:
        cache.urls_of(published, mirror)
    assert "secret" not in str(error.value)
