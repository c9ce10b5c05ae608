"""The field's data sets: where they lie, which image belongs to which, and what papers report on them.

A pair is a rainy image and its clean one: two files, or the halves of one. Nothing is ever resized or turned to
make a pair fit; what does not fit is named.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from drsformer.errors import ImageError
from drsformer_cli.errors import UsageError
from drsformer_cli.formats import FORMAT_OF_ENDING
from drsformer_cli.home import home

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from drsformer_cli.metrics import Protocol

SideBySide = Literal["clean-left", "rainy-left"]
"""Which half of an image is the clean one, where one file holds both."""

RAINY_FOLDERS = ("input", "rain", "rainy", "rainy_image", "lq", "inputs")
CLEAN_FOLDERS = ("target", "norain", "clean", "ground_truth", "gt", "targets")
"""What the two folders of a data set are called in the wild, in any case."""

_TEST_FOLDERS = ("test", "testing", "testset")
_DEEPEST = 3  # folders below a data set's own that are searched for its images

# Words in the names of images that say which of a pair they are.
_ROLES = {"rain", "norain", "rainy", "clean", "input", "target", "gt", "lq", "x"}


@dataclass(frozen=True)
class Dataset:
    """One data set for testing.

    Attributes:
        name: As papers write it.
        count: Pairs that its test set has.
        protocol: How PSNR and SSIM are computed on it.
        source: Where it comes from and how to get it.
        reported: PSNR in dB and SSIM by method, as published; the first is this network's where it has one.
        aliases: Other names of its folder.
        side_by_side: Which half is clean, where each file holds a pair.
        caution: A training set that is known or likely to share scenes with it, and why.
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
"""By name. Test-set sizes, protocols and numbers of the authors' paper; others as their papers give them."""


