"""Which images `eval` scores: data sets, pairs of folders, existing results, photos without ground truth."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from drsformer_cli import console, datasets
from drsformer_cli.datasets import Pair, read_rgb8
from drsformer_cli.downloads import zoo
from drsformer_cli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from drsformer_cli.datasets import Dataset, Pairs
    from drsformer_cli.metrics import Protocol

    Pixels = NDArray[np.uint8]

_DEFAULT_PROTOCOL: Protocol = "uint8-Y"


@dataclass(frozen=True)
class Sample:
    """One image to score.

    Attributes:
        name: Unique in its set.
        source: A pair, or a rainy image without ground truth.
        result: An existing result to score.
        has_input: Whether the rainy image is known; not where results and targets are all there is.
    """

    name: str
    source: Pair | Path
    result: Path | None = None
    has_input: bool = True

    @property
    def files(self) -> tuple[Path, ...]:
        """What its numbers depend on, apart from the network; the rainy image comes first."""
        return (self.source.rainy, self.source.clean) if isinstance(self.source, Pair) else (self.source,)

    @property
    def scene(self) -> str:
        """What images of one scene have in common: they are no independent observations."""
        return str(self.files[-1])

    def read(self) -> tuple[Pixels, Pixels | None]:
        """The rainy image, and the clean one where there is one.

        Raises:
            ImageError: A file is no image, or the two differ in size.
            OSError: A file cannot be read.
        """
        return self.source.read() if isinstance(self.source, Pair) else (read_rgb8(self.source), None)


@dataclass(frozen=True)
class ImageSet:
    """What is scored together, in one table.

    Attributes:
        name: In tables and in the paths of saved results.
        samples: The images.
        protocol: Of PSNR and SSIM; None without ground truth.
        dataset: Its row in the table of published data sets, where it is one.
        problems: What was found but cannot be scored, a line each.
        warnings: Why its numbers may not be comparable, a line each.
        total: Images that it has, those that cannot be scored or were not wanted included.
    """

    name: str
    samples: Sequence[Sample]
    protocol: Protocol | None = None
    dataset: Dataset | None = None
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    total: int = 0

    @property
    def metrics(self) -> tuple[str, str]:
        """Names of its two metrics."""
        return ("psnr", "ssim") if self.protocol else ("niqe", "brisque")


@dataclass(frozen=True)
class Request:
    """What is to be scored, as the command line says it; `gather` turns it into image sets."""

    datasets: Sequence[str]
    real: Sequence[Path]
    root: Path
    inputs: Path | None
    targets: Path | None
    results: Path | None
    protocol: Protocol | None
    limit: int | None
    models: Sequence[str]

    def gather(self) -> list[ImageSet]:
        """The image sets, found and paired.

        Raises:
            UsageError: The options do not fit together, data is absent, or two sets would share a name.
        """
        if self.inputs and not self.targets:
            raise UsageError("--inputs: needs the clean images too, as --targets")
        if self.targets and not (self.inputs or self.results):
            raise UsageError("--targets: needs --inputs to restore, or --results to score")
        if self.results and (self.real or len(self.datasets) + bool(self.targets) != 1):
            raise UsageError("--results: needs either --targets or one --dataset, and no --real")
        found = [self._of_dataset(name) for name in self.datasets]
        if self.targets:
            found.append(self._of_folders(self.targets))
        found += [_of_photos(folder) for folder in self.real]
        if not found:
            raise UsageError("nothing to score: expected --dataset, --inputs with --targets, --results or --real")
        names = [image_set.name for image_set in found]
        if twins := [name for name in names if names.count(name) > 1]:
            raise UsageError(f"two sets of images are called {twins[0]}; score them one after the other")
        return [_limited(image_set, self.limit) for image_set in found]

    def _of_dataset(self, name: str) -> ImageSet:
        """A known data set by name or by folder, or any folder with a rainy and a clean one in it."""
        folder = Path(name)
        dataset = datasets.known(folder.name)
        if dataset is not None and (folder.name == name or not folder.is_dir()):
            folder = datasets.locate(dataset, self.root) or folder
        if not folder.is_dir():
            dataset = dataset or datasets.find_dataset(name)
            console.say(datasets.advice(dataset, self.root))
            raise UsageError(f"--dataset {name}: not found in {self.root}")
        pairs = datasets.find_pairs(folder, side_by_side=dataset.side_by_side if dataset else None)
        return self._paired(dataset.name if dataset else folder.resolve().name, dataset, pairs)

    def _of_folders(self, targets: Path) -> ImageSet:
        """--inputs, or else --results, with --targets."""
        pairs = datasets.pair(
            datasets.image_files(self.inputs or self.results or targets), datasets.image_files(targets)
        )
        folder = targets.resolve()
        name = folder.parent.name if datasets.is_role(folder) else folder.name
        # The protocol of its namesake fits, its numbers do not: these may be some of its images, or other rainy ones.
        namesake = datasets.known(name)
        return self._paired(name, None, pairs, namesake.protocol if namesake else _DEFAULT_PROTOCOL)

    def _paired(
        self, name: str, dataset: Dataset | None, pairs: Pairs, default: Protocol = _DEFAULT_PROTOCOL
    ) -> ImageSet:
        """Pairs whose sizes agree, each with its existing result where results are scored."""
        sizes = datasets.size_problems(pairs.pairs)
        good = [pair for pair in pairs.pairs if pair not in sizes]
        problems = [*pairs.problems, *sizes.values()]
        result_of: dict[Path, Path] = {}
        alone = self.results is not None and self.targets is not None and self.inputs is None
        if alone:
            result_of = {pair.rainy: pair.rainy for pair in good}
        elif self.results:
            of_results = datasets.pair(datasets.image_files(self.results), [pair.rainy for pair in good])
            result_of = {pair.clean: pair.rainy for pair in of_results.pairs}
            problems += of_results.problems
        protocol = self.protocol or (dataset.protocol if dataset else default)
        warnings = [] if dataset is None else [*self._doubts(dataset, good, protocol)]
        if pairs.unused:
            warnings.append(f"clean images without a rainy one: {console.some([p.name for p in pairs.unused])}")
        samples = [Sample(pair.name, pair, result_of.get(pair.rainy), has_input=not alone) for pair in good]
        total = dataset.count if dataset else len(pairs.pairs) + len(pairs.problems)
        return ImageSet(name, samples, protocol, dataset, tuple(problems), tuple(warnings), total)

    def _doubts(self, dataset: Dataset, pairs: Sequence[Pair], protocol: Protocol) -> Iterator[str]:
        """Why numbers on a known data set may not be comparable."""
        if len(pairs) != dataset.count:
            numbers = [str(number) for number in datasets.missing_numbers(dataset, pairs)]
            missing = f", missing {console.some(numbers)}" if numbers else ""
            yield f"{len(pairs)} of {dataset.count} pairs found{missing}"
        if protocol != dataset.protocol:
            yield f"papers report {dataset.protocol} on it, not {protocol}"
        for model in self.models:
            row = zoo.MODELS.get(Path(model).stem)  # also rain200h.pth, placed by hand
            trained_on = row.trained_on if row else None
            if trained_on in datasets.DATASETS and trained_on != dataset.name:
                yield f"{model} was trained on {trained_on}: on other kinds of rain such models can lose 20 dB"
            if dataset.caution and trained_on == dataset.caution[0]:
                yield f"{model} was trained on {trained_on}: {dataset.caution[1]}"


def doubt_training(image_set: ImageSet, weights: Mapping[str, Path]) -> ImageSet:
    """The same images, with a warning for those that our own training says it has seen.

    Args:
        image_set: What is scored.
        weights: Files of the networks by name; only those of `drsformer train` say what they were trained on.

    Raises:
        CheckpointError: A file cannot be read.
    """
    from drsformer.checkpoint import read_content  # noqa: PLC0415 - torch is slow to import

    warnings = list(image_set.warnings)
    files = {sample.name: [file.resolve() for file in sample.files] for sample in image_set.samples}
    for name, path in weights.items():
        for use, folders, most in _training_folders(read_content(path)):
            roots = [Path(folder).expanduser().resolve() for folder in folders]
            seen = [
                image
                for image, its_files in files.items()
                if any(file.is_relative_to(root) for file in its_files for root in roots)
            ]
            if seen:
                number = f"at most {most}" if 0 < most < len(seen) else f"{len(seen)}"
                warnings.append(f"{name} was {use} {number} of these images: {console.some(seen)}")
    return replace(image_set, warnings=tuple(warnings))


def _training_folders(content: object) -> list[tuple[str, list[str], int]]:
    """How a checkpoint says that it used folders, which, and the most images that it took of them; 0: all."""
    try:
        run = content["training"]["run"]  # type: ignore[index]  # anything may be in a file
        sources = run["data"]["sources"].values()
        trained = [source["path"] for source in sources if "path" in source]
        trained += [folder for table in (run["data"], *sources) for folder in table.get("clean", [])]
        chosen = list(run["validation"]["paired"])
        most = int(run["validation"]["images"]) * len(chosen)
    except (KeyError, TypeError, ValueError, AttributeError):
        return []
    return [("trained on", trained, 0), ("chosen among its kind by", chosen, most)]


def _of_photos(folder: Path) -> ImageSet:
    photos = datasets.image_files(folder)
    if not photos:
        raise UsageError(f"{folder}: no images in it")
    samples = [Sample(name, photo) for name, photo in zip(datasets.names(photos), photos, strict=True)]
    return ImageSet(folder.resolve().name, samples, total=len(samples))


def _limited(image_set: ImageSet, limit: int | None) -> ImageSet:
    if limit is None or limit >= len(image_set.samples):
        return image_set
    warnings = (*image_set.warnings, f"only its first {limit} images (--limit)")
    return replace(image_set, samples=image_set.samples[:limit], warnings=warnings)
