"""Restore and score images: from samples to the numbers of a table.

Shapes: images (H, W, 3) RGB uint8.
"""

from __future__ import annotations

import io
import json
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, PngImagePlugin

from drsformer.errors import ImageError
from drsformer.files import atomic_write, sha256_of
from drsformer_cli import metrics
from drsformer_cli.datasets import read_rgb8
from drsformer_cli.errors import IMAGE_ERRORS, reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from drsformer.inference import Restorer
    from drsformer_cli.evaluation.image_sets import ImageSet, Sample

    Pixels = NDArray[np.uint8]
    Scorer = Callable[[Pixels], float]

_RECORD = "drsformer"  # PNG text of a saved result that says what made it
_RESAMPLES = 2000


@dataclass(frozen=True)
class Method:
    """What is scored: a network, or results that exist.

    Attributes:
        name: In tables and in the paths of saved results.
        restorer: The network; None for existing results.
        settings: What the results depend on beside the image: checkpoint hash, device, tile and so on.
    """

    name: str
    restorer: Restorer | None = None
    settings: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Score:
    """The numbers of one image.

    Attributes:
        name: Of the sample.
        scene: See `Sample.scene`.
        values: By metric; with `_input` for the rainy image. PSNR is infinite for equal luma; a metric that is not
            defined for the image (too small, of one color) is NaN.
        seconds: In the network; None for existing results.
        error: Why there are no numbers.
    """

    name: str
    scene: str
    values: dict[str, float] = field(default_factory=dict)
    seconds: float | None = None
    error: str | None = None