@dataclass(frozen=True)
class Pair:
    """A rainy image and its clean one.

    Attributes:
        name: Of the rainy image, without its ending.
        rainy: File of the rainy image, or of both.
        clean: File of the clean image; the same file where both are side by side.
        side_by_side: Which half of the file is clean; None for two files.
    """

    name: str
    rainy: Path
    clean: Path
    side_by_side: SideBySide | None = None

    def read(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The rainy and the clean image, each (H, W, 3) RGB uint8; 16 bits are rounded to 8.

        Raises:
            ImageError: A file is no image, or the two differ in size.
            OSError: A file cannot be read.
        """
        rainy = read_rgb8(self.rainy)
        if self.side_by_side is None:
            clean = read_rgb8(self.clean)
            _check_sizes(self, (rainy.shape[1], rainy.shape[0]), (clean.shape[1], clean.shape[0]))
            return rainy, clean
        W = rainy.shape[1]
        if W % 2:
            raise ImageError(f"{self.rainy.name}: {W} pixels wide; two images side by side need an even number")
        left, right = rainy[:, : W // 2], rainy[:, W // 2 :]
        return (right, left) if self.side_by_side == "clean-left" else (left, right)


@dataclass(frozen=True)
class Pairs:
    """What was found of a data set.

    Attributes:
        pairs: In natural order of their names.
        problems: Rainy images that could not be paired, a line each.
        unused: Clean images that belong to no rainy one.
    """

    pairs: list[Pair]
    problems: list[str] = field(default_factory=list)
    unused: list[Path] = field(default_factory=list)


def read_rgb8(path: Path) -> NDArray[np.uint8]:
    """An image as (H, W, 3) RGB uint8, upright; gray has three equal channels, alpha is dropped, 16 bits rounded.

    Raises:
        ImageError: The file is no image; the message begins with its name.
        OSError: The file cannot be read.
    """
    from drsformer_cli import images  # noqa: PLC0415 - naming data sets needs no Pillow

    try:
        pixels = images.read(path).pixels
    except ImageError as error:
        raise ImageError(f"{path.name}: {error}") from None
    return images.to_8_bits(pixels)


def _check_sizes(pair: Pair, rainy: tuple[int, int], clean: tuple[int, int]) -> None:
    """Sizes are (width, height)."""
    if rainy == clean:
        return
    how = "one of them is turned" if rainy == clean[::-1] else "their sizes differ"
    raise ImageError(
        f"{pair.rainy.name} is {rainy[0]}x{rainy[1]} and {pair.clean.name} is {clean[0]}x{clean[1]}: {how}"
    )


def known(name: str) -> Dataset | None:
    """A data set by its name or an alias, in any spelling; None if there is none of that name."""
    return next((row for row in DATASETS.values() if _plain(name) in _folder_names(row)), None)


def find_dataset(name: str) -> Dataset:
    """A data set by its name or an alias, in any spelling.

    Raises:
        UsageError: There is none of that name.
    """
    if dataset := known(name):
        return dataset
    close = difflib.get_close_matches(name, DATASETS, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]}" if close else ""
    all_names = ", ".join(DATASETS)
    raise UsageError(f"--dataset {name}: no such folder, and no data set of that name{hint}; known: {all_names}")


def is_role(folder: Path) -> bool:
    """Whether a folder's name says only that its images are rainy or clean."""
    return _plain(folder.name) in {_plain(name) for name in (*RAINY_FOLDERS, *CLEAN_FOLDERS)}


def locate(dataset: Dataset, root: Path) -> Path | None:
    """The folder of a data set: `root` itself, or one of its name up to three levels below; None if there is none."""
    wanted = _folder_names(dataset)
    level = [root]
    for _ in range(_DEEPEST + 1):
        for folder in level:
            if _plain(folder.name) in wanted:
                return folder
        level = [inner for folder in level for inner in _folders(folder)]
    return None


def advice(dataset: Dataset, root: Path) -> str:
    """For who has not got a data set: where to get it, what its folder must look like and where it may lie."""
    if dataset.side_by_side:
        layout = f"{dataset.name}/test/*.jpg, both images of a pair side by side in one"
    else:
        layout = (
            f"{dataset.name}/test/input/*.png and {dataset.name}/test/target/*.png, paired by name;\n"
            f"    for input also {', '.join(RAINY_FOLDERS[1:])}; for target also {', '.join(CLEAN_FOLDERS[1:])}"
        )
    return (
        f"  where it was looked for: a folder {dataset.name} in {root}, up to {_DEEPEST} levels deep\n"
        f"  where to get it: {dataset.source}\n"
        f"  what it must look like: {layout}\n"
        f"  where it may lie: --root FOLDER, else the variable DRSFORMER_DATA, else {home() / 'datasets'}"
    )


def find_pairs(folder: Path, *, side_by_side: SideBySide | None = None) -> Pairs:
    """Find and pair the images of a data set's folder.

    The folder, or one below it, holds a rainy and a clean folder (`RAINY_FOLDERS`, `CLEAN_FOLDERS`), or rain-1.png and
    norain-1.png together; with `side_by_side`, images that hold both. Folders below that are for training are passed
    over: who wants those names one.

    Raises:
        UsageError: There are no pairs, or several folders could be meant.
    """
    if side_by_side is not None:
        files = image_files(_best(folder, _has_images, "images"))
        return Pairs([Pair(name, file, file, side_by_side) for name, file in zip(names(files), files, strict=True)])
    place = _best(folder, lambda place: _roles(place) is not None, "a rainy and a clean folder")
    roles = _roles(place)
    if roles is None:  # `_best` found it
        raise UsageError(f"{place}: changed while it was searched")
    rainy, clean = roles
    return pair(image_files(rainy), image_files(clean)) if rainy != clean else _pair_together(image_files(rainy))


def pair(rainy: Sequence[Path], clean: Sequence[Path]) -> Pairs:
    """Pair rainy images with clean ones by name.

    By equal stem; where no stem agrees, by what is left of it without words such as rain and norain, numbers compared
    as numbers (rain-001, norain-1); where that fails too, by its beginning, so that rainy images share a clean
    one (1_1, 1_2 with 1). One rule holds for all: an image without a partner is reported, not given another's.
    """
    rules: tuple[Callable[[Path], Sequence[object]], ...] = (lambda path: (path.stem,), lambda path: _key(path.stem))
    for rule in rules:
        found = _pair_by(rainy, clean, rule, shared=False)
        if found.pairs:
            return found
    return _pair_by(rainy, clean, rules[-1], shared=True)


def image_files(folder: Path) -> list[Path]:
    """The images of a folder in natural order, by their endings; hidden files are passed over.

    Raises:
        UsageError: The folder cannot be read.
    """
    try:
        files = [
            path
            for path in folder.iterdir()
            if path.suffix.lower() in FORMAT_OF_ENDING and not path.name.startswith(".") and path.is_file()
        ]
    except OSError as error:
        raise UsageError(f"{folder}: {error.strerror}") from None
    return sorted(files, key=lambda path: _natural(path.name))


def names(files: Sequence[Path]) -> list[str]:
    """A name for each file: without its ending, unless two would have the same."""
    stems = Counter(path.stem for path in files)
    return [path.stem if stems[path.stem] == 1 else path.name for path in files]


def size_problems(pairs: Iterable[Pair]) -> dict[Pair, str]:
    """Pairs whose files cannot be opened or differ in size, with why; only the files' heads are read."""
    from drsformer_cli import images  # noqa: PLC0415

    problems = {}
    for candidate in pairs:
        if candidate.side_by_side is None:
            try:
                _check_sizes(candidate, images.size(candidate.rainy), images.size(candidate.clean))
            except (ImageError, OSError) as error:
                problems[candidate] = str(error)
    return problems


def missing_numbers(dataset: Dataset, pairs: Sequence[Pair]) -> list[int]:
    """Numbers that a set numbered throughout lacks; none where its names are not plain numbers."""
    keys = [_key(found.name) for found in pairs]
    numbers = {key[0] for key in keys if len(key) == 1 and isinstance(key[0], int)}
    first = 0 if 0 in numbers else 1
    expected = set(range(first, first + dataset.count))
    return sorted(expected - numbers) if len(numbers) == len(pairs) and numbers <= expected else []


def _pair_by(
    rainy: Sequence[Path], clean: Sequence[Path], key: Callable[[Path], Sequence[object]], *, shared: bool
) -> Pairs:
    by_key = defaultdict(list)
    for path in clean:
        by_key[tuple(key(path))].append(path)
    pairs, problems, used = [], [], set()
    for name, path in zip(names(rainy), rainy, strict=True):
        own = tuple(key(path))
        beginnings = [own[:length] for length in range(len(own) - 1, 0, -1)] if shared else [own]
        partners = next((by_key[start] for start in beginnings if start in by_key), [])
        used.update(partners)
        if len(partners) == 1:
            pairs.append(Pair(name, path, partners[0]))
        elif partners:
            problems.append(f"{path.name}: {len(partners)} partners fit: {', '.join(p.name for p in partners)}")
        else:
            problems.append(f"{path.name}: no partner in {clean[0].parent.name if clean else 'an empty folder'}")
    return Pairs(pairs, problems, [path for path in clean if path not in used])


def _pair_together(files: Sequence[Path]) -> Pairs:
    """Rainy and clean images in one folder: rain-1.png, norain-1.png."""
    clean = [path for path in files if _says_clean(path)]
    return pair([path for path in files if not _says_clean(path)], clean)


def _says_clean(path: Path) -> bool:
    return bool({"norain", "clean", "gt", "target"} & set(re.findall(r"[a-z]+", path.stem.lower())))


def _roles(folder: Path) -> tuple[Path, Path] | None:
    """The rainy and the clean folder in this one; twice this folder where it holds rain-1 and norain-1 together."""
    by_role: dict[bool, list[Path]] = {True: [], False: []}
    for inner in _folders(folder):
        for is_rainy, words in ((True, RAINY_FOLDERS), (False, CLEAN_FOLDERS)):
            if _plain(inner.name) in {_plain(word) for word in words}:
                by_role[is_rainy].append(inner)
    rainy, clean = by_role[True], by_role[False]
    if len(rainy) == len(clean) == 1:
        return _with_images(rainy[0]), _with_images(clean[0])
    if rainy and clean:
        raise UsageError(f"{folder}: several rainy or clean folders: {', '.join(p.name for p in rainy + clean)}")
    stems = {path.stem.lower() for path in image_files(folder)}
    together = any(stem.startswith("norain") and stem[2:] in stems for stem in stems)
    return (folder, folder) if together else None


def _with_images(folder: Path) -> Path:
    """The folder, or the only one in it where the images lie a level deeper (rain/X2)."""
    inner = _folders(folder)
    return inner[0] if len(inner) == 1 and not image_files(folder) else folder


def _has_images(folder: Path) -> bool:
    return bool(image_files(folder))


def _best(folder: Path, fits: Callable[[Path], bool], what: str) -> Path:
    """The one folder that fits, at or below this one: nearest first, one for testing before others.

    Raises:
        UsageError: None fits, or several do equally.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder")
    level = [folder]
    for _ in range(_DEEPEST + 1):
        fitting = [place for place in level if fits(place)]
        for_testing = [place for place in fitting if _plain(place.name) in _TEST_FOLDERS]
        fitting = for_testing or fitting
        if len(fitting) > 1:
            raise UsageError(f"{folder}: several folders hold {what}; name one: {', '.join(map(str, fitting))}")
        if fitting:
            return fitting[0]
        level = [inner for place in level for inner in _folders(place) if not _plain(inner.name).startswith("train")]
    raise UsageError(
        f"{folder}: nothing in it holds {what}; expected {RAINY_FOLDERS[0]} and {CLEAN_FOLDERS[0]} "
        f"(or {', '.join(f'{a}/{b}' for a, b in zip(RAINY_FOLDERS[1:], CLEAN_FOLDERS[1:], strict=True))})"
    )


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:
        return []  # absent or not ours to read: nothing to find


def _folder_names(dataset: Dataset) -> set[str]:
    return {_plain(name) for name in (dataset.name, *dataset.aliases)}


def _plain(name: str) -> str:
    """Letters and digits only, lower case: Rain_200L and rain200l are one."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _tokens(name: str) -> Iterator[str | int]:
    for token in re.findall(r"\d+|[^\W\d_]+", name.lower()):
        yield int(token) if token.isdecimal() else token


def _key(stem: str) -> tuple[str | int, ...]:
    """What of a name tells the scene: words and numbers, without those that say which of the pair it is."""
    return tuple(token for token in _tokens(stem) if token not in _ROLES)


def _natural(name: str) -> tuple[tuple[int, int | str], ...]:
    """Sorts 2 before 10."""
    return (*((0, token) if isinstance(token, int) else (1, token) for token in _tokens(name)), (2, name))
