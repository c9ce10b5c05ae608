"""`drsformer download`, as a user runs it."""

import contextlib
import hashlib
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import misbehaving
import pytest
from conftest import photo
from misbehaving import honest, page, redirect, status, stuck
from PIL import Image

from drsformer_cli.downloads import http, zoo

# The command in a process of its own, for which rain200h is any file of that size: the network is slow to import.
COMMAND = """
import sys
from dataclasses import replace
from drsformer_cli import app
from drsformer_cli.downloads import http, zoo
http.BACK_OFF_SECONDS = 0
size = int(sys.argv.pop(1))
zoo.MODELS = {**zoo.MODELS, "rain200h": replace(zoo.MODELS["rain200h"], size=(size, size), variant=None)}
app.main()
"""


@pytest.fixture
def download(run, home, published, server):
    """`drsformer download` from the server."""
    return lambda *arguments: run("download", *arguments, "--mirror", server.url)


@pytest.fixture
def start(home, server):
    """The same in a process of its own."""

    def start(*arguments, stderr=subprocess.PIPE):
        command = [sys.executable, "-c", COMMAND, str(len(server.body)), "download", *arguments, "--mirror", server.url]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)

    return start


def files(home):
    return sorted(path.name for path in (home / "weights").glob("*"))


CACHED = ["rain200h.json", "rain200h.pth"]


