"""The usual test sets of deraining: their sizes, how they are scored, and what papers report on them."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Literal

from drsformer_cli.errors import UsageError

Protocol = Literal["uint8-Y", "float-Y"]
"""How luma is computed for PSNR and SSIM; see `drsformer_cli.metrics`."""

SideBySide = Literal["clean-left", "rainy-left"]
"""Which half of a file is the clean image, if the file holds both images of a pair."""


@dataclass(frozen=True)
class Dataset:
    """A data set to test on.

    Attributes:
        name: Name in papers.
        count: Number of pairs in its test set.
        protocol: How papers compute PSNR and SSIM on it.
        source: Where it can be downloaded.
        reported: Published results as (method, PSNR in dB, SSIM or None); DRSformer's comes first if there is one.
        aliases: Other names of its folder.
        side_by_side: Which half is clean, if each file holds a pair; None if a pair is two files.
        caution: A training set that is known or likely to share scenes with it, and the reason.
    """

    name: str
    count: int
    protocol: Protocol
    source: str
    reported: tuple[tuple[str, float, float | None], ...] = ()
    aliases: tuple[str, ...] = ()
    side_by_side: SideBySide | None = None
    caution: tuple[str, str] | None = None


_AUTHORS = "linked by the authors on Baidu only, at https://github.com/cschenxiang/DRSformer"
_RAIN13K = (
    "part of Rain13K's test sets: https://drive.google.com/file/d/1P_-RAvltEoEhfT-9GrWRdpEi6NSswTs8 "
    "(1.3 GB), or Hugging Face dronefreak/Rain13K"
)

_ONE_SOURCE = "both come from one source and may share scenes"

DATASETS = {
    row.name: row
    for row in (
        Dataset(
            "Rain200L",
            200,
            "uint8-Y",
            f"{_AUTHORS} (code s2yx)",
            (("DRSformer (paper)", 41.23, 0.9894), ("Restormer (paper)", 40.99, 0.9890)),
        ),
        Dataset(
            "Rain200H",
            200,
            "uint8-Y",
            f"{_AUTHORS} (code z9br)",
            (("DRSformer (paper)", 32.18, 0.9330), ("IDT (paper)", 32.10, 0.9344)),
        ),
        Dataset(
            "DID-Data",
            1200,
            "float-Y",
            f"{_AUTHORS} (code 5luo)",
            (("DRSformer (paper)", 35.38, 0.9647), ("Restormer (paper)", 35.29, 0.9641)),
            ("DID", "DID-MDN"),
        ),
        Dataset(
            "DDN-Data",
            1400,
            "float-Y",
            f"{_AUTHORS} (code ldzo), or Hugging Face dronefreak/DDN-Data",
            (("DRSformer (paper)", 34.36, 0.9590), ("Restormer (paper)", 34.20, 0.9571)),
            ("DDN", "Rain1400"),
        ),
        Dataset(
            "SPA-Data",
            1000,
            "uint8-Y",
            f"{_AUTHORS} (code yjow), or Kaggle leftthomas/spadata",
            (("DRSformer (paper)", 48.53, 0.9924), ("Restormer (paper)", 47.98, 0.9921)),
            ("SPA", "SPANet-Data"),
        ),
        Dataset(
            "Rain100L",
            100,
            "uint8-Y",
            _RAIN13K,
            (("PReNet, trained for this set", 37.48, None), ("RCDNet, trained for this set", 39.98, None)),
            caution=("Rain200L", _ONE_SOURCE),
        ),
        Dataset(
            "Rain100H",
            100,
            "uint8-Y",
            _RAIN13K,
            (("PReNet, trained for this set", 29.46, None), ("RCDNet, trained for this set", 31.28, None)),
            caution=("Rain200H", _ONE_SOURCE),
        ),
        Dataset(
            "Rain800",
            100,
            "uint8-Y",
            "the test half of Rain800 (He Zhang, ID-CGAN): https://github.com/hezhangsprinter/ID-CGAN",
            side_by_side="clean-left",
        ),
        Dataset("Test100", 100, "uint8-Y", f"{_RAIN13K}; the test half of Rain800"),
        Dataset("Test1200", 1200, "uint8-Y", f"{_RAIN13K}; the test half of DID-MDN"),
        Dataset(
            "Test2800",
            2800,
            "uint8-Y",
            f"{_RAIN13K}; 200 of the 1,000 scenes of Rain1400",
            caution=("DDN-Data", "trained on 900 of the 1,000 scenes that these 200 are taken from"),
        ),
    )
}
"""Data sets by name. Sizes, protocols and results are from the paper of DRSformer, or from that of the data set."""


def known(name: str) -> Dataset | None:
    """The data set with this name or alias, in any spelling; None if there is none."""
    return next((row for row in DATASETS.values() if normalized(name) in folder_names(row)), None)


def find_dataset(name: str) -> Dataset:
    """The data set with this name or alias, in any spelling.

    Raises:
        UsageError: No data set has that name.
    """
    if dataset := known(name):
        return dataset
    close = difflib.get_close_matches(name, DATASETS, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]}" if close else ""
    all_names = ", ".join(DATASETS)
    raise UsageError(f"--dataset {name}: not a folder, and not the name of a data set{hint}; known: {all_names}")


def folder_names(dataset: Dataset) -> set[str]:
    """Possible names of a data set's folder, in the form that `normalized` returns."""
    return {normalized(name) for name in (dataset.name, *dataset.aliases)}


def normalized(name: str) -> str:
    """ASCII letters and digits only, in lower case: Rain_200L and rain200l are the same."""
    return re.sub(r"[^a-z0-9]", "", name.lower())
