"""Inputs and outputs, as a table of command lines and pairs."""

import os
import sys
from pathlib import Path

import pytest

from drsformer_cli.deraining.burst import plan_burst
from drsformer_cli.deraining.plan import Job, plan
from drsformer_cli.errors import UsageError
from drsformer_cli.video.options import VideoSettings


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A folder of empty files; planning never opens them."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "b.png", "in/a.jpg", "in/b.PNG", "in/notes.txt", "in/.hidden.jpg", "in/deep/c.tif", "odd"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    (tmp_path / "out").mkdir()
    return tmp_path


def pairs(*inputs, output=None, **options):
    return [(str(job.source), str(job.target)) for job in plan(list(inputs), output, **options).jobs]


@pytest.mark.parametrize(
    ("inputs", "options", "expected"),
    [
        (["a.jpg"], {}, [("a.jpg", "a_derained.jpg")]),
        (["a.jpg"], {"output": "x.png"}, [("a.jpg", "x.png")]),
        (["a.jpg"], {"output": "new/x.png"}, [("a.jpg", "new/x.png")]),
        (["a.jpg"], {"output": "x"}, [("a.jpg", "x/a.jpg")]),
        (["a.jpg"], {"output": "odd", "overwrite": True}, [("a.jpg", "odd")]),
        (["a.jpg"], {"output": "x/"}, [("a.jpg", "x/a.jpg")]),
        (["a.jpg"], {"output": "out"}, [("a.jpg", "out/a.jpg")]),
        (["a.jpg"], {"output": "out", "image_format": "png"}, [("a.jpg", "out/a.png")]),
        (["a.jpg"], {"image_format": "webp"}, [("a.jpg", "a_derained.webp")]),
        (["odd"], {}, [("odd", "odd_derained")]),
        (["a.jpg", "b.png"], {"output": "x"}, [("a.jpg", "x/a.jpg"), ("b.png", "x/b.png")]),
        (["a.jpg", "./a.jpg"], {}, [("a.jpg", "a_derained.jpg")]),
        (["a.jpg", "in/../a.jpg"], {"output": "x"}, [("a.jpg", "x/a.jpg")]),
        (["a.jpg", "in/../a.jpg"], {}, [("a.jpg", "a_derained.jpg")]),
        (["in"], {"output": "x"}, [("in/a.jpg", "x/a.jpg"), ("in/b.PNG", "x/b.PNG")]),
        (["in"], {}, [("in/a.jpg", "in/a_derained.jpg"), ("in/b.PNG", "in/b_derained.PNG")]),
        (
            ["in"],
            {"output": "x", "recursive": True},
            [("in/a.jpg", "x/a.jpg"), ("in/b.PNG", "x/b.PNG"), ("in/deep/c.tif", "x/deep/c.tif")],
        ),
        (["*.jpg"], {"output": "x"}, [("a.jpg", "x/a.jpg")]),
        (["**/*.tif"], {"output": "out"}, [("in/deep/c.tif", "out/c.tif")]),
        (["-"], {"output": "x.png"}, [("None", "x.png")]),
        (["-"], {}, [("None", "None")]),
        (["a.jpg"], {"output": "-"}, [("a.jpg", "None")]),
    ],
)
def test_pairs(tree, inputs, options, expected):
    assert pairs(*inputs, **options) == expected


def test_results_of_an_earlier_run_are_no_inputs(tree):
    (tree / "in" / "a_derained.jpg").touch()
    (tree / "in" / "a_derained_compare.jpg").touch()
    found = plan(["in"], None, skip_existing=True)
    assert found.jobs == [Job(Path("in/b.PNG"), Path("in/b_derained.PNG"), "PNG")]
    assert found.notes[0].startswith("2 skipped: results of an earlier run, such as in/a_derained.jpg;")


def test_names_like_those_of_results_are_inputs_if_there_is_no_original(tree):
    (tree / "in" / "film_preview.jpg").touch()
    (tree / "in" / "towel_derained.png").touch()
    found = plan(["in"], None)
    assert [job.name for job in found.jobs] == ["in/a.jpg", "in/b.PNG", "in/film_preview.jpg", "in/towel_derained.png"]
    assert found.notes == []


def test_output_folder_inside_the_input_is_not_searched(tree):
    (tree / "in" / "out").mkdir()
    (tree / "in" / "out" / "z.jpg").touch()
    assert ("in/out/z.jpg", "in/out/out/z.jpg") not in pairs("in", output="in/out", recursive=True)


