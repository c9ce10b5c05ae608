"""Image quality metrics: PSNR and SSIM against a clean image, NIQE and BRISQUE without one.

Options, tables and reports are derived from `METRICS`. A new metric is a function in a module of this package and a row
here; if it has parameter files, they need rows in `drsformer_cli.downloads.zoo`, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from drsformer_cli.datasets import Protocol
from drsformer_cli.metrics.full_reference import PROTOCOLS, SMALLEST_SSIM_SIDE, luma, psnr, ssim
from drsformer_cli.metrics.no_reference import BRISQUE_FILES, NIQE_FILE, Brisque, Niqe

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from drsformer_cli.metrics.full_reference import RGB8

    Scorer = Callable[[RGB8, RGB8 | None, Protocol | None], float]

__all__ = [
    "BRISQUE_FILES",
    "METRICS",
    "NIQE_FILE",
    "PROTOCOLS",
    "SMALLEST_SSIM_SIDE",
    "Brisque",
    "Metric",
    "Niqe",
    "Protocol",
    "luma",
    "psnr",
    "ssim",
]


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: Name in JSON and CSV.
        title: Name in tables.
        digits: Decimals in tables.
        higher_is_better: Whether a higher score is better.
        needs_clean: Whether it compares the restored image with a clean one.
        function: (restored, clean, protocol) -> score if it needs a clean image, otherwise restored -> score. If there
            are `files`, a class or function that takes their paths and returns such a function. Raises an ImageError
            for images that the metric is not defined for, such as too small ones.
        files: Names of its parameter files, which `drsformer download metrics` downloads.
    """

    name: str
    title: str
    digits: int
    higher_is_better: bool
    needs_clean: bool
    function: Callable[..., Any]
    files: tuple[str, ...] = ()

    def load(self, find: Callable[[str], Path]) -> Scorer:
        """The metric, ready to be called as score(restored, clean, protocol); `find` gives the path of a file.

        Raises:
            CheckpointError: A parameter file is missing or damaged.
        """
        function = self.function(*map(find, self.files)) if self.files else self.function
        return function if self.needs_clean else lambda restored, _clean, _protocol: function(restored)


METRICS = {
    row.name: row
    for row in (
        Metric("psnr", "PSNR", 2, higher_is_better=True, needs_clean=True, function=psnr),
        Metric("ssim", "SSIM", 4, higher_is_better=True, needs_clean=True, function=ssim),
        Metric("niqe", "NIQE", 3, higher_is_better=False, needs_clean=False, function=Niqe, files=(NIQE_FILE,)),
        Metric(
            "brisque", "BRISQUE", 2, higher_is_better=False, needs_clean=False, function=Brisque, files=BRISQUE_FILES
        ),
    )
}
"""All metrics by name. The first that needs a clean image, and the first that does not, are the main ones: reports rank
images and show gains by them."""
