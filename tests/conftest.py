"""Fixtures of all tests: the command line in this process, images, checkpoints, and ../shared if it exists."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from misbehaving import serving
from torch.distributed import TCPStore

import drsformer
from drsformer import PRESETS, DRSformer, DRSformerConfig
from drsformer_cli import app
from drsformer_cli.downloads import http, zoo
from drsformer_cli.images import limit

SHARED = Path(__file__).parents[2] / "shared"
DEMO = Path(__file__).parents[1] / ".github/demo/rainy.jpg"

TINY = DRSformerConfig(dim=8, num_blocks=(1, 1, 1, 1), mefc=False)


@dataclass
class Answer:
    """The output and the exit code of a run of the command line."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path_factory):
    """Isolate tests from settings and files of the machine, and remove signal and log handlers that they install."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for name in (
        *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NO_COLOR", "FORCE_COLOR"),
        *("DRSFORMER_MIRROR", "DRSFORMER_OFFLINE", "DRSFORMER_DATA"),
        *("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"),
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DRSFORMER_HOME", str(tmp_path_factory.getbasetemp() / "home"))
    monkeypatch.setattr(limit, "_advice", "")
    if handlers[signal.SIGINT] is signal.SIG_IGN:  # as for a job in the background; processes would inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def run(monkeypatch, capfd):
    """Run `drsformer` with these arguments, exactly as the command would."""

    def run(*arguments: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["drsformer", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit_:
            app.main()
        captured = capfd.readouterr()
        return Answer(int(exit_.value.code or 0), captured.out, captured.err)

    return run


_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["cv2", "numpy", "PIL.Image", "torch.distributed"])  # most of the time of a new process


def _main(arguments: tuple[str, ...], environment: dict[str, str], out: Path, err: Path) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for path, stream in ((out, sys.stdout), (err, sys.stderr)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream.fileno())
    torch.set_num_threads(1)
    sys.argv = ["drsformer", *arguments]
    app.main()


def on_two_ranks(*arguments: object) -> list[Answer]:
    """Run `drsformer` in two processes of a group, as torchrun does, but without waiting for torch to be imported."""
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)  # at a free port
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port)}
    group["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    with tempfile.TemporaryDirectory() as folder:
        ranks, texts = [], []
        for rank in ("0", "1"):
            texts.append([Path(folder, f"{name}{rank}") for name in ("out", "err")])
            environment = {**os.environ, **group, "RANK": rank, "LOCAL_RANK": rank}
            ranks.append(
                _FORKS.Process(target=_main, args=(tuple(map(str, arguments)), environment, *texts[-1]), daemon=True)
            )
            ranks[-1].start()
        for rank in ranks:
            rank.join(120)
        return [
            Answer(rank.exitcode, *(path.read_text(encoding="utf-8") for path in paths))
            for rank, paths in zip(ranks, texts, strict=True)
        ]


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch):
    """Use one thread in tests and their processes: in networks that are so small, threads only wait for each other."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared():
    """The team's folder of reference data, which a clone does not have."""
    if not SHARED.is_dir():
        pytest.skip("../shared does not exist: reference data of the developers, absent in a clone")
    return SHARED


@pytest.fixture(scope="session")
def general():
    """The bundled model."""
    return drsformer.load_checkpoint(drsformer.GENERAL)


@pytest.fixture(scope="session")
def tiny():
    """A small network with random weights."""
    torch.manual_seed(0)
    return DRSformer(TINY).eval()


@pytest.fixture(scope="session")
def tiny_file(tiny, tmp_path_factory):
    """The checkpoint of the small network in the published format."""
    path = tmp_path_factory.mktemp("weights") / "tiny.pth"
    torch.save({"params": tiny.state_dict()}, path)
    return path


@pytest.fixture
def home(monkeypatch, tmp_path):
    """An empty cache."""
    monkeypatch.setenv("DRSFORMER_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def published(monkeypatch, tiny_file):
    """The row of rain200h, changed as if the authors had published the tiny network."""
    size = tiny_file.stat().st_size
    row = replace(zoo.MODELS["rain200h"], size=(size - 20_000, size + 20_000), variant="tiny")
    monkeypatch.setitem(PRESETS, "tiny", TINY)
    monkeypatch.setattr(zoo, "MODELS", {**zoo.MODELS, "rain200h": row})
    return row


@pytest.fixture
def server(monkeypatch, tiny_file):
    """A web server that serves the tiny network, and a client that tries again at once."""
    monkeypatch.setattr(http, "BACK_OFF_SECONDS", 0)
    with serving() as server:
        server.body = tiny_file.read_bytes()
        yield server


def documented_keys(command: str) -> set[str]:
    """The keys that docs/reference.md says --json prints."""
    page = (Path(__file__).parents[1] / "docs/reference.md").read_text(encoding="utf-8")
    section = page.partition(f"## drsformer {command}\n")[2].partition("\n## ")[0]
    return set(re.findall(r"`(\w+)`", section.partition("`--json` prints")[2]))


def photo(height: int = 40, width: int = 56, dtype: type = np.uint8, seed: int = 0, noise: float = 0.05):
    """A smooth image with some noise, (H, W, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / 9 + 2 * c) * np.cos(y / 7 - c) for c in range(3)]
    values = 0.5 + 0.3 * np.stack(waves, -1) + noise * rng.standard_normal((height, width, 3)) + 0.01 * seed
    values = np.clip(values, 0, 1)
    return (values * np.iinfo(dtype).max).round().astype(dtype)
