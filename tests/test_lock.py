"""One process at a time."""

import errno
import os
import subprocess
import sys

import pytest

from drsformer_cli import lock
from drsformer_cli.lock import locked

HOLD = "import sys, time; from pathlib import Path; from drsformer_cli.lock import locked\n"
HOLD += "with locked(Path(sys.argv[1]), print): print('held', flush=True); time.sleep(60)"


def never():
    pytest.fail("nobody holds the lock")


def test_one_after_the_other(tmp_path):
    for _ in range(2):
        with locked(tmp_path / "new" / "x.lock", never):
            pass


def test_a_killed_holder_holds_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "POLL_SECONDS", 0.01)
    path = tmp_path / "x.lock"
    with subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        waited = []

        def kill():
            waited.append(True)
            holder.kill()

        with locked(path, kill):
            assert waited == [True]


def test_without_locks_nothing_is_locked(tmp_path, monkeypatch):
    def none(_):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(lock, "_try_lock", none)
    with locked(tmp_path / "x.lock", never), locked(tmp_path / "x.lock", never):
        pass


def test_other_faults_are_raised(tmp_path, monkeypatch):
    def fails(_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(lock, "_try_lock", fails)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)), locked(tmp_path / "x.lock", never):
        pass
