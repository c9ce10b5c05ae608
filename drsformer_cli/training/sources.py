"""Where samples come from: the kinds of source, the files that each needs, and how it makes a sample of them.

A new kind is a class here and a place in `AnySource`.

Shapes: images (H, W, 3) uint8 RGB.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import cv2
import numpy as np

from drsformer_cli import console
from drsformer_cli.datasets import SideBySide  # noqa: TC001 - the schema is read at run time
from drsformer_cli.errors import UsageError
from drsformer_cli.pairs import find_pairs, image_files, skipped
from drsformer_cli.training import rain
from drsformer_cli.training.rain import LayerRanges, RainRanges
from drsformer_cli.training.run_folder import METRICS_FILE
from drsformer_cli.training.toml_config import Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from drsformer_cli.pairs import Pair
    from drsformer_cli.training.image_cache import CleanImage, ImageCache
    from drsformer_cli.training.rain import CameraRanges, Pixels

Paths = tuple[str, ...]
Weight = Annotated[float, Limits(0, 1e9)]


@dataclass(frozen=True)
class CropRanges:
    """How a crop is taken from an image, or from a pair.

    Attributes:
        shrink: Factor by which the image is downscaled first, drawn evenly on a logarithmic scale; the image stays at
            least as large as the crop.
        whole: Probability that it is downscaled until it is as high or as wide as the crop.
    """

    shrink: Annotated[tuple[float, float], Limits(1, 100, ordered=True)] = (1.0, 1.0)
    whole: rain.Probability = 0.0


@dataclass(frozen=True)
class Files:
    """The files of a source.

    Attributes:
        images: Clean images, or pairs.
        layers: Layers of streaks.
    """

    images: Sequence[CleanImage]
    layers: Sequence[Path] = ()

    def only(self, wanted: Callable[[CleanImage], bool]) -> Files:
        """The files for which `wanted` returns True."""
        return Files([image for image in self.images if wanted(image)], [path for path in self.layers if wanted(path)])


@dataclass(frozen=True, kw_only=True)
class Source:
    """Base class of all kinds of source.

    Attributes:
        weight: Share of the samples, relative to the other sources; 0: it is used only if no source with a weight has
            files.
        crop: How crops are taken.
    """

    weight: Weight = 1.0
    crop: CropRanges = field(default_factory=CropRanges)

    makes_rain: ClassVar[bool] = True
    """Whether validation images can be made of the files that are held out."""

    def find(self, key: str, findings: Findings) -> Files:
        """Find its files; problems with its folders are added to the findings, with `key` as their path."""
        raise NotImplementedError

    def usable(self, files: Files) -> bool:
        """Whether samples can be drawn from the files."""
        return bool(files.images)

    def count(self, files: Files) -> str:
        """A description of the number of files."""
        return f"{len(files.images)} clean images"

    def sample(self, sampler: Sampler, rng: np.random.Generator, side: int) -> tuple[Pixels, Pixels]:
        """A rainy and a clean patch, (side, side, 3) each."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Paired(Source):
    """Pairs of rainy and clean images, in any layout that `drsformer_cli.pairs` supports.

    Attributes:
        path: Folder of the pairs.
        side_by_side: Which half is the clean image, if each file holds a pair.
        share_clean: Whether the sources that use data.clean also use its clean images.
        required: Whether a missing folder is an error; otherwise the source is skipped.
    """

    kind: Literal["paired"]
    path: str
    side_by_side: SideBySide | None = None
    share_clean: bool = False
    required: bool = True

    def find(self, key: str, findings: Findings) -> Files:
        """Find its pairs."""
        pairs = findings.pairs(f"{key}.path", self.path, self.side_by_side, required=self.required)
        if self.share_clean:
            findings.shared += pairs
        return Files(pairs)

    def count(self, files: Files) -> str:
        """A description of the number of pairs."""
        return f"{len(files.images)} pairs"

    def sample(self, sampler: Sampler, rng: np.random.Generator, side: int) -> tuple[Pixels, Pixels]:
        """A crop of a pair, without further changes."""
        return sampler.pair(rng, side)


