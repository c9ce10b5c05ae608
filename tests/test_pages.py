"""The pages: what they are made of, and the reports of `derain` and `eval`."""

import base64
import errno
import hashlib
import io
import os
import re
import threading
import weakref
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from conftest import photo
from PIL import Image, ImageCms

from drsformer_cli.deraining import pipeline
from drsformer_cli.images import DecodedImage, Metadata
from drsformer_cli.pages.compare import preview
from drsformer_cli.pages.page import assemble, escape
from drsformer_cli.pages.report import Card, Fact, Overview, Report, Sort, Table, link
from drsformer_cli.pages.spool import Spool

HOSTILE = "\"onerror=alert(1) <script>alert(2)<script> '&amp; 100%#?.png"


class Page(HTMLParser):
    """Elements of a page as (tag, attributes), the texts of leaf elements by tag, and all text."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.texts, self._open = [], [], []
        self.html = Path(path).read_text("utf-8")
        self.feed(self.html)
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in ("meta", "link", "img", "input"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.append((self._open[-1] if self._open else "", data.strip()))

    def all(self, tag, of_class=None):
        return [a for found, a in self.elements if found == tag and of_class in (None, *a.get("class", "").split())]

    def said(self, tag):
        return [text for found, text in self.texts if found == tag]


def card(name="a.png", value=1.0, **changes):
    image = DecodedImage(photo())
    facts = {
        "images": {"rainy": image, "restored": image},
        "facts": [Fact("change", "Change", "one", value)],
        "files": {"rainy": Path("a.png")},
        **changes,
    }
    return Card(name, **facts)


OVERVIEW = Overview("Title", "Subtitle", [Sort("Name", "name"), Sort("Most changed", "change", descending=True)])


@pytest.fixture
def folder(tmp_path, monkeypatch, tiny_file):
    """Two images and a text file in the current folder."""
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    Image.fromarray(photo()).save("in/a.png")
    Image.fromarray(photo(seed=1)).save(f"in/{HOSTILE}")
    Path("in/text.jpg").write_text("I am no image.\n")
    return tmp_path


def test_styles_and_scripts_run_by_their_hash_alone():
    names = ("subtitle", "failures", "tables", "notes", "sorts", "choices", "tools_hidden", "cards")
    page = assemble("report", "Title", dict.fromkeys(names, ""))
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert " style=" not in page
    assert not re.search(r"\son\w+=|(src|href)=.?(https?:)?//", page)


def test_text_stays_text():
    assert escape('<a title="\'">&') == "&lt;a title=&quot;&#x27;&quot;&gt;&amp;"
    assert escape(os.fsdecode(b"caf\xe9")) == "caf\\udce9"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("out/a b.png", "../out/a%20b.png"),
        ("pages/100%#?.png", "100%25%23%3F.png"),
        ("pages/javascript:x", "javascript%3Ax"),
        ("pages/<é>", "%3C%C3%A9%3E"),
        (os.fsdecode(b"pages/\xff"), "%FF"),
    ],
)
def test_links_are_relative_and_encoded(path, expected):
    assert link(Path(path), Path("pages")) == expected


def test_preview_is_small_and_has_the_colors_of_the_image():
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = DecodedImage(photo(40, 80, np.uint16), metadata=Metadata(icc=icc, exif=b"II*\0secret"))
    small = preview(image, 40)
    assert (small.width, small.height) == (40, 20)
    assert b"secret" not in small.data
    with Image.open(io.BytesIO(small.data)) as opened:
        assert (opened.size, opened.format, opened.info["icc_profile"]) == ((40, 20), "JPEG", icc)
        mean = np.asarray(opened).mean()
    assert mean == pytest.approx(image.pixels.mean() / 257, abs=2)
    assert preview(DecodedImage(photo(1, 3)), 40).height == 1
    assert preview(DecodedImage(photo(2, 3000)), 40).height == 1


def test_spool_gives_back_what_it_got_and_leaves_no_file(tmp_path):
    spool = Spool(tmp_path)
    for data in (b"one", b"", b"three"):
        spool.append(data)
    assert (len(spool), list(spool), list(spool)) == (3, [b"one", b"", b"three"], [b"one", b"", b"three"])
    spool.append(b"4")
    assert list(spool)[-1] == b"4"
    gone = weakref.ref(spool)
    del spool
    assert gone() is None
    assert list(tmp_path.iterdir()) == []


def test_report_has_cards_failures_and_tables(tmp_path):
    report = Report(tmp_path / "new" / "page.html", 3)
    report.add(card("b.png", 2.5, notes=["<b>bold</b>"], group="Set, model"))
    report.add(card("a.png", float("nan"), files={}))
    report.add(card("c.png", float("inf")))
    table = Table("Means", ["PSNR"], [("tiny", ["30.1"])])
    failures = [("bad <i>.png", "damaged & gone")]
    overview = Overview("T <", "S", OVERVIEW.sorts, failures, [table], ["note"], ("rainy", "clean"))
    report.write(overview, overwrite=False)
    page = Page(tmp_path / "new" / "page.html")
    assert page.said("title") == page.said("h1") == ["T <"]
    assert [(a["data-name"], a.get("data-change")) for a in page.all("li", "card")] == [
        ("b.png", "2.5"), ("a.png", None), ("c.png", "Infinity"),
    ]  # fmt: skip
    assert {"Means", "PSNR", "tiny", "30.1", "note", "<b>bold</b>", "Set, model"} <= {text for _, text in page.texts}
    assert page.html.index("bad &lt;i&gt;.png") < page.html.index('<li class="card"')
    assert [a["value"] for a in page.all("option")] == ["name 1", "change -1"]
    assert [a["value"] for a in page.all("input") if a["type"] == "radio"] == ["rainy", "clean"]
    assert len(page.all("img")) == 6
    assert all(a["alt"] and a["src"].startswith("data:image/jpeg;base64,/9j/") for a in page.all("img"))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["page.html"]


def test_of_many_images_smaller_versions_are_kept(tmp_path):
    large = DecodedImage(np.zeros((1200, 4, 3), np.uint8))
    heights = []
    for number in (1, 200, 400, 100_000):
        report = Report(tmp_path / f"{number}.html", number)
        report.add(card(images={"restored": large}))
        report.write(OVERVIEW, overwrite=False)
        heights += [int(a["height"]) for a in Page(tmp_path / f"{number}.html").all("img")]
    assert heights == [960, 960, 679, 480]


def test_image_without_a_preview_is_still_listed(tmp_path, monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr("drsformer_cli.pages.report.preview", fail)
    report = Report(tmp_path / "page.html", 1)
    report.add(card())
    report.write(OVERVIEW, overwrite=False)
    page = Page(tmp_path / "page.html")
    assert "no preview: out of memory" in page.said("li")
    assert page.all("button", "enlarge") == page.all("img") == []


def test_card_without_images(tmp_path):
    report = Report(tmp_path / "page.html", 1)
    report.add(card("film.mp4", images={}))
    report.write(OVERVIEW, overwrite=False)
    page = Page(tmp_path / "page.html")
    assert page.said("bdi") == ["film.mp4"]
    assert page.all("button", "enlarge") == page.all("div", "frame")[1:] == []


def test_existing_page_is_kept_unless_asked(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("mine")
    with pytest.raises(FileExistsError):
        Report(path, 1).write(OVERVIEW, overwrite=False)
    assert path.read_text() == "mine"
    Report(path, 1).write(OVERVIEW, overwrite=True)
    assert Page(path).said("h1") == ["Title"]
    assert list(tmp_path.iterdir()) == [path]


def test_cards_of_all_ranks_are_gathered_in_the_order_of_the_images(tmp_path):
    """Images 0, 2 and 4 are those of rank 0, images 1 and 3 those of rank 1."""
    reports = [Report(tmp_path / "page.html", 5) for _ in range(2)]
    for i in range(5):
        reports[i % 2].add(card(str(i)))
    other = iter([*reports[1]._cards, b""])

    class Ranks:
        world_size, is_rank_0 = 2, True

        def broadcast(self, value):
            return value

        def gather(self, value):
            return [value, next(other) if isinstance(value, bytes) else type(value)()]

    reports[0].gather(Ranks())
    reports[0].write(OVERVIEW, overwrite=False)
    assert [a["data-name"] for a in Page(tmp_path / "page.html").all("li", "card")] == list("01234")


def test_report_of_derain(run, folder, tiny_file):
    answer = run("derain", "in", "-o", "out", "--report", "out/page.html", "--model", tiny_file, "--json")
    assert (answer.code, answer.out.count("\n")) == (3, 3)
    page = Page("out/page.html")
    assert page.said("h1") == ["2 of 3 files derained"]
    cards = page.all("li", "card")
    assert [a["data-name"] for a in cards] == [f"in/{HOSTILE}", "in/a.png"]
    assert all(float(a["data-mean_change"]) > 0 and float(a["data-seconds"]) >= 0 for a in cards)
    assert page.said("dt")[:5] == ["Mean change", "Time", "Size", "Scale", "Tile"]
    assert "in/text.jpg" in page.said("bdi")
    assert len(page.all("script")) == 1
    targets = [Path("out", unquote(a["href"])) for a in page.all("a")]
    assert [path.resolve() for path in targets] == [
        path.resolve() for name in (HOSTILE, "a.png") for path in (Path("in", name), Path("out", name))
    ]
    assert {path.name for path in Path("out").iterdir()} == {HOSTILE, "a.png", "page.html"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["in/a.png", "--report", "in/a.png"], "--report in/a.png: expected a name that ends in .html"),
        (["x.html", "-o", "b.png", "--report", "link.html"], "--report link.html: would overwrite an input"),
        (["in", "-o", "new.html/", "--report", "new.html"], "--report new.html: the output of"),
        (["in/a.png", "--report", "dir.html"], "--report dir.html: is a folder or a device"),
        (["in/a.png", "--report", "x.html"], "report exists: x.html; use --overwrite"),
        (["in/a.png", "--report", "x.html/r.html"], "--report x.html/r.html: cannot be written: "),
        (["in/a.png", "--report", "x.html", "--dry-run"], "report exists: x.html; use --overwrite"),
    ],
)
def test_report_that_would_clash_is_refused_before_any_work(run, folder, arguments, message):
    Path("x.html").write_text("mine")
    Path("link.html").symlink_to("x.html")
    Path("dir.html").mkdir()
    answer = run("derain", *arguments)
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert message in answer.err
    assert not list(folder.rglob("*derained*"))


def test_interrupted_run_reports_what_was_done(run, folder, tiny_file, monkeypatch):
    restore, done = pipeline.restore_image, threading.Event()
    Path("page.html").write_text("old")
    add = Report.add
    monkeypatch.setattr(Report, "add", lambda self, card: (add(self, card), done.set()))

    def interrupt(rainy, *arguments, seen=[]):  # noqa: B006 - counts the calls
        seen.append(rainy)
        if len(seen) > 1:
            assert done.wait(60)
            raise KeyboardInterrupt
        return restore(rainy, *arguments)

    monkeypatch.setattr(pipeline, "restore_image", interrupt)
    answer = run(
        "derain", "in", "-o", "out", "--report", "page.html", "--model", tiny_file, "--overwrite", "--scale", 1
    )
    assert answer.code == 130
    assert [a["data-name"] for a in Page("page.html").all("li", "card")] == [f"in/{HOSTILE}"]
    assert Page("page.html").said("h1") == ["1 of 3 files derained"]


def test_report_that_cannot_be_written_is_told_and_the_images_are_kept(run, folder, tiny_file, monkeypatch):
    def full(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Spool, "append", full)
    answer = run("derain", "in/a.png", "-o", "b.png", "--report", "page.html", "--model", tiny_file, "--scale", 1)
    assert answer.code == 3
    assert answer.err == (
        "drsformer: page.html: cannot be written: images are missing in it: No space left on device\n"
    )
    assert Path("b.png").exists()


def test_report_of_eval(run, tmp_path, monkeypatch, tiny_file):
    monkeypatch.chdir(tmp_path)
    for name in ("rainy", "clean"):
        Path(name).mkdir()
        for i in (1, 2):
            Image.fromarray(photo(seed=i, noise=0.05 if name == "rainy" else 0.02)).save(f"{name}/{i}.png")
    Path("rainy/3.png").write_text("bad")
    Image.fromarray(photo()).save("clean/3.png")
    arguments = ["--inputs", "rainy", "--targets", "clean", "--model", tiny_file, "--save", "saved", "--json"]
    answer = run("eval", *arguments, "--report", "page.html")
    assert answer.code == 3
    page = Page("page.html")
    assert [a["data-name"] for a in page.all("li", "card")] == ["1", "2"]
    assert all(float(a["data-psnr"]) > 0 and float(a["data-ssim"]) > 0 for a in page.all("li", "card"))
    assert [a["alt"] for a in page.all("img")[:3]] == ["1, restored", "1, rainy", "1, clean"]
    assert {"rainy input", "tiny"} <= set(page.said("th"))
    assert "3.png: not an image" in page.html
    assert all(Path(unquote(a["href"])).is_file() for a in page.all("a"))
    assert len(page.all("a")) == 6
    answer = run("eval", *arguments, "--report", "page.html")
    assert (answer.code, answer.err) == (2, "drsformer: page.html exists; --overwrite replaces it\n")
    answer = run("eval", *arguments, "--report", "page.txt")
    assert (answer.code, answer.err) == (2, "drsformer: --report page.txt: expected a name that ends in .html\n")
