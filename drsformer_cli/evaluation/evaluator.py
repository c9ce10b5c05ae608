"""Restore and score images.

Shapes: images (H, W, 3) RGB uint8.
"""

from __future__ import annotations

import contextlib
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
from drsformer_cli.errors import IMAGE_ERRORS, reason
from drsformer_cli.images import read_rgb8
from drsformer_cli.overlap import overlapped

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
    from pathlib import Path

    from drsformer_cli.evaluation.image_sets import Case, ImageSet
    from drsformer_cli.metrics import Scorer
    from drsformer_cli.metrics.full_reference import RGB8

    _Images = tuple[RGB8, RGB8 | None]  # rainy, clean

_RECORD = "drsformer"  # keyword of the PNG text that says how a saved result was made
_RESAMPLES = 2000


@dataclass(frozen=True)
class Candidate:
    """A model, or existing results, to score.

    Attributes:
        name: Name in tables and in the paths of saved results.
        restorer: Function that restores an image; None for existing results.
        settings: Everything besides the image that the results depend on: checkpoint hash, device, tile and so on.
    """

    name: str
    restorer: Callable[[RGB8], RGB8] | None = None
    settings: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class ImageScores:
    """The scores of one image.

    Attributes:
        name: Name of the case.
        scene: Scene of the case, see `Case.scene`.
        values: Scores by metric; names that end in `_input` are those of the rainy image. PSNR is infinite for equal
            luma; a metric that is not defined for the image (too small, or of one color) is NaN.
        seconds: Time in the network; None for existing results.
        error: Why the image could not be scored; None if it was scored.
        not_saved: Why the restored image could not be saved; None if it was saved or need not be.
    """

    name: str
    scene: str
    values: dict[str, float] = field(default_factory=dict)
    seconds: float | None = None
    error: str | None = None
    not_saved: str | None = None