@dataclass(frozen=True, kw_only=True)
class OnCleanImages(Source):
    """A source that begins with clean images.

    Attributes:
        clean: Folders of clean images. Default: data.clean.
    """

    clean: Paths = ()

    def find(self, key: str, findings: Findings) -> Files:
        """Find its clean images."""
        if self.clean:
            return Files(findings.images(f"{key}.clean", self.clean))
        return Files([*findings.images("data.clean", findings.clean), *findings.shared])


@dataclass(frozen=True, kw_only=True)
class Layers(OnCleanImages):
    """Clean images with gray streak layers added on the fly.

    Attributes:
        layers: Folders of layers.
        required: Whether a missing folder is an error; otherwise it is skipped.
        vary: How layers are varied.
    """

    kind: Literal["layers"]
    layers: Paths
    required: bool = True
    vary: LayerRanges = field(default_factory=LayerRanges)

    def find(self, key: str, findings: Findings) -> Files:
        """Find its clean images and layers."""
        layers = findings.images(f"{key}.layers", self.layers, required=self.required)
        return Files(super().find(key, findings).images, layers)

    def usable(self, files: Files) -> bool:
        """Whether there are clean images and layers."""
        return bool(files.images and files.layers)

    def count(self, files: Files) -> str:
        """A description of the number of clean images and layers."""
        return f"{super().count(files)} and {len(files.layers)} layers"

    def sample(self, sampler: Sampler, rng: np.random.Generator, side: int) -> tuple[Pixels, Pixels]:
        """A clean patch, and the same patch with one or two layers added, rainy first."""
        clean = sampler.clean(rng, side)
        layer = rain.vary(sampler.layer(rng), self.vary, side, side, rng)
        if rng.random() < self.vary.second:
            layer += rain.vary(sampler.layer(rng), self.vary, side, side, rng)
        return sampler.compressed(rain.composite(clean, layer, self.vary, rng), rng), clean


@dataclass(frozen=True, kw_only=True)
class Rendered(OnCleanImages):
    """Clean images with rain rendered by `drsformer_cli.training.rain`.

    Attributes:
        rain: The ranges that the rain is drawn from.
    """

    kind: Literal["rendered"]
    rain: RainRanges = field(default_factory=RainRanges)

    def sample(self, sampler: Sampler, rng: np.random.Generator, side: int) -> tuple[Pixels, Pixels]:
        """A clean patch, and the same patch with rain added, rainy first."""
        clean = sampler.clean(rng, side)
        layer = rain.render(self.rain, side, side, rng)
        return sampler.compressed(rain.composite(clean, layer, self.rain, rng), rng), clean


@dataclass(frozen=True, kw_only=True)
class Clean(OnCleanImages):
    """Clean images as both the rainy and the clean image, so that the network learns not to change them."""

    kind: Literal["clean"]

    makes_rain: ClassVar[bool] = False

    def sample(self, sampler: Sampler, rng: np.random.Generator, side: int) -> tuple[Pixels, Pixels]:
        """A clean patch, twice."""
        clean = sampler.compressed(sampler.clean(rng, side), rng)
        return clean, clean


AnySource = Paired | Layers | Rendered | Clean