def test_downloaded_verified_and_used(download, run, home, server, tmp_path, monkeypatch):
    answer = download("rain200h", "rain200h")
    assert (answer.code, answer.out) == (0, f"rain200h: downloaded, {home}/weights/rain200h.pth\n")
    assert answer.err.count("\n") == 1
    assert "MB, verified; license: none stated by the authors, assume research use" in answer.err
    assert files(home) == CACHED
    answer = download("rain200h")
    assert (answer.code, answer.out, answer.err) == (0, f"rain200h: cached, {home}/weights/rain200h.pth\n", "")
    monkeypatch.setenv("DRSFORMER_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    Image.fromarray(photo()).save("a.png")
    answer = run("derain", "a.png", "--model", "rain200h", "--json")
    assert (answer.code, json.loads(answer.out)["model"]) == (0, "rain200h")
    assert len(server.asked) == 1


def test_derain_downloads(run, home, published, server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DRSFORMER_MIRROR", server.url)
    Image.fromarray(photo()).save("a.png")
    answer = run("derain", "a.png", "--model", "rain200h", "--quiet")
    assert (answer.code, answer.out, answer.err) == (0, "", "")
    assert files(home) == CACHED


@pytest.mark.parametrize("old", [True, False], ids=["old", "new"])
@pytest.mark.parametrize(
    ("fault", "message", "left"),
    [
        (partial(honest, cut=2000), "the connection broke; 8000 bytes are kept", True),
        (misbehaving.shorter_than_said, "the connection broke; ", False),
        (misbehaving.longer_than_said, "not a checkpoint, or a damaged one", False),
        (misbehaving.endless, "sends more than", False),
        (page("<html>hello</html>"), "sends a web page instead of the file", False),
        (
            page(misbehaving.QUOTA),
            r"refused: Too many users have viewed or downloaded this file recently.\x1b[31m;",
            False,
        ),
        (page(misbehaving.QUOTA, 403), "refused: Too many users have viewed or downloaded this file recently.", False),
        (status(404), "answers 404 Not Found", False),
        (status(403), "answers 403 Forbidden", False),
        (status(500), "answers 500 Internal Server Error", False),
        (status(429, Retry_After=3600), "answers 429 Too Many Requests and asks to retry after 3600 seconds", False),
        (redirect("/rain200h.pth"), "redirects more than 10 times", False),
        (lambda request: None, "the connection broke", False),
    ],
)
def test_a_fault_is_one_line_and_code_4(download, home, server, fault, message, left, old):
    if old:
        download("rain200h")
    before = files(home)
    server.always = fault
    answer = download("rain200h", "--force")
    assert (answer.code, answer.out) == (4, "")
    assert answer.err.startswith(f"drsformer: rain200h: {server.url}/rain200h.pth: {message}")
    page_of_model = zoo.MODELS["rain200h"].page
    assert answer.err.endswith(
        f"; to add it by hand, download {page_of_model} and run: drsformer download --from FILE rain200h\n"
    )
    assert answer.err.count("\n") == 1
    assert answer.err[:-1].isprintable()
    parts = ["rain200h.pth.part", "rain200h.pth.part.json"] if left else []
    assert files(home) == [*before, *parts]
    server.always = honest
    assert download("rain200h", *(["--verify"] if old else [])).code == 0


def test_survivable_faults(download, home, server):
    tenth = len(server.body) // 10 + 1
    server.faults = [redirect("/there"), *[partial(honest, cut=tenth)] * 9, status(500), status(503, Retry_After=0)]
    assert download("rain200h").code == 0
    assert files(home) == CACHED
    server.faults = [partial(honest, cut=tenth), misbehaving.no_ranges]
    assert download("rain200h", "--force").code == 0
    server.faults = [partial(honest, cut=tenth), misbehaving.wrong_range]
    assert download("rain200h", "--force").code == 0
    server.always = misbehaving.drive
    assert download("rain200h", "--force").code == 0
    assert (home / "weights/rain200h.pth").read_bytes() == server.body


def test_no_network(run, home, published, server):
    answer = run("download", "rain200h", "--mirror", "http://me:secret@127.0.0.1:9/a?key=secret", "--json")
    assert answer.code == 4
    assert answer.err.startswith("drsformer: rain200h: http://127.0.0.1:9/a/rain200h.pth: Connection refused; to add")
    assert set(json.loads(answer.out)) == {"name", "error"}
    assert "secret" not in answer.err + answer.out


def test_offline(run, home, monkeypatch):
    monkeypatch.setenv("DRSFORMER_OFFLINE", "1")
    for arguments in (
        ["download", "spa"],
        ["derain", "-m", "spa", Path(__file__).parents[1] / ".github/demo/rainy.jpg"],
    ):
        answer = run(*arguments)
        assert (answer.code, answer.out, answer.err.count("\n")) == (4, "", 1)
        assert "spa is not cached, and DRSFORMER_OFFLINE is set; to add it by hand, download https" in answer.err


def test_one_that_fails_leaves_the_others_alone(download, home, server):
    answer = download("spa", "rain200h", "--json")
    rows = [json.loads(line) for line in answer.out.splitlines()]
    assert answer.code == 4
    assert rows[0]["name"] == "spa"
    assert "bytes, expected 124000000 to 138000000" in rows[0]["error"]
    assert rows[1] | {"date": ""} == {
        "name": "rain200h",
        "status": "downloaded",
        "path": str(home / "weights/rain200h.pth"),
        "size": len(server.body),
        "sha256": hashlib.sha256(server.body).hexdigest(),
        "source": f"{server.url}/rain200h.pth",
        "date": "",
    }


def test_list(run, download, home):
    table = run("download", "--list").out.splitlines()
    assert table[0].split("  ")[0] == "name"
    assert "rain200h" in table[3]
    assert "32.18 / 0.9330 on Rain200H, uint8-Y" in table[3]
    assert [line.split()[0] for line in table[1:]] == [*zoo.MODELS, *zoo.PARAMETER_FILES]
    download("rain200h")
    (home / "weights/rain200l.json").write_text("[")
    rows = [json.loads(line) for line in run("download", "--list", "--json").out.splitlines()]
    found = {row["name"]: (row["cached"], row["state"], row["size"]) for row in rows}
    assert found["general"][:2] == (True, "bundled")
    assert found["rain200h"][:2] == (True, "cached")
    assert found["rain200l"] == (False, "absent", 130_441_216)
    assert found["niqe_pris_params.npz"] == (False, "absent", 11_850)
    row = json.loads(run("download", "--list", "--json", "did").out)
    assert (row["variant"], row["psnr"], row["ssim"], row["protocol"]) == ("mefc", 35.38, 0.9647, "float-Y")
    assert row["license"] == "none stated by the authors, assume research use"


def test_verify(run, download, home):
    assert run("download", "--verify").out == ""
    answer = run("download", "--verify", "rain200h")
    assert (answer.code, answer.err) == (4, "drsformer: rain200h is not cached\n")
    download("rain200h")
    path = home / "weights/rain200h.pth"
    assert run("download", "--verify").out == f"rain200h: verified, {path}\n"
    before = path.stat()
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    answer = run("download", "--verify")
    assert (answer.code, answer.err.count("\n")) == (4, 1)
    assert "differs from what was verified on" in answer.err
    assert download("rain200h", "--force", "--quiet").code == 0
    assert run("download", "--verify", "--all", "--quiet").code == 4  # the others are not there


def test_nothing_to_verify_is_said(run, home):
    answer = run("download", "--verify")
    assert (answer.code, answer.out, answer.err) == (0, "", "nothing is cached: nothing to verify\n")
    assert run("download", "--verify", "--quiet").err == ""


def test_remove(run, download, home):
    download("rain200h")
    assert run("download", "--remove", "rain200h", "--dry-run").out.startswith("rain200h: would be removed")
    assert files(home) == CACHED
    assert run("download", "--remove", "rain200h").out.startswith("rain200h: removed")
    assert files(home) == []
    answer = run("download", "--remove", "--all")
    assert answer.code == 0
    assert answer.out.count(": not cached, ") == 8


def test_from(run, home, published, tiny_file, tmp_path):
    assert "would be installed" in run("download", "--from", tiny_file, "rain200h", "--dry-run").out
    assert not home.exists()
    answer = run("download", "--from", tiny_file, "rain200h")
    assert (answer.code, answer.out) == (0, f"rain200h: installed, {home}/weights/rain200h.pth\n")
    assert files(home) == CACHED
    assert f"rain200h: {tiny_file.stat().st_size / 1e6:.1f} MB, verified; license: " in answer.err
    for file, message in (
        (tmp_path, "is not a file"),
        (tmp_path / "none", "no such file"),
        (__file__, "bytes, expected"),
    ):
        answer = run("download", "--from", file, "rain200h")
        assert (answer.code, answer.err.count("\n")) == (4, 1)
        assert answer.err.startswith(f"drsformer: rain200h: {file}: ")
        assert message in answer.err
    assert files(home) == CACHED


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "expected a NAME or --all"),
        (["rain200"], 2, "rain200: no model of that name; did you mean rain200l? known: general"),
        (["--list", "--verify"], 2, "expected one of them"),
        (["--from", "x", "metrics"], 2, "--from takes a single file; expected one of niqe_pris_params.npz, brisque"),
        (["--from", "x"], 2, "expected a NAME"),
        (["--remove", "general"], 2, "general is part of the package"),
        (["spa", "--mirror", "here"], 2, "mirror here: expected http://HOST/FOLDER"),
    ],
)
def test_wrong_usage(run, home, arguments, code, message):
    answer = run("download", *arguments)
    assert (answer.code, answer.out, answer.err.count("\n")) == (code, "", 1)
    assert message in answer.err
    assert not home.exists()


