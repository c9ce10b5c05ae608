"""Tables, JSON and CSV of evaluation runs."""

import csv
import io
import json
import math
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from drsformer_cli import console
from drsformer_cli.datasets import DATASETS
from drsformer_cli.evaluation import report
from drsformer_cli.evaluation.evaluator import Candidate, ImageScores, SetScores
from drsformer_cli.evaluation.image_sets import Case, ImageSet
from drsformer_cli.metrics import METRICS, Metric


def run_on(dataset, psnr, count=None, name="mine", extra=()):
    images = ImageSet(dataset.name, [Case("a", Path("a"))], dataset.protocol, dataset, total=dataset.count)
    values = {"psnr": psnr, "ssim": 0.9, "psnr_input": 20.0, "ssim_input": 0.5}
    scores = [ImageScores(str(i), str(i), values, 0.5) for i in range(dataset.count if count is None else count)]
    return SetScores(images, Candidate(name, settings={"checkpoint": "f" * 64, "tile": "auto"}), [*scores, *extra])


def text_of(*runs):
    wide = Console(width=200, file=io.StringIO())
    for title, table in report.tables(runs):
        wide.print(title)
        wide.print(table)
    return wide.file.getvalue()


def test_the_papers_numbers_stand_beside_a_complete_run():
    lines = text_of(run_on(DATASETS["Rain200L"], 40.0), run_on(DATASETS["Rain200L"], 41.5, name="other")).splitlines()
    assert lines[0].rstrip() == "Rain200L: 200 of 200 images, uint8-Y"
    assert lines[1].split() == ["PSNR", "SSIM", "PSNR", "gain", "s/image", "to", "paper"]
    assert lines[2].split()[:4] == ["rainy", "input", "20.00", "±"]
    assert lines[3].split()[-3:] == ["+20.00", "0.50", "-1.23"]
    assert lines[4].split()[-3:] == ["+21.50", "0.50", "+0.27"]
    assert lines[5].split() == ["DRSformer", "(paper)", "41.23", "0.9894"]


def test_part_of_a_set_is_not_compared():
    text = text_of(run_on(DATASETS["Rain200L"], 40.0, count=199))
    assert "199 of 200" in text
    assert "DRSformer (paper), not comparable" in text
    assert "to paper" not in text
    other_protocol = run_on(DATASETS["Rain200L"], 40.0)
    other_protocol = replace(other_protocol, image_set=replace(other_protocol.image_set, protocol="float-Y"))
    assert "to paper" not in text_of(other_protocol)


def test_results_at_another_scale_are_not_compared():
    for scale in (2.0, "auto"):
        run = run_on(DATASETS["Rain200L"], 40.0)
        run.candidate.settings["scale"] = scale
        assert "to paper" not in text_of(run)
        run.candidate.settings["scale"] = 1.0
        assert "to paper" in text_of(run)


def test_notes_say_what_the_means_leave_out():
    odd = [
        ImageScores("same", "same", {"psnr": math.inf, "ssim": 1.0}),
        ImageScores("tiny", "tiny", {"psnr": 30.0, "ssim": math.nan}),
    ]
    run = run_on(DATASETS["Rain100L"], 30.0, count=3, extra=odd)
    assert report.notes([run]) == [
        "Rain100L: mine: 1 identical to the clean image, not in the mean PSNR",
        "Rain100L: mine: no SSIM for tiny (too small, or of one color)",
        "mine: checkpoint ffffffffffff, tile auto",
        "\u00b1: half of the 95 % interval of the mean, by bootstrap over scenes",
    ]


def test_one_image_in_a_line():
    values = {"psnr": 31.239, "ssim": 0.91239, "psnr_input": math.inf}
    assert report.line(ImageScores("a", "a", values)) == "a: psnr 31.24, ssim 0.9124, psnr_input inf"
    assert report.line(ImageScores("a", "a", error="damaged")) == "a: damaged"


def test_json_has_plain_values_only():
    odd = [
        ImageScores("same", "same", {"psnr": math.inf, "ssim": math.nan}),
        ImageScores("bad", "bad", error="bad.png: damaged"),
    ]
    facts = report.as_dict(run_on(DATASETS["Rain100L"], 30.0, count=2, extra=odd))
    assert json.loads(json.dumps(facts, allow_nan=False)) == json.loads(json.dumps(facts))
    assert {"dataset": "Rain100L", "model": "mine", "protocol": "uint8-Y", "count": 3}.items() <= facts.items()
    assert (facts["psnr"], facts["psnr_input"], facts["identical"], facts["to_paper"]) == (30.0, 20.0, 1, None)
    assert facts["images"][0] == {
        "name": "0", "psnr": 30.0, "ssim": 0.9, "psnr_input": 20.0, "ssim_input": 0.5, "seconds": 0.5,
    }  # fmt: skip
    assert facts["images"][2] == {"name": "same", "psnr": None, "ssim": None, "identical": True, "seconds": None}
    assert facts["failures"] == [{"name": "bad", "error": "bad.png: damaged"}]
    assert facts["checkpoint"] == "f" * 64