@dataclass(frozen=True)
class Sampler:
    """Draws samples from the files of a source.

    Attributes:
        source: The source.
        files: Its files.
        cache: The cache that decodes them.
        data: Configuration of the training data.
    """

    source: Source
    files: Files
    cache: ImageCache
    camera: CameraRanges
    crop: Literal["random", "center"]

    def __call__(self, rng: np.random.Generator, side: int) -> tuple[Pixels, Pixels]:
        """A rainy and a clean patch, (side, side, 3) each."""
        return self.source.sample(self, rng, side)

    def pair(self, rng: np.random.Generator, side: int) -> tuple[Pixels, Pixels]:
        """A crop of a random pair."""
        rainy, clean = self._crop(self.cache.one_of(self.files.images, self.cache.pair, rng), rng, side)
        return rainy, clean

    def clean(self, rng: np.random.Generator, side: int) -> Pixels:
        """A crop of a random clean image, with the camera's light and noise."""
        image = self.cache.one_of(self.files.images, self.cache.clean, rng)
        (clean,) = self._crop((image,), rng, side)
        return rain.expose(clean, self.camera, rng)

    def layer(self, rng: np.random.Generator) -> Pixels:
        """A random gray layer, (H, W)."""
        layer: Pixels = self.cache.one_of(self.files.layers, self.cache.layer, rng)
        return layer

    def compressed(self, image: Pixels, rng: np.random.Generator) -> Pixels:
        """The image with the camera's JPEG compression."""
        return rain.compress(image, self.camera, rng)

    def _crop(self, images: tuple[Pixels, ...], rng: np.random.Generator, side: int) -> tuple[Pixels, ...]:
        """Crop the same random square from images of one size and downscale it: (side, side, 3)."""
        H, W = images[0].shape[:2]
        ranges = self.source.crop
        shrink, whole = rain.log_uniform(ranges.shrink, rng), rng.random() < ranges.whole
        most = max(1.0, min(H, W) / side)
        part = round(side * (most if whole else min(shrink, most)))
        if self.crop == "center":
            top, left = (max(0, size - part) // 2 for size in (H, W))
        else:
            top, left = (int(rng.integers(max(1, size - part + 1))) for size in (H, W))
        return tuple(_square(image[top : top + part, left : left + part], side) for image in images)


def _square(part: Pixels, side: int) -> Pixels:
    """Make a part of an image (side, side, 3): downscale it, or reflect it at the right and bottom."""
    H, W = part.shape[:2]
    made: Any = part
    if max(H, W) > side:
        made = cv2.resize(part, (side, side), interpolation=cv2.INTER_AREA)
    elif min(H, W) < side:
        made = cv2.copyMakeBorder(part, 0, side - H, 0, side - W, cv2.BORDER_REFLECT_101)
    return np.asarray(made, np.uint8)


@dataclass
class Findings:
    """Searches folders, and collects notes and problems.

    Attributes:
        clean: Folders of clean images for the sources without folders of their own.
        shared: Pairs whose clean images those sources use, too.
        mistakes: Mistakes in the configuration, one line each.
        notes, problems: See `Data`.
        absent: Folders that do not exist and are not required.
    """

    clean: Paths
    shared: list[Pair] = field(default_factory=list)
    mistakes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)

    def pairs(self, key: str, folder: str, side_by_side: SideBySide | None, *, required: bool) -> list[Pair]:
        """The pairs in a folder."""
        place = Path(folder).expanduser()
        if not required and not place.exists():
            self.absent.append(folder)
            return []
        try:
            result = find_pairs(place, side_by_side=side_by_side)
        except UsageError as error:
            self.mistakes.append(f"{key}: {error}")
            return []
        if not result.pairs:
            self.mistakes.append(f"{key}: no pairs in {folder}")
        self.problems += [f"{folder}: {problem}" for problem in result.problems]
        if result.unused:
            names = console.first_three([path.name for path in result.unused])
            self.notes.append(f"{key}: clean images without a rainy one: {names}")
        self.notes += skipped(file.parent for file in result.files)
        return result.pairs

    def images(self, key: str, folders: Sequence[str], *, required: bool = True) -> list[Path]:
        """The images in folders, at any depth."""
        files = []
        for folder in folders:
            root = Path(folder).expanduser()
            if not folder:
                self.mistakes.append(f"{key}: empty; expected a folder")
                continue
            if not root.is_dir():
                if required:
                    hint = "; --set data.clean=FOLDER names your clean images" * (key == "data.clean")
                    self.mistakes.append(f"{key}: no such folder: {folder}{hint}")
                else:
                    self.absent.append(folder)
                continue
            places = _folders_below(root)
            inside = [file for place in places for file in image_files(place)]
            if not inside:
                self.mistakes.append("; ".join([f"{key}: no images in {folder}", *skipped(places)]))
            self.notes += skipped(places)
            files += inside
        return files


def _folders_below(root: Path) -> list[Path]:
    """A folder and those below it at any depth; hidden folders and the folders of training runs are skipped."""
    below = sorted(inner for inner in root.rglob("*") if inner.is_dir())
    shown = [inner for inner in below if not any(part.startswith(".") for part in inner.relative_to(root).parts)]
    of_runs = [place for place in (root, *below) if (place / METRICS_FILE).exists()]
    return [place for place in (root, *shown) if not any(place.is_relative_to(run) for run in of_runs)]