@dataclass(frozen=True)
class SetScores:
    """The scores of one candidate on one set of images."""

    image_set: ImageSet
    candidate: Candidate
    scores: Sequence[ImageScores]

    @property
    def scored(self) -> list[ImageScores]:
        """The images that have scores."""
        return [score for score in self.scores if score.error is None]

    @property
    def comparable(self) -> bool:
        """Whether published results are comparable: the whole set was scored, at full size, in the papers' protocol."""
        dataset = self.image_set.dataset
        return (
            dataset is not None
            and len(self.scored) == dataset.count
            and self.image_set.protocol == dataset.protocol
            and self.candidate.settings.get("scale", 1) == 1
        )

    @property
    def seconds(self) -> float | None:
        """Mean time in the network per image; None if no network was used."""
        return _mean(math.nan if score.seconds is None else score.seconds for score in self.scores)

    def mean(self, metric: str) -> float | None:
        """Mean of the finite values; None if there are none."""
        return _mean(score.values.get(metric, math.nan) for score in self.scores)

    def gain(self, metric: str) -> float | None:
        """Mean difference to the rainy input, over the images where both are finite; None if there are none."""
        return _mean(
            score.values.get(metric, math.nan) - score.values.get(f"{metric}_input", math.nan) for score in self.scores
        )

    def interval(self, metric: str) -> tuple[float, float] | None:
        """95 % interval of the mean, by bootstrap over scenes; None for fewer than two scenes.

        Images of a scene are resampled together: 14 rainy versions of a scene are not 14 observations.
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
        """Number of results (or with "_input", rainy images) whose luma equals the clean image's: PSNR is infinite."""
        return sum(math.isinf(score.values.get(f"psnr{of}", 0.0)) for score in self.scores)

    def typical(self) -> dict[str, ImageScores]:
        """The worst, median and best image by the main metric, or by its improvement if there are no clean images."""
        metric = self.image_set.metrics[0]

        def quality(score: ImageScores) -> float:
            value = score.values[metric.name]
            if not metric.needs_clean:
                value -= score.values[f"{metric.name}_input"]
            return value if metric.higher_is_better else -value

        ranked = sorted((score for score in self.scored if not math.isnan(quality(score))), key=quality)
        if not ranked:
            return {}
        return {"worst": ranked[0], "median": ranked[(len(ranked) - 1) // 2], "best": ranked[-1]}


@dataclass(frozen=True)
class _Result:
    """A candidate's result for a case.

    Attributes:
        pixels: The restored image.
        seconds: Time in the network; None for existing results.
        to_save: File to save it as; None if it is saved already or need not be.
    """

    pixels: RGB8
    seconds: float | None
    to_save: Path | None = None


@dataclass(frozen=True)
class Scored:
    """An image that a candidate restored and that was scored, with its pixels.

    Attributes:
        image_set: The set of the image.
        case: The image.
        candidate: What restored it.
        scores: Its scores.
        rainy: The rainy image.
        restored: The restored image.
        clean: The clean image; None: there is none.
        file: File of the restored image; None: it was not saved.
    """

    image_set: ImageSet
    case: Case
    candidate: Candidate
    scores: ImageScores
    rainy: RGB8
    restored: RGB8
    clean: RGB8 | None
    file: Path | None


class Evaluator:
    """Scores one set of images for several candidates.

    Args:
        image_set: The images.
        candidates: The models or results to score.
        scorers: The metrics of the set, loaded, by name.
        save: Folder for restored images; images that a run with the same settings saved there are not restored again,
            only scored.
        scored: Called, in another thread, with each image that was restored and scored.
    """

    def __init__(
        self,
        image_set: ImageSet,
        candidates: Sequence[Candidate],
        scorers: Mapping[str, Scorer],
        *,
        save: Path | None = None,
        scored: Callable[[Scored], None] | None = None,
    ) -> None:
        self.image_set = image_set
        self.candidates = candidates
        self.save = save
        self._scored = scored
        self._hashes: dict[Path, str] = {}  # of rainy images
        self._scorers = {metric.name: scorers[metric.name] for metric in image_set.metrics}

    def score(self, cases: Sequence[Case]) -> Generator[list[ImageScores], None, None]:
        """The scores of each case in order, one for each candidate; an error of one image does not stop the others.

        While one image is restored, the next one is read and the previous one is scored and saved.
        """
        with contextlib.closing(overlapped(cases, lambda case: case.read(), self._restore_all, self._score)) as futures:
            for case, future in futures:
                try:
                    scores = future.result()
                except IMAGE_ERRORS as error:
                    scores = [ImageScores(case.name, case.scene, error=reason(error)) for _ in self.candidates]
                yield scores

    def restored(self, case: Case, candidate: Candidate, rainy: RGB8) -> RGB8:
        """A candidate's result for the rainy image of a case.

        Raises:
            ImageError: The image cannot be restored, or its existing result is missing or has another size.
            OSError: A file cannot be read.
        """
        return self._restore(case, candidate, rainy).pixels

    def files(self) -> list[Path]:
        """The files that restored images are saved as."""
        paths = [self._path(case, candidate) for case in self.image_set.cases for candidate in self.candidates]
        return [path for path in paths if path is not None]

    def foreign(self) -> Path | None:
        """An existing file in the place of a restored image that no run with these settings made; None: none exists."""
        for case in self.image_set.cases:
            for candidate in self.candidates:
                path = self._path(case, candidate)
                if path is not None and path.exists() and _record(path)[0] != self._made_by(case, candidate):
                    return path
        return None

    def _restore_all(self, case: Case, images: _Images) -> tuple[_Images, list[_Result | str]]:
        """The images, and each candidate's result or error message."""
        results: list[_Result | str] = []
        for candidate in self.candidates:
            try:
                results.append(self._restore(case, candidate, images[0]))
            except IMAGE_ERRORS as error:
                results.append(reason(error))
        return images, results

    def _restore(self, case: Case, candidate: Candidate, rainy: RGB8) -> _Result:
        if candidate.restorer is None:
            if case.result is None:
                raise ImageError("no result of that name")
            return _Result(_of_size(rainy, read_rgb8(case.result), case.result.name), None)
        path = self._path(case, candidate)
        if path is not None and path.exists():
            made_by, seconds = _record(path)
            if made_by == self._made_by(case, candidate):
                return _Result(_of_size(rainy, read_rgb8(path), path.name), seconds)
        start = time.perf_counter()
        pixels = candidate.restorer(rainy)
        return _Result(pixels, time.perf_counter() - start, path)

    def _score(
        self, case: Case, restored: tuple[_Images, list[_Result | str]], _stop: threading.Event
    ) -> list[ImageScores]:
        """The scores of each candidate. Results are saved even after an interrupt: the next run can use them."""
        (rainy, clean), results = restored
        of_input = self._values(rainy, clean, "_input") if case.has_input else {}
        all_scores = []
        for candidate, result in zip(self.candidates, results, strict=True):
            if isinstance(result, str):
                all_scores.append(ImageScores(case.name, case.scene, error=result))
                continue
            scores = self._score_one(case, candidate, clean, result, of_input)
            all_scores.append(scores)
            if self._scored is not None:
                path = case.result if candidate.restorer is None else self._path(case, candidate)
                file = path if scores.not_saved is None else None
                self._scored(Scored(self.image_set, case, candidate, scores, rainy, result.pixels, clean, file))
        return all_scores

    def _score_one(
        self, case: Case, candidate: Candidate, clean: RGB8 | None, restored: _Result, of_input: dict[str, float]
    ) -> ImageScores:
        not_saved = self._save(case, candidate, restored)
        try:
            values = self._values(restored.pixels, clean)
        except IMAGE_ERRORS as error:
            return ImageScores(case.name, case.scene, error=reason(error), not_saved=not_saved)
        if all(math.isnan(value) for value in values.values()):
            titles = " and ".join(metric.title for metric in self.image_set.metrics)
            why = f"too small, or of one color, for {titles}"
            return ImageScores(case.name, case.scene, error=why, not_saved=not_saved)
        return ImageScores(case.name, case.scene, values | of_input, restored.seconds, not_saved=not_saved)

    def _values(self, image: RGB8, clean: RGB8 | None, suffix: str = "") -> dict[str, float]:
        """Scores by metric; NaN if a metric is not defined for the image."""
        values = {}
        for name, scorer in self._scorers.items():
            try:
                values[name + suffix] = scorer(image, clean, self.image_set.protocol)
            except ImageError:
                values[name + suffix] = math.nan
        return values

    def _save(self, case: Case, candidate: Candidate, restored: _Result) -> str | None:
        """Save a result if that was asked for; returns why it could not be saved, or None."""
        if restored.to_save is None:
            return None
        try:
            record = {"made_by": self._made_by(case, candidate), "seconds": restored.seconds}
            description = PngImagePlugin.PngInfo()
            description.add_text(_RECORD, json.dumps(record))
            buffer = io.BytesIO()
            Image.fromarray(restored.pixels).save(buffer, "PNG", pnginfo=description)
            restored.to_save.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(restored.to_save) as file:
                file.write(buffer.getvalue())
        except IMAGE_ERRORS as error:
            return f"{restored.to_save}: cannot be written: {reason(error)}"
        return None

    def _path(self, case: Case, candidate: Candidate) -> Path | None:
        if self.save is None or candidate.restorer is None:
            return None
        return self.save / self.image_set.name / candidate.name / f"{case.name}.png"

    def _made_by(self, case: Case, candidate: Candidate) -> dict[str, object]:
        rainy = case.files[0]
        if rainy not in self._hashes:
            self._hashes[rainy] = sha256_of(rainy)
        return {**candidate.settings, "input": self._hashes[rainy]}


def _of_size(rainy: RGB8, result: RGB8, name: str) -> RGB8:
    """Check that a result has the size of the rainy image; returns the result."""
    if result.shape != rainy.shape:
        found, expected = (f"{image.shape[1]}x{image.shape[0]}" for image in (result, rainy))
        raise ImageError(f"{name} is {found}, expected {expected} as the rainy image")
    return result


def _mean(values: Iterable[float]) -> float | None:
    """Mean of the finite values; None if there are none."""
    finite = [value for value in values if math.isfinite(value)]
    return math.fsum(finite) / len(finite) if finite else None


def _record(path: Path) -> tuple[object, float | None]:
    """The settings that made a saved result, and its time in the network; (None, None) if the file does not say."""
    try:
        with Image.open(path) as image:
            record = json.loads(image.info.get(_RECORD, "null"))
        return record["made_by"], float(record["seconds"])
    except (OSError, ValueError, TypeError, KeyError, Image.DecompressionBombError):
        return None, None