def test_bundled_and_dry_run(run, home):
    answer = run("download", "general", "spa", "metrics", "--dry-run")
    lines = answer.out.splitlines()
    assert lines[0].startswith("general: bundled, ")
    assert lines[1] == f"spa: would be downloaded from {http.DRIVE}, {home}/weights/spa.pth"
    assert lines[2].startswith(
        "niqe_pris_params.npz: would be downloaded from https://raw.githubusercontent.com/XPixel"
    )
    assert len(lines) == 5
    assert not home.exists()


def wait_for(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_two_processes_download_once(start, home, server):
    server.always = partial(honest, pause=0.005)
    processes = [start("rain200h") for _ in range(2)]
    answers = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], answers
    assert len(server.asked) == 1
    assert files(home) == CACHED
    assert sum("verified" in err for _, err in answers) == 1


@pytest.fixture
def released():
    """Ends the requests of a server that is stuck."""
    event = threading.Event()
    yield event
    event.set()


def test_killed_in_the_middle_then_again(start, download, home, server, released):
    part = home / "weights/rain200h.pth.part"
    server.always = partial(stuck, released=released)
    with start("rain200h") as process:
        wait_for(lambda: part.exists() and part.stat().st_size > 20_000)
        process.kill()
    assert files(home) == ["rain200h.pth.part", "rain200h.pth.part.json"]
    size = part.stat().st_size
    server.always = honest
    assert download("rain200h").code == 0
    assert server.asked[-1][1]["Range"] == f"bytes={size}-"
    assert files(home) == CACHED
    assert (home / "weights/rain200h.pth").read_bytes() == server.body


def test_interrupt_keeps_what_came(start, home, server, released):
    server.always = partial(stuck, released=released)
    part = home / "weights/rain200h.pth.part"
    with start("rain200h") as process:
        wait_for(lambda: part.exists() and part.stat().st_size > 20_000)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    kept = f"rain200h: {part.stat().st_size} bytes are kept; run the same command again to resume"
    assert errors == f"drsformer: interrupted; {kept}\n"


def read_to_the_end(terminal):
    """What a process writes until it ends: a terminal holds only 4 kB that nobody reads."""
    output = b""
    with contextlib.suppress(OSError):  # nobody has its other end open any more
        while data := os.read(terminal, 10_000):
            output += data
    return output


def test_bar_on_a_terminal(home, server, start):
    terminal, end = pty.openpty()
    server.always = partial(honest, pause=0.002)
    with ThreadPoolExecutor(1) as reader, start("rain200h", "--json", stderr=end) as process:
        os.close(end)
        reading = reader.submit(read_to_the_end, terminal)
        out, _ = process.communicate(timeout=60)
    os.close(terminal)
    shown = reading.result().decode()
    assert json.loads(out)["status"] == "downloaded"
    assert "%" in shown
    assert "MB, verified" in shown