def test_compare_has_a_name_of_its_own(tree):
    assert plan(["a.jpg"], None, compare=True).jobs[0].comparison == Path("a_derained_compare.jpg")


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        (["none.jpg"], {}, "none.jpg: no such file or folder"),
        (["*.gif"], {}, r"\*.gif: no matching files"),
        (["out"], {}, "no images or videos in out"),
        (["a.jpg"], {"output": "x.gif"}, "unknown ending .gif"),
        (["a.jpg"], {"output": "x.png", "image_format": "jpg"}, "contradict each other"),
        (["a.jpg", "b.png"], {"output": "odd"}, "is a file, but several inputs need a folder"),
        (["a.jpg", "b.png"], {"output": "x.jpg"}, "is a file, but several inputs need a folder"),
        (["a.jpg"], {"output": "/dev/null", "overwrite": True}, "is a folder or a device"),
        (["a.jpg", "in/a.jpg"], {"output": "x"}, "would both be written to x/a.jpg"),
        (["in"], {"output": "in"}, "is an input"),
        (["a.jpg"], {"output": "a.jpg"}, "is an input"),
        (["a.jpg"], {"output": "a.jpg", "overwrite": True}, "is an input"),
        (["a.jpg"], {"output": "b.png"}, "output exists: b.png"),
        (["a.jpg"], {"overwrite": True, "skip_existing": True}, "exclude each other"),
        (["-", "a.jpg"], {}, "is one image from stdin"),
        (["in"], {"output": "-"}, "is a folder"),
        (["-"], {"output": "out"}, "needs a file name"),
        (["-"], {"compare": True}, "--compare needs an output file"),
    ],
)
def test_refusals(tree, inputs, options, message):
    before = sorted(tree.rglob("*"))
    options = {"output": None, **options}
    with pytest.raises(UsageError, match=message):
        plan(inputs, **options)
    assert sorted(tree.rglob("*")) == before


def test_two_formats_that_become_one_name(tree):
    Path("in/a.png").touch()
    with pytest.raises(UsageError, match=r"in/a.jpg and in/a.png would both be written to x/a.webp"):
        plan(["in"], "x", image_format="webp")


def test_a_comparison_can_clash_too(tree):
    Path("a_compare.jpg").touch()
    with pytest.raises(UsageError, match="would both be written"):
        plan(["in", "a_compare.jpg"], "x", compare=True)


def test_comparisons_of_an_earlier_run_are_no_inputs(tree):
    Path("in/a_compare.jpg").touch()
    found = plan(["in"], "x", compare=True)
    assert [job.name for job in found.jobs] == ["in/a.jpg", "in/b.PNG"]
    assert found.notes[0].startswith("1 skipped: results of an earlier run, such as in/a_compare.jpg;")


def test_links_to_one_file_are_one_file(tree):
    os.link("a.jpg", "hard.jpg")
    Path("soft.jpg").symlink_to("a.jpg")
    for name in ("hard.jpg", "soft.jpg"):
        with pytest.raises(UsageError, match="is an input"):
            plan(["a.jpg"], name, overwrite=True)
    Path("folder").symlink_to("out")
    with pytest.raises(UsageError, match="would both be written"):
        plan(["a.jpg", "in"], "folder")


@pytest.mark.parametrize(("output", "report"), [("b.png", None), ("x.jpg", None), ("out.jpg", "in/page.html")])
def test_no_image_of_a_burst_is_replaced(tree, output, report):
    for name in ("x_compare.jpg", "in/page.html"):
        Path(name).touch()
    report = Path(report) if report else None
    options = {"compare": True, "report": report, "overwrite": True, "video": VideoSettings()}
    with pytest.raises(UsageError, match=r"is an input|would overwrite an input"):
        plan_burst(["a.jpg", "b.png", "x_compare.jpg", "in/page.html"], output, **options)


def test_an_image_of_a_burst_counts_once(tree):
    with pytest.raises(UsageError, match="needs at least 2 images"):
        plan_burst(["a.jpg", "in/../a.jpg"], "x.jpg", video=VideoSettings())


def test_names_that_differ_in_case(tree, monkeypatch):
    Path("in/A.jpg").touch()
    assert len(pairs("in", output="x")) == 3
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(UsageError, match="would both be written"):
        plan(["in"], "x")


