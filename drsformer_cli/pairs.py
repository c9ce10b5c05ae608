"""Find images, and pair rainy images with clean ones.

A pair is two files, or the halves of one. Images are never resized or rotated to make a pair fit; those that do not fit
are listed.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from drsformer.errors import ImageError
from drsformer.home import home
from drsformer_cli.datasets import folder_names, normalized
from drsformer_cli.errors import IMAGE_ERRORS, UsageError, reason
from drsformer_cli.formats import FORMAT_OF_ENDING, skipped_images

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from drsformer_cli.datasets import Dataset, SideBySide
    from drsformer_cli.metrics.full_reference import RGB8

RAINY_FOLDERS = ("input", "rain", "rainy", "rainy_image", "lq", "inputs")
CLEAN_FOLDERS = ("target", "norain", "clean", "ground_truth", "gt", "targets")
"""Usual names of the two folders of a data set; upper and lower case, `_` and `-` make no difference."""

_TEST_FOLDERS = ("test", "testing", "testset")
_DEEPEST = 3  # levels below a data set's own folder that are searched for its images

# Words in image names that say which image of a pair it is.
_ROLE_WORDS = {"rain", "norain", "rainy", "clean", "input", "target", "gt", "lq", "x"}


@dataclass(frozen=True)
class Pair:
    """A rainy image and the clean image of the same scene.

    Attributes:
        name: Name of the rainy image, without its ending.
        rainy: File of the rainy image.
        clean: File of the clean image; the same file if both are side by side.
        side_by_side: Which half of the file is clean; None if there are two files.
    """

    name: str
    rainy: Path
    clean: Path
    side_by_side: SideBySide | None = None

    def read(self) -> tuple[RGB8, RGB8]:
        """The rainy and the clean image, each (H, W, 3) RGB uint8; 16 bits are rounded to 8.

        Raises:
            ImageError: A file is not an image, or the two images differ in size.
            OSError: A file cannot be read.
        """
        from drsformer_cli.images import read_rgb8  # finding pairs needs no Pillow

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
    """The pairs of a folder, and the images that could not be paired.

    Attributes:
        pairs: The pairs, in natural order of their names.
        problems: Rainy images without a partner and why, one line each.
        unused: Clean images without a rainy image.
        files: All images that were found, paired or not.
    """

    pairs: list[Pair]
    problems: list[str] = field(default_factory=list)
    unused: list[Path] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)


def _check_sizes(pair: Pair, rainy: tuple[int, int], clean: tuple[int, int]) -> None:
    """Sizes are (width, height)."""
    if rainy == clean:
        return
    how = "one of them is rotated" if rainy == clean[::-1] else "their sizes differ"
    raise ImageError(
        f"{pair.rainy.name} is {rainy[0]}x{rainy[1]}, but the clean {pair.clean.name} is {clean[0]}x{clean[1]}: {how}"
    )


def _size(path: Path) -> tuple[int, int]:
    """(width, height); the error names the file."""
    from drsformer_cli import images

    try:
        return images.size(path)
    except IMAGE_ERRORS as error:
        raise ImageError(f"{path.name}: {reason(error)}") from None


def is_role(folder: Path) -> bool:
    """Whether a folder's name says only that its images are rainy, or that they are clean."""
    return normalized(folder.name) in {normalized(name) for name in (*RAINY_FOLDERS, *CLEAN_FOLDERS)}


def locate(dataset: Dataset, root: Path) -> Path | None:
    """The folder of a data set: `root` itself, or a folder up to three levels below; None if none has its name."""
    wanted = folder_names(dataset)
    level = [root]
    for _ in range(_DEEPEST + 1):
        for folder in level:
            if normalized(folder.name) in wanted:
                return folder
        level = [inner for folder in level for inner in _folders(folder)]
    return None