def test_csv_has_a_row_per_image():
    odd = [ImageScores("same", "s", {"psnr": math.inf, "ssim": math.nan}), ImageScores("a,b", "b", error="damaged")]
    rows = list(
        csv.DictReader(io.StringIO(report.as_csv([run_on(DATASETS["Rain100L"], 30.0, count=1, extra=odd)]).decode()))
    )
    assert [row["name"] for row in rows] == ["0", "same", "a,b"]
    assert (rows[0]["psnr"], rows[0]["ssim_input"], rows[0]["seconds"]) == ("30.0", "0.5", "0.5")
    assert (rows[1]["psnr"], rows[1]["ssim"], rows[2]["psnr"], rows[2]["error"]) == ("inf", "", "", "damaged")


def test_csv_is_utf8_whatever_the_names_are():
    name = os.fsdecode(b"caf\xe9 \xe9\x9b\xa8")
    odd = [ImageScores(name, name, {"psnr": 30.0})]
    data = report.as_csv([run_on(DATASETS["Rain100L"], 30.0, count=0, extra=odd)])
    (row,) = csv.DictReader(io.StringIO(data.decode()))
    assert row["name"] == "caf\\udce9 \u96e8"


def test_what_was_scored_but_not_saved_is_a_failure_with_scores():
    odd = [ImageScores("a", "a", {"psnr": 30.0, "ssim": 0.9}, not_saved="out/a.png: cannot be written: disk full")]
    run = run_on(DATASETS["Rain100L"], 30.0, count=0, extra=odd)
    facts = report.as_dict(run)
    assert facts["failures"] == [{"name": "a", "error": "out/a.png: cannot be written: disk full"}]
    assert [image["name"] for image in facts["images"]] == ["a"]
    (row,) = csv.DictReader(io.StringIO(report.as_csv([run]).decode()))
    assert (row["psnr"], row["error"]) == ("30.0", "out/a.png: cannot be written: disk full")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("width", [20, 30, 60])
def test_a_narrow_terminal_cuts_no_number(monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys, "stdout", Terminal())
    run = run_on(DATASETS["Rain200L"], 40.0, name="a model with a rather long name, which may be folded")
    ((_, table),) = report.tables([run])
    console.table(table)
    text = sys.stdout.getvalue()
    assert "\u2026" not in text
    of_input, own = ("20.00 \u00b1 0.00", "0.5000 \u00b1 0.0000"), ("40.00 \u00b1 0.00", "0.9000 \u00b1 0.0000")
    for number in (*of_input, *own, "+20.00", "0.50", "-1.23", "41.23", "0.9894"):
        assert number in text, number


def test_a_metric_more_touches_nothing_else(monkeypatch):
    """Tables, JSON and CSV are derived from the table of metrics."""
    lpips = Metric("lpips", "LPIPS", 3, higher_is_better=False, needs_clean=True, function=lambda *_: 0.1234)
    monkeypatch.setitem(METRICS, "lpips", lpips)
    image_set = ImageSet("set", [Case("a", Path("a"))], "uint8-Y", total=1)
    values = {"psnr": 30.0, "ssim": 0.9, "lpips": 0.1234, "psnr_input": 20.0, "ssim_input": 0.5, "lpips_input": 0.4}
    run = SetScores(image_set, Candidate("mine"), [ImageScores("a", "a", values)])
    lines = [line.split() for line in text_of(run).splitlines()]
    assert lines[1:] == [
        ["PSNR", "SSIM", "LPIPS", "PSNR", "gain", "s/image"],
        ["rainy", "input", "20.00", "0.5000", "0.400"],
        ["mine", "30.00", "0.9000", "0.123", "+10.00"],
    ]
    assert report.as_dict(run)["lpips_change"] == pytest.approx(-0.2766)
    (row,) = csv.DictReader(io.StringIO(report.as_csv([run]).decode()))
    assert (row["lpips"], row["lpips_input"]) == ("0.1234", "0.4")
    assert report.line(run.scores[0]).startswith("a: psnr 30.00, ssim 0.9000, lpips 0.123, ")
