"""Find the images that `eval` scores: data sets, pairs of folders, existing results, images without clean ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from drsformer_cli import console, datasets, pairs
from drsformer_cli.downloads import zoo
from drsformer_cli.errors import UsageError
from drsformer_cli.pairs import Pair

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from drsformer_cli.datasets import Dataset, Protocol
    from drsformer_cli.metrics import Metric
    from drsformer_cli.metrics.full_reference import RGB8
    from drsformer_cli.pairs import Pairs

_DEFAULT_PROTOCOL: Protocol = "uint8-Y"


class MissingDatasetError(UsageError):
    """A known data set was not found.

    Attributes:
        advice: How to get it, several lines.
    """

    def __init__(self, message: str, advice: str) -> None:
        super().__init__(message, advice)
        self.advice = advice

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True)
class Case:
    """One image to score.

    Attributes:
        name: Name, unique in its set.
        source: A pair, or a rainy image without a clean one.
        result: An existing result to score.
        has_input: Whether the rainy image is known; False if only results and clean images are given.
    """

    name: str
    source: Pair | Path
    result: Path | None = None
    has_input: bool = True

    @property
    def files(self) -> tuple[Path, ...]:
        """The image files that its scores depend on, the rainy image first."""
        return (self.source.rainy, self.source.clean) if isinstance(self.source, Pair) else (self.source,)

    @property
    def scene(self) -> str:
        """A text that is the same for all images of a scene, which are not independent observations."""
        return str(self.files[-1])

    def read(self) -> tuple[RGB8, RGB8 | None]:
        """The rainy image, and the clean image or None.

        Raises:
            ImageError: A file is not an image, or the two images differ in size.
            OSError: A file cannot be read.
        """
        from drsformer_cli.images import read_rgb8  # finding images needs no Pillow

        return self.source.read() if isinstance(self.source, Pair) else (read_rgb8(self.source), None)


@dataclass(frozen=True)
class ImageSet:
    """Images that are scored together, in one table.

    Attributes:
        name: Name in tables and in the paths of saved results.
        cases: The images.
        protocol: How PSNR and SSIM are computed; None without clean images.
        dataset: Its row in the table of data sets; None if it is not one of them.
        problems: Files that cannot be scored and why, one line each.
        warnings: Why its scores may not be comparable, one line each.
        total: Number of images that it should have, including those that cannot be scored or are beyond the limit.
        files: All image files that were found, including those.
    """

    name: str
    cases: Sequence[Case]
    protocol: Protocol | None = None
    dataset: Dataset | None = None
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    total: int = 0
    files: tuple[Path, ...] = ()

    @property
    def has_clean(self) -> bool:
        """Whether there are clean images to compare with."""
        return self.protocol is not None

    @property
    def metrics(self) -> list[Metric]:
        """The metrics of the set; the first is the main one."""
        from drsformer_cli.metrics import METRICS  # finding images needs no NumPy

        return [metric for metric in METRICS.values() if metric.needs_clean == self.has_clean]


@dataclass(frozen=True)
class TrainingUse:
    """A use of images in the training of a model, as its checkpoint records it.

    Attributes:
        verb: "trained on" or "selected on".
        folders: Folders of the images.
        most: Largest number of images that were used; 0: all.
    """

    verb: str
    folders: tuple[str, ...]
    most: int = 0


@dataclass(frozen=True)
class Request:
    """The options that say what to score; `gather` finds the images.

    Attributes:
        datasets: Names or folders of data sets.
        real: Folders of images without clean ones.
        root: Folder that data sets are searched in.
        inputs: Folder of rainy images.
        targets: Folder of clean images.
        results: Folder of existing results.
        protocol: How to compute PSNR and SSIM; None: as papers do on the data set.
        limit: Number of images of each set; None: all.
        models: Names or files, for warnings about what they were trained on.
    """

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
            MissingDatasetError: A known data set was not found.
            UsageError: The options do not fit together, a folder is missing or empty, or two sets have the same name.
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
        found += [_without_clean(folder) for folder in self.real]
        if not found:
            raise UsageError("nothing to score: expected --dataset, --inputs with --targets, --results or --real")
        names = [image_set.name for image_set in found]
        if twins := [name for name in names if names.count(name) > 1]:
            raise UsageError(f"two sets of images are called {twins[0]}; score them one after the other")
        return [_limited(image_set, self.limit) for image_set in found]

    def _of_dataset(self, name: str) -> ImageSet:
        """A known data set by its name or folder, or any folder with a rainy and a clean folder in it."""
        folder = Path(name)
        dataset = datasets.known(folder.name)
        if dataset is not None and (folder.name == name or not folder.is_dir()):
            folder = pairs.locate(dataset, self.root) or folder
        if not folder.is_dir():
            dataset = dataset or datasets.find_dataset(name)
            raise MissingDatasetError(f"--dataset {name}: not found in {self.root}", pairs.advice(dataset, self.root))
        found = pairs.find_pairs(folder, side_by_side=dataset.side_by_side if dataset else None)
        return self._paired(dataset.name if dataset else folder.resolve().name, dataset, found)

    def _of_folders(self, targets: Path) -> ImageSet:
        """The images of --inputs, or of --results without --inputs, with those of --targets."""
        found = pairs.pair(pairs.some_images(self.inputs or self.results or targets), pairs.some_images(targets))
        folder = targets.resolve()
        role = pairs.is_role(folder)
        # Only a folder that the user wrote: the parent of "clean" may have any name.
        name = targets.parent.name if role and targets.parent.name not in ("", "..") else folder.name
        # If a data set has that name, its protocol is used, but not its published results: the images may be others.
        namesake = datasets.known(folder.parent.name if role else folder.name)
        return self._paired(name, None, found, namesake.protocol if namesake else _DEFAULT_PROTOCOL)

    def _paired(
        self, name: str, dataset: Dataset | None, found: Pairs, default: Protocol = _DEFAULT_PROTOCOL
    ) -> ImageSet:
        """The pairs whose sizes agree, each with its existing result if results are scored."""
        sizes = pairs.size_problems(found.pairs)
        good = [pair for pair in found.pairs if pair not in sizes]
        problems = [*found.problems, *sizes.values()]
        result_of: dict[Path, Path] = {}
        files = [*found.files]
        alone = self.results is not None and self.targets is not None and self.inputs is None
        if alone:
            result_of = {pair.rainy: pair.rainy for pair in good}
        elif self.results:
            results = pairs.some_images(self.results)
            of_results = pairs.pair(results, [pair.rainy for pair in good])
            result_of = {pair.clean: pair.rainy for pair in of_results.pairs}
            problems += of_results.problems
            files += results
        protocol = self.protocol or (dataset.protocol if dataset else default)
        warnings = [] if dataset is None else [*self._doubts(dataset, good, protocol)]
        if found.unused:
            unused = console.first_three([path.name for path in found.unused])
            warnings.append(f"clean images without a rainy one: {unused}")
        warnings += pairs.skipped(file.parent for file in files)
        cases = [Case(pair.name, pair, result_of.get(pair.rainy), has_input=not alone) for pair in good]
        total = dataset.count if dataset else len(found.pairs) + len(found.problems)
        return ImageSet(name, cases, protocol, dataset, tuple(problems), tuple(warnings), total, tuple(files))

    def _doubts(self, dataset: Dataset, found: Sequence[Pair], protocol: Protocol) -> Iterator[str]:
        """Why scores on a known data set may not be comparable."""
        if len(found) != dataset.count:
            numbers = [str(number) for number in pairs.missing_numbers(dataset, found)]
            missing = f", missing {console.first_three(numbers)}" if numbers else ""
            yield f"{len(found)} of {dataset.count} pairs found{missing}"
        if protocol != dataset.protocol:
            yield f"papers report {dataset.protocol} on it, not {protocol}"
        for model in self.models:
            row = zoo.MODELS.get(Path(model).stem)  # also a file such as rain200h.pth
            trained_on = row.trained_on if row else None
            if trained_on in datasets.DATASETS and trained_on != dataset.name:
                yield f"{model} was trained on {trained_on}: on other kinds of rain such models can lose 20 dB"
            if dataset.caution and trained_on == dataset.caution[0]:
                yield f"{model} was trained on {trained_on}: {dataset.caution[1]}"


def training_uses(training: object) -> list[TrainingUse]:
    """The uses of images that a checkpoint of `drsformer train` records; an empty list for other checkpoints.

    Args:
        training: The value of `training` in the checkpoint, which may be anything.
    """
    try:
        run = training["run"]  # type: ignore[index]
        sources = run["data"]["sources"].values()
        trained = [source["path"] for source in sources if "path" in source]
        trained += [folder for table in (run["data"], *sources) for folder in table.get("clean", [])]
        default = int(run["validation"]["images"])
        sets = run["validation"]["paired"].values()
        chosen = [measured["path"] for measured in sets]
        numbers = [int(measured.get("images", default)) for measured in sets]
        most = sum(numbers) if all(numbers) else 0
    except (KeyError, TypeError, ValueError, AttributeError):
        return []
    return [TrainingUse("trained on", tuple(trained)), TrainingUse("selected on", tuple(chosen), most)]


def with_training_warnings(image_set: ImageSet, model: str, uses: Sequence[TrainingUse]) -> ImageSet:
    """The image set with a warning if the training of a model used any of its images."""
    warnings = list(image_set.warnings)
    files = {case.name: [file.resolve() for file in case.files] for case in image_set.cases}
    for use in uses:
        roots = [Path(folder).expanduser().resolve() for folder in use.folders]
        seen = [
            name
            for name, its_files in files.items()
            if any(file.is_relative_to(root) for file in its_files for root in roots)
        ]
        if seen:
            number = f"at most {use.most}" if 0 < use.most < len(seen) else f"{len(seen)}"
            warnings.append(f"{model} was {use.verb} {number} of these images: {console.first_three(seen)}")
    return replace(image_set, warnings=tuple(warnings))


def _without_clean(folder: Path) -> ImageSet:
    files = pairs.some_images(folder)
    cases = [Case(name, file) for name, file in zip(pairs.names(files), files, strict=True)]
    notes = tuple(pairs.skipped([folder]))
    return ImageSet(folder.resolve().name, cases, warnings=notes, total=len(cases), files=tuple(files))


def _limited(image_set: ImageSet, limit: int | None) -> ImageSet:
    if limit is None or limit >= len(image_set.cases):
        return image_set
    warnings = (*image_set.warnings, f"only its first {limit} images (--limit)")
    return replace(image_set, cases=image_set.cases[:limit], warnings=warnings)