def advice(dataset: Dataset, root: Path) -> str:
    """How to get a data set that was not found: its source, the layout of its folder, and where to put it."""
    if dataset.side_by_side:
        layout = f"{dataset.name}/test/*.jpg, the two images of a pair side by side in one file"
    else:
        layout = (
            f"{dataset.name}/test/input/*.png and {dataset.name}/test/target/*.png, paired by name;\n"
            f"    input may also be {', '.join(RAINY_FOLDERS[1:])}; target may also be {', '.join(CLEAN_FOLDERS[1:])}"
        )
    return (
        f"  searched: a folder {dataset.name} in {root}, up to {_DEEPEST} levels deep\n"
        f"  source: {dataset.source}\n"
        f"  expected layout: {layout}\n"
        f"  put it into the folder given by --root or by the variable DRSFORMER_DATA. Default: {home() / 'datasets'}"
    )


def find_pairs(folder: Path, *, side_by_side: SideBySide | None = None) -> Pairs:
    """Find and pair the images of a data set's folder.

    The folder, or one below it, holds a rainy and a clean folder (`RAINY_FOLDERS`, `CLEAN_FOLDERS`), or rain-1.png and
    norain-1.png together; with `side_by_side`, files that hold both images. Folders below it whose names begin with
    "train" are skipped, unless `folder` is one of them.

    Raises:
        UsageError: There are no such folders, several match, or one has no images.
    """
    if side_by_side is not None:
        files = image_files(_best(folder, _has_images, "images"))
        found = [Pair(name, file, file, side_by_side) for name, file in zip(names(files), files, strict=True)]
        return Pairs(found, files=files)
    place = _best(folder, lambda place: _roles(place) is not None, "a rainy and a clean folder")
    roles = _roles(place)
    if roles is None:  # `_best` found it
        raise UsageError(f"{place}: changed while it was searched")
    rainy, clean = roles
    return pair(some_images(rainy), some_images(clean)) if rainy != clean else _pair_together(image_files(rainy))


def pair(rainy: Sequence[Path], clean: Sequence[Path]) -> Pairs:
    """Pair rainy images with clean ones by name; composed (NFC) and decomposed (NFD) accents are equal.

    Three rules are tried in order: (1) the names are equal, apart from their endings; (2) the names are equal without
    words such as rain and norain, and with numbers compared as numbers (rain-001 and norain-1); (3) the name of the
    rainy image begins with that of the clean image, which several can share (1_1 and 1_2 with 1). The first rule that
    pairs any image is used for all of them; images that it does not pair are reported.
    """
    rules: tuple[Callable[[Path], Sequence[object]], ...] = (
        lambda path: (_composed(path.stem),),
        lambda path: _key(path.stem),
    )
    for rule in rules:
        found = _pair_by(rainy, clean, rule, shared=False)
        if found.pairs:
            return found
    return _pair_by(rainy, clean, rules[-1], shared=True)


def image_files(folder: Path) -> list[Path]:
    """The images of a folder, recognized by their endings, in natural order; hidden files are skipped.

    Raises:
        UsageError: The folder cannot be read.
    """
    try:
        files = [
            path
            for path in folder.iterdir()
            if path.suffix.lower() in FORMAT_OF_ENDING and not path.name.startswith(".") and path.is_file()
        ]
    except NotADirectoryError:
        raise UsageError(f"{folder}: is a file; expected a folder") from None
    except OSError as error:
        raise UsageError(f"{folder}: {error.strerror}") from None
    return sorted(files, key=lambda path: _natural(path.name))


def some_images(folder: Path) -> list[Path]:
    """Likewise, but at least one.

    Raises:
        UsageError: The folder cannot be read, or has no images.
    """
    files = image_files(folder)
    if not files:
        raise UsageError("; ".join([f"{folder}: no images in it", *skipped([folder])]))
    return files


def skipped(folders: Iterable[Path]) -> list[str]:
    """A note for each folder with images of kinds that are not read, such as raw files; `image_files` skips them."""
    notes = {folder: skipped_images(path.name for path in folder.iterdir()) for folder in folders}
    return [f"{folder}: {note}" for folder, note in notes.items() if note]


def names(files: Sequence[Path]) -> list[str]:
    """A name for each file: without its ending, unless two files would then have the same name."""
    stems = Counter(path.stem for path in files)
    return [path.stem if stems[path.stem] == 1 else path.name for path in files]