def test_pipes_are_no_images_and_broken_links_are_left_to_reading(tree):
    os.mkfifo("in/pipe.jpg")
    Path("in/loop.jpg").symlink_to("loop.jpg")
    assert pairs("in", output="x")[-1] == ("in/loop.jpg", "x/loop.jpg")
    assert len(pairs("in", output="x")) == 3


def test_existing_outputs(tree):
    for name in ("a.jpg", "b.PNG"):
        (tree / "out" / name).touch()
    with pytest.raises(UsageError, match=r"output exists: out/a.jpg and 1 more; use --overwrite or --skip-existing"):
        plan(["in"], "out")
    assert len(plan(["in"], "out", overwrite=True).jobs) == 2
    skipped = plan(["in"], "out", skip_existing=True, recursive=True)
    assert [str(job.target) for job in skipped.jobs] == ["out/deep/c.tif"]
    assert len(skipped.skipped) == 2


def test_a_dangling_link_counts_as_existing(tree):
    (tree / "x.jpg").symlink_to("nowhere")
    with pytest.raises(UsageError, match="output exists"):
        plan(["a.jpg"], "x.jpg")


def test_a_second_glob_skips_what_the_first_one_wrote(tree):
    for name in ("a_derained.jpg", "a_derained_compare.jpg", "z.jpg"):
        Path(name).touch()
    inputs = sorted(str(path) for path in tree.glob("*.jpg"))
    found = plan(inputs, None, skip_existing=True)
    assert [job.name for job in found.jobs] == [str(tree / "z.jpg")]
    assert [job.name for job in found.skipped] == [str(tree / "a.jpg")]
    assert [Path(job.name).name for job in plan(inputs, None, overwrite=True).jobs] == ["a.jpg", "z.jpg"]


def test_results_beside_their_originals_are_skipped_with_a_note(tree):
    for name in ("in/a_derained.png", "in/a_derained_compare.png", "in/alone_derained.jpg"):
        Path(name).touch()
    found = plan(["in/a.jpg", "in/a_derained.png", "in/a_derained_compare.png", "in/alone_derained.jpg"], "x")
    assert [job.name for job in found.jobs] == ["in/a.jpg", "in/alone_derained.jpg"]
    (note,) = found.notes
    assert note.startswith("2 skipped: results of an earlier run, such as in/a_derained.png; to restore one")
    assert [job.name for job in plan(["in"], "x").jobs] == ["in/a.jpg", "in/alone_derained.jpg", "in/b.PNG"]
    assert pairs("in/a_derained.png", output="x") == [("in/a_derained.png", "x/a_derained.png")]


def test_a_linked_folder_is_mentioned(tree):
    (tree / "in" / "linked").symlink_to(tree / "out")
    assert plan(["in"], "x", recursive=True).notes == ["in/linked: linked folder skipped"]
    assert plan(["in"], "x").notes == []


def test_brackets_in_the_name_of_a_folder(tree):
    (tree / "trip [2019]").mkdir()
    (tree / "trip [2019]" / "c.jpg").touch()
    assert pairs("trip [2019]/*.jpg", output="x") == [("trip [2019]/c.jpg", "x/c.jpg")]


def test_the_format_is_decided_once(tree):
    def formats(*inputs, **options):
        return [job.image_format for job in plan(list(inputs), **options).jobs]

    assert formats("a.jpg", output="x.png") == ["PNG"]
    assert formats("a.jpg", output="x", image_format="webp") == ["WEBP"]
    assert formats("odd", output=None) == [None]
    assert formats("-", output=None) == [None]
    assert formats("-", output="x.tif") == ["TIFF"]


def test_images_that_cannot_be_read_are_mentioned(tree):
    for name in ("phone.JXL", "camera.cr2", "other.cr2", "._camera.cr2"):
        (tree / "in" / name).touch()
    assert plan(["in"], "x").notes == ["in: 3 images skipped that cannot be read: .cr2, .jxl"]
    (tree / "only").mkdir()
    (tree / "only" / "phone.jxl").touch()
    with pytest.raises(
        UsageError, match=r"no images or videos in only; .*; only: 1 image skipped that cannot be read: \.jxl"
    ):
        plan(["only"], "x")


def test_an_unreadable_subfolder_costs_itself_only(tree, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "deep":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = plan(["in"], "x", recursive=True)
    assert [job.name for job in found.jobs] == ["in/a.jpg", "in/b.PNG"]
    assert found.failures == [("in/deep", "Permission denied")]