@dataclass(frozen=True)
class Run:
    """One method on one set of images."""

    image_set: ImageSet
    method: Method
    scores: Sequence[Score]

    @property
    def scored(self) -> list[Score]:
        """The images that have numbers."""
        return [score for score in self.scores if score.error is None]

    @property
    def comparable(self) -> bool:
        """Whether published numbers may stand beside these: the whole set, in its protocol."""
        dataset = self.image_set.dataset
        return dataset is not None and len(self.scored) == dataset.count and self.image_set.protocol == dataset.protocol

    def mean(self, metric: str) -> float | None:
        """Mean of the finite values; None if there are none."""
        return _mean(score.values.get(metric, math.nan) for score in self.scores)

    def gain(self, metric: str) -> float | None:
        """Mean difference to the rainy input, over the images where both are finite; None if there are none."""
        return _mean(
            score.values.get(metric, math.nan) - score.values.get(f"{metric}_input", math.nan) for score in self.scores
        )

    def interval(self, metric: str) -> tuple[float, float] | None:
        """95 % interval of the mean, by bootstrap over scenes; None for fewer than two.

        Images of one scene are drawn together: 14 rainy versions of a photo are not 14 observations.
        """
        by_scene: dict[str, list[float]] = {}
        for score in self.scores:
            if math.isfinite(value := score.values.get(metric, math.nan)):
                by_scene.setdefault(score.scene, []).append(value)
        if len(by_scene) < 2:
            return None
        sums = np.array([math.fsum(values) for values in by_scene.values()])
        counts = np.array([len(values) for values in by_scene.values()])
        drawn = np.random.default_rng(0).integers(len(sums), size=(_RESAMPLES, len(sums)))
        low, high = np.quantile(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1), [0.025, 0.975])
        return float(low), float(high)

    def identical(self, of: str = "") -> int:
        """Results, or with "_input" rainy images, whose luma equals the clean one's: not in the mean PSNR."""
        return sum(math.isinf(score.values.get(f"psnr{of}", 0.0)) for score in self.scores)

    def typical(self) -> dict[str, Score]:
        """The worst, median and best of its images: by PSNR, or by how much NIQE fell."""

        def quality(score: Score) -> float:
            values = score.values
            if self.image_set.protocol:
                return values["psnr"]
            return values["niqe_input"] - values["niqe"]

        ranked = sorted((s for s in self.scored if not math.isnan(quality(s))), key=quality)
        if not ranked:
            return {}
        return {"worst": ranked[0], "median": ranked[(len(ranked) - 1) // 2], "best": ranked[-1]}

    @property
    def seconds(self) -> float | None:
        """Mean time in the network an image."""
        return _mean(math.nan if score.seconds is None else score.seconds for score in self.scores)


class Evaluator:
    """Scores one set of images for several methods.

    Args:
        images: What is scored.
        methods: What to score.
        save: Folder of restored images, which are scored instead of restored again where they exist.
        no_reference: NIQE and BRISQUE, for images without ground truth.
    """

    def __init__(
        self,
        image_set: ImageSet,
        methods: Sequence[Method],
        *,
        save: Path | None = None,
        no_reference: dict[str, Scorer] | None = None,
    ) -> None:
        self.image_set = image_set
        self.methods = methods
        self.save = save
        self.no_reference = no_reference or {}

    def score(self, sample: Sample) -> list[Score]:
        """The scores of one image, one a method; what fails costs that image only."""
        try:
            rainy, clean = sample.read()
            of_input = self._values(rainy, clean) if sample.has_input else {}
        except IMAGE_ERRORS as error:
            return [Score(sample.name, sample.scene, error=reason(error)) for _ in self.methods]
        return [self._score(sample, method, (rainy, clean), of_input) for method in self.methods]

    def restored(self, sample: Sample, method: Method) -> tuple[Pixels, float | None]:
        """A method's result for one image, and its seconds in the network; saved where that was asked for.

        Raises:
            ImageError: An image cannot be read or restored, or a result differs from it in size.
            OSError: A file cannot be read or written.
        """
        return self._restored(sample, method, sample.read()[0])

    def foreign(self) -> Path | None:
        """A file where a restored image would be saved, but which something else made; None if there is none."""
        for sample in self.image_set.samples:
            for method in self.methods:
                path = self._saved(sample, method)
                if path is not None and path.exists() and _record(path)[0] != self._made_by(sample, method):
                    return path
        return None

    def _score(
        self, sample: Sample, method: Method, image_set: tuple[Pixels, Pixels | None], of_input: dict[str, float]
    ) -> Score:
        rainy, clean = image_set
        try:
            restored, seconds = self._restored(sample, method, rainy)
            values = self._values(restored, clean)
        except IMAGE_ERRORS as error:
            return Score(sample.name, sample.scene, error=reason(error))
        if all(math.isnan(value) for value in values.values()):
            names = " and ".join(metric.upper() for metric in values)
            return Score(sample.name, sample.scene, error=f"too small, or of one color, for {names}")
        values |= {f"{metric}_input": value for metric, value in of_input.items()}
        return Score(sample.name, sample.scene, values, seconds)

    def _values(self, image: Pixels, clean: Pixels | None) -> dict[str, float]:
        if clean is None or self.image_set.protocol is None:
            return {metric: _or_nan(score, image) for metric, score in self.no_reference.items()}
        protocol = self.image_set.protocol
        psnr = metrics.psnr(image, clean, protocol)
        return {"psnr": psnr, "ssim": _or_nan(lambda image: metrics.ssim(image, clean, protocol), image)}

    def _restored(self, sample: Sample, method: Method, rainy: Pixels) -> tuple[Pixels, float | None]:
        if method.restorer is None:
            if sample.result is None:
                raise ImageError("no result of that name")
            result = read_rgb8(sample.result)
            if result.shape != rainy.shape:
                raise ImageError(
                    f"{sample.result.name} is {result.shape[1]}x{result.shape[0]}, "
                    f"the image {rainy.shape[1]}x{rainy.shape[0]}"
                )
            return result, None
        path = self._saved(sample, method)
        made_by = self._made_by(sample, method)
        if path is not None and path.exists():
            found, seconds = _record(path)
            if found == made_by:
                return read_rgb8(path), seconds
        start = time.perf_counter()
        pixels: Pixels = method.restorer(rainy)
        seconds = time.perf_counter() - start
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            description = PngImagePlugin.PngInfo()
            description.add_text(_RECORD, json.dumps({"made_by": made_by, "seconds": seconds}))
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG", pnginfo=description)
            with atomic_write(path) as file:
                file.write(buffer.getvalue())
        return pixels, seconds

    def _saved(self, sample: Sample, method: Method) -> Path | None:
        if self.save is None or method.restorer is None:
            return None
        return self.save / self.image_set.name / method.name / f"{sample.name}.png"

    def _made_by(self, sample: Sample, method: Method) -> dict[str, object]:
        return {**method.settings, "input": sha256_of(sample.files[0]) if self.save else None}


def _mean(values: Iterable[float]) -> float | None:
    """Of the finite ones; None if there are none."""
    finite = [value for value in values if math.isfinite(value)]
    return math.fsum(finite) / len(finite) if finite else None


def _or_nan(score: Scorer, image: Pixels) -> float:
    """A metric's value, NaN where it is not defined for the image."""
    try:
        return score(image)
    except ImageError:
        return math.nan


def _record(path: Path) -> tuple[object, float | None]:
    """What made a saved result, and its seconds in the network; (None, None) if the file does not say."""
    try:
        with Image.open(path) as image:
            record = json.loads(image.info.get(_RECORD, "null"))
        return record["made_by"], float(record["seconds"])
    except (OSError, ValueError, TypeError, KeyError):
        return None, None
