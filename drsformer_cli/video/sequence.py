"""Videos whose frames are numbered images, such as frame_0001.png: read, and written."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import islice
from typing import TYPE_CHECKING

import av
import numpy as np

from drsformer.errors import ImageError
from drsformer_cli import images
from drsformer_cli.deraining.pipeline import output_file
from drsformer_cli.errors import VideoError
from drsformer_cli.formats import FORMAT_OF_ENDING
from drsformer_cli.images import DecodedImage
from drsformer_cli.video import color
from drsformer_cli.video.formats import numbered, numbers
from drsformer_cli.video.reading import Frame, Stream, Tags, planes_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from drsformer_cli.video.color import Coding, Rgb
    from drsformer_cli.video.encoding import PixelFormat
    from drsformer_cli.video.options import VideoSettings

_SDR = Tags(matrix=1, range=1, primaries=1, transfer=1)
_PIXEL_FORMATS = {
    (False, False): "rgb24",
    (False, True): "rgba",
    (True, False): "rgb48le",
    (True, True): "rgba64le",
}
"""FFmpeg's names, by whether images have 16 bits, and alpha."""

_PROFILE_DROPPED = "ICC profile dropped: a video has none, and its colors are taken for sRGB"


class SequenceReader:
    """Numbered images as a video; has the attributes and methods of `Reader`.

    Attributes:
        stream: Facts of the video.
        offset: Time of the first frame that is read, in seconds.
        problem: Which images could not be read and were left out so far; None: none.
        is_irregular: False, since images follow each other at a constant rate.
        late: 0, since the first image is the beginning.

    Raises:
        VideoError: There are no such images, or one has another size than the others.
        ImageError: No image can be read.
        OSError: A file cannot be read.
    """

    def __init__(self, path: Path, settings: VideoSettings) -> None:
        self.path = path
        self._unreadable: dict[int, str] = {}  # why, by number
        self.is_irregular = False
        self.late = 0
        found = numbers(path)
        rate = settings.fps
        first = round(settings.start * rate)
        end = round(settings.end * rate) if settings.end is not None else None
        self.numbers = found[first:end]
        self.offset = Fraction(first) / rate
        if not self.numbers:
            raise VideoError(f"no images at that time: there are {len(found)}, {float(rate):g} for each second")
        image = self._first()
        height, width = image.pixels.shape[:2]
        name = _PIXEL_FORMATS[image.pixels.dtype == np.uint16, image.alpha is not None]
        self.stream = Stream(width, height, name, _SDR, 1 / rate, rate, len(self.numbers))
        missing = found[-1] - found[0] + 1 - len(found)
        if missing:
            what = "1 number is missing; it is" if missing == 1 else f"{missing} numbers are missing; they are"
            self.stream.notes.append(f"{what} left out")

    @property
    def problem(self) -> str | None:  # noqa: D102 - see the class
        if not self._unreadable:
            return None
        rest = len(self._unreadable) - 1
        more = f", and {rest} more image{'s' * (rest != 1)}" if rest else ""
        return f"left out: {next(iter(self._unreadable.values()))}{more}"

    def close(self) -> None:
        """Do nothing: no file stays open."""

    def _first(self) -> DecodedImage:
        """The first image that can be read."""
        for number in self.numbers[:-1]:
            image = self._read(number)
            if image is not None:
                return image
        return images.read(numbered(self.path, self.numbers[-1]))

    def _read(self, number: int) -> DecodedImage | None:
        """An image; None, and a `problem`, if it cannot be read."""
        path = numbered(self.path, number)
        try:
            return images.read(path)
        except ImageError as error:
            self._unreadable[number] = f"{path.name}: {error}"
            return None

    def coding(self, pixel_format: PixelFormat) -> Coding:
        """How the planes of a frame are coded."""
        return color.Coding(_SDR.matrix, full_range=False, bits=pixel_format.bits)

    def frames(self, pixel_format: PixelFormat | None, skip: int = 0) -> Iterator[Frame]:
        """Read the images, without the first `skip` ones; without a pixel format they are not converted to planes."""
        readable = ((number, image) for number in self.numbers if (image := self._read(number)) is not None)
        for time, (number, image) in islice(enumerate(readable), skip, None):
            path = numbered(self.path, number)
            H, W = image.pixels.shape[:2]
            if (self.stream.width, self.stream.height) != (W, H):
                raise VideoError(
                    f"{path.name} has {W}x{H} pixels; expected {self.stream.width}x{self.stream.height} as in the first"
                )
            deep = self.stream.pixel_format in ("rgb48le", "rgba64le")
            if deep != (image.pixels.dtype == np.uint16):
                raise VideoError(f"{path.name} has {'8' if deep else '16'} bits, unlike the first image")
            self.stream.notes.extend(note for note in image.notes if note not in self.stream.notes)
            if pixel_format is None:
                yield Frame(image.pixels, time, 1, image=image, number=number)
                continue
            if image.metadata.icc is not None and _PROFILE_DROPPED not in self.stream.notes:
                self.stream.notes.append(_PROFILE_DROPPED)
            frame = av.VideoFrame.from_ndarray(image.pixels, "rgb48le" if deep else "rgb24")
            planes = planes_of(frame, pixel_format, _SDR)
            yield Frame(color.to_rgb(planes, self.coding(pixel_format)), time, 1, planes, image, number)


class SequenceWriter:
    """Writes each frame as an image, with the metadata of the image that it was read from.

    Attributes:
        notes: What the format could not store, one line each.
    """

    def __init__(self, path: Path, *, quality: int, overwrite: bool) -> None:
        self.path = path
        self._format = FORMAT_OF_ENDING[path.suffix.lower()]
        self._quality, self._overwrite = quality, overwrite
        self.notes: list[str] = []
        self._count = 0

    def write(self, frame: Frame, pixels: Rgb) -> None:
        """Write a frame.

        Raises:
            ImageError: The format cannot store it.
            OSError: The file cannot be written.
        """
        self._count += 1
        number = frame.number if frame.number is not None else self._count
        image = replace(frame.image, pixels=pixels) if frame.image is not None else DecodedImage(pixels)
        self.notes.extend(note for note in images.losses(image, self._format) if note not in self.notes)
        data = images.encode(image, self._format, quality=self._quality)
        target = numbered(self.path, number)
        with output_file(target, overwrite=self._overwrite) as file:
            file.write(data)
