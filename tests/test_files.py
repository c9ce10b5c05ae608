import errno
import os

import pytest

from drsformer.files import atomic_write


def test_file_appears_whole(tmp_path):
    target = tmp_path / "a.bin"
    with atomic_write(target) as file:
        file.write(b"new")
        assert not target.exists()
    assert target.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_failure_leaves_the_old_file_and_nothing_else(error, tmp_path):
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    with pytest.raises(error), atomic_write(target) as file:
        file.write(b"half")
        raise error
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_file_that_appeared_meanwhile_is_not_replaced(tmp_path):
    target = tmp_path / "a.bin"
    with pytest.raises(FileExistsError), atomic_write(target, overwrite=False) as file:
        file.write(b"new")
        target.write_bytes(b"someone else's")
    assert target.read_bytes() == b"someone else's"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_file_system_without_hard_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    for expected in (b"new", b"new"):
        try:
            with atomic_write(tmp_path / "a.bin", overwrite=False) as file:
                file.write(expected)
        except FileExistsError:
            assert (tmp_path / "a.bin").exists()
    assert os.listdir(tmp_path) == ["a.bin"]


def failing_fsync(number):
    def fail(_):
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_file_system_without_fsync(number, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", failing_fsync(number))
    with atomic_write(tmp_path / "a.bin") as file:
        file.write(b"x")
    assert (tmp_path / "a.bin").read_bytes() == b"x"


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_fsync_that_fails_is_a_failure(number, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", failing_fsync(number))
    with pytest.raises(OSError, match=os.strerror(number)), atomic_write(tmp_path / "a.bin") as file:
        file.write(b"x")
    assert os.listdir(tmp_path) == []


def test_the_umask_decides_about_permissions(tmp_path):
    with atomic_write(tmp_path / "a.bin") as file:
        file.write(b"x")
    (tmp_path / "b.bin").write_bytes(b"x")
    assert (tmp_path / "a.bin").stat().st_mode == (tmp_path / "b.bin").stat().st_mode


def test_errors_name_the_target(tmp_path):
    target = tmp_path / "missing" / "a.pth"
    with pytest.raises(FileNotFoundError) as caught, atomic_write(target):
        pass
    assert caught.value.filename == str(target)
    target = tmp_path / "a.pth"
    with pytest.raises(OSError, match=r"a\.pth") as caught, atomic_write(target):
        raise OSError(errno.EFBIG, "File too large")
    assert caught.value.filename == str(target)
