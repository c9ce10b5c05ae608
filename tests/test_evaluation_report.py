"""Tables, JSON and CSV of evaluation runs."""

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from drsformer_cli.datasets import DATASETS
from drsformer_cli.evaluation import report
from drsformer_cli.evaluation.evaluator import Method, Run, Score
from drsformer_cli.evaluation.image_sets import ImageSet, Sample


def run_on(dataset, psnr, count=None, name="mine", extra=()):
    images = ImageSet(dataset.name, [Sample("a", Path("a"))], dataset.protocol, dataset, total=dataset.count)
    values = {"psnr": psnr, "ssim": 0.9, "psnr_input": 20.0, "ssim_input": 0.5}
    scores = [Score(str(i), str(i), values, 0.5) for i in range(dataset.count if count is None else count)]
    return Run(images, Method(name, settings={"checkpoint": "f" * 64, "tile": "auto"}), [*scores, *extra])


def text_of(*runs):
    console = Console(width=200, file=io.StringIO())
    for title, table in report.tables(runs):
        console.print(title)
        console.print(table)
    return console.file.getvalue()


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


def test_notes_say_what_the_means_leave_out():
    odd = [
        Score("same", "same", {"psnr": math.inf, "ssim": 1.0}),
        Score("tiny", "tiny", {"psnr": 30.0, "ssim": math.nan}),
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
    assert report.line(Score("a", "a", values)) == "a: psnr 31.24, ssim 0.9124, psnr_input inf"
    assert report.line(Score("a", "a", error="damaged")) == "a: damaged"


def test_json_has_plain_values_only():
    odd = [
        Score("same", "same", {"psnr": math.inf, "ssim": math.nan}),
        Score("bad", "bad", error="bad.png: damaged"),
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


def test_csv_has_a_row_a_image():
    odd = [Score("same", "s", {"psnr": math.inf, "ssim": math.nan}), Score("a,b", "b", error="damaged")]
    rows = list(csv.DictReader(io.StringIO(report.as_csv([run_on(DATASETS["Rain100L"], 30.0, count=1, extra=odd)]))))
    assert [row["name"] for row in rows] == ["0", "same", "a,b"]
    assert (rows[0]["psnr"], rows[0]["ssim_input"], rows[0]["seconds"]) == ("30.0", "0.5", "0.5")
    assert (rows[1]["psnr"], rows[1]["ssim"], rows[2]["psnr"], rows[2]["error"]) == ("inf", "", "", "damaged")