def size_problems(pairs: Iterable[Pair]) -> dict[Pair, str]:
    """Pairs that cannot be used and why: a file cannot be opened, or the sizes differ. Only file headers are read."""
    problems = {}
    for candidate in pairs:
        if candidate.side_by_side is None:
            try:
                _check_sizes(candidate, _size(candidate.rainy), _size(candidate.clean))
            except ImageError as error:
                problems[candidate] = str(error)
    return problems


def missing_numbers(dataset: Dataset, pairs: Sequence[Pair]) -> list[int]:
    """The numbers that are missing in a numbered set; an empty list if its names are not plain numbers."""
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
            problems.append(f"{path.name}: {len(partners)} possible partners: {', '.join(p.name for p in partners)}")
        else:
            problems.append(f"{path.name}: no partner in {clean[0].parent.name if clean else 'an empty folder'}")
    return Pairs(pairs, problems, [path for path in clean if path not in used], [*rainy, *clean])


def _pair_together(files: Sequence[Path]) -> Pairs:
    """Rainy and clean images in the same folder: rain-1.png, norain-1.png."""
    clean = [path for path in files if _says_clean(path)]
    return pair([path for path in files if not _says_clean(path)], clean)


def _says_clean(path: Path) -> bool:
    return bool({"norain", "clean", "gt", "target"} & set(re.findall(r"[a-z]+", path.stem.lower())))


def _roles(folder: Path) -> tuple[Path, Path] | None:
    """The rainy and the clean folder inside; both are `folder` itself if it holds both rain-1 and norain-1."""
    by_role: dict[bool, list[Path]] = {True: [], False: []}
    for inner in _folders(folder):
        for is_rainy, words in ((True, RAINY_FOLDERS), (False, CLEAN_FOLDERS)):
            if normalized(inner.name) in {normalized(word) for word in words}:
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
    """The folder, or its only subfolder if the images are in that (rain/X2)."""
    inner = _folders(folder)
    return inner[0] if len(inner) == 1 and not image_files(folder) else folder


def _has_images(folder: Path) -> bool:
    return bool(image_files(folder))


def _best(folder: Path, fits: Callable[[Path], bool], what: str) -> Path:
    """The folder that fits, `folder` itself or one below it: the nearest one, test folders before others.

    Raises:
        UsageError: No folder fits, or several fit equally well.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder")
    level = [folder]
    for _ in range(_DEEPEST + 1):
        fitting = [place for place in level if fits(place)]
        for_testing = [place for place in fitting if normalized(place.name) in _TEST_FOLDERS]
        fitting = for_testing or fitting
        if len(fitting) > 1:
            raise UsageError(f"{folder}: several folders hold {what}; choose one: {', '.join(map(str, fitting))}")
        if fitting:
            return fitting[0]
        level = [
            inner for place in level for inner in _folders(place) if not normalized(inner.name).startswith("train")
        ]
    raise UsageError(
        f"{folder}: found no folder with {what}; expected {RAINY_FOLDERS[0]} and {CLEAN_FOLDERS[0]} "
        f"(or {', '.join(f'{a}/{b}' for a, b in zip(RAINY_FOLDERS[1:], CLEAN_FOLDERS[1:], strict=True))})"
    )


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:
        return []  # missing or not readable


def _composed(name: str) -> str:
    """The name in Unicode NFC: macOS decomposes accents in file names, other systems do not."""
    return unicodedata.normalize("NFC", name)


def _tokens(name: str) -> Iterator[str | int]:
    for token in re.findall(r"\d+|[^\W\d_]+", _composed(name).lower()):
        yield int(token) if token.isdecimal() else token


def _key(stem: str) -> tuple[str | int, ...]:
    """The words and numbers of a name that identify the scene, without words such as rain and norain."""
    return tuple(token for token in _tokens(stem) if token not in _ROLE_WORDS)


def _natural(name: str) -> tuple[tuple[int, int | str], ...]:
    """A sort key that puts 2 before 10."""
    return (*((0, token) if isinstance(token, int) else (1, token) for token in _tokens(name)), (2, name))
