"""How frames are stored: the pixel format that keeps the most of the input, and the encoder's settings."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import av

from drsformer_cli.errors import VideoError
from drsformer_cli.video.formats import CODECS, Codec, Container

if TYPE_CHECKING:
    from drsformer_cli.video.options import VideoSettings
    from drsformer_cli.video.reading import Stream

_SUBSAMPLINGS = {"420": (2, 2), "422": (2, 1), "444": (1, 1)}  # pixels of a row and of a column that share a color
_GLOBAL_HEADER = 0x40  # AVFMT_GLOBALHEADER
_DEPTHS = (8, 10, 12, 16)

os.environ.setdefault("SVT_LOG", "1")  # errors only


@dataclass(frozen=True)
class PixelFormat:
    """A planar pixel format with brightness and color apart.

    Attributes:
        subsampling: A key of "420", "422", "444".
        bits: Bits of a sample.
    """

    subsampling: str
    bits: int

    @property
    def name(self) -> str:
        """FFmpeg's name."""
        return f"yuv{self.subsampling}p{'' if self.bits == 8 else f'{self.bits}le'}"

    def fits(self, width: int, height: int) -> bool:
        """Whether no color reaches beyond the last row or column."""
        columns, rows = _SUBSAMPLINGS[self.subsampling]
        return width % columns == 0 and height % rows == 0


_FORMATS = [PixelFormat(subsampling, bits) for subsampling in _SUBSAMPLINGS for bits in _DEPTHS]


@dataclass(frozen=True)
class Encoding:
    """How a video is stored.

    Attributes:
        codec: The codec; None: frames become images.
        container: The container; None: frames become images.
        pixel_format: How the pixels are stored.
        options: Options of the encoder.
        global_header: Whether the container has the codec's header apart from the frames.
        notes: What is changed, for the user.
    """

    codec: Codec | None
    container: Container | None
    pixel_format: PixelFormat
    options: dict[str, str] = field(default_factory=dict)
    global_header: bool = True
    notes: tuple[str, ...] = ()


def choose_encoding(stream: Stream, container: Container | None, settings: VideoSettings) -> Encoding:
    """Choose codec, pixel format and options for a video; without a container for images.

    Raises:
        VideoError: The encoder is missing, or cannot store such a size or frame rate.
    """
    wanted = _native(stream.pixel_format)
    if container is None:
        return Encoding(None, None, wanted)
    codec = CODECS[settings.codec or container.codecs[0]]
    if codec.crf is None and _is_rgb(av.VideoFormat(stream.pixel_format, 64, 64)):  # two more bits hold every RGB color
        wanted = replace(wanted, bits=next(bits for bits in _DEPTHS if bits > wanted.bits or bits == _DEPTHS[-1]))
    try:
        encoder = av.Codec(codec.encoder, "w")
    except av.codec.codec.UnknownCodecError:
        raise VideoError(f"this PyAV was built without {codec.encoder}, the encoder of {codec.title}") from None
    if codec.fastest is not None and stream.rate > codec.fastest:
        raise VideoError(f"has {float(stream.rate):g} frames/s; {codec.title} is written with at most {codec.fastest}")
    names = {row.name for row in encoder.video_formats or ()}
    fitting = [row for row in _FORMATS if row.name in names and (codec.odd or row.fits(stream.width, stream.height))]
    if not fitting:
        raise VideoError(f"{codec.title} cannot store {stream.width}x{stream.height}")
    chosen = min(fitting, key=lambda row: _cost(row, wanted))
    return Encoding(
        codec,
        container,
        chosen,
        _options(codec, container, settings),
        bool(av.format.ContainerFormat(container.format, "w").flags & _GLOBAL_HEADER),
        _notes(stream, wanted, chosen, codec),
    )


def _native(name: str) -> PixelFormat:
    """The planar format that holds a pixel format of the input."""
    row = av.VideoFormat(name, 64, 64)
    deepest = max((component.bits for component in row.components), default=8)
    bits = next((bits for bits in _DEPTHS if bits >= deepest), _DEPTHS[-1])
    if _is_rgb(row):
        return PixelFormat("444", bits)
    if len(row.components) < 3:  # gray, which players may not know
        return PixelFormat("420", bits)
    color = row.components[1]
    if color.width <= 32:
        return PixelFormat("420" if color.height <= 32 else "422", bits)
    return PixelFormat("444", bits)


def _is_rgb(row: av.VideoFormat) -> bool:
    return row.is_rgb or row.has_palette


def _cost(row: PixelFormat, wanted: PixelFormat) -> tuple[int, ...]:
    """What is lost first, then what is stored needlessly."""
    more = list(_SUBSAMPLINGS).index(row.subsampling) - list(_SUBSAMPLINGS).index(wanted.subsampling)
    return max(0, wanted.bits - row.bits), max(0, -more), max(0, row.bits - wanted.bits), max(0, more)


def _notes(stream: Stream, wanted: PixelFormat, chosen: PixelFormat, codec: Codec) -> tuple[str, ...]:
    notes = []
    if chosen.bits < wanted.bits:
        notes.append(f"{wanted.bits} bits reduced to {chosen.bits}: {codec.title} is written with {chosen.bits}")
    if chosen.subsampling < wanted.subsampling:
        notes.append(f"4:{wanted.subsampling[1]}:{wanted.subsampling[2]} color reduced to 4:2:0 for {codec.title}")
    if chosen.subsampling > wanted.subsampling and not codec.odd:
        notes.append(
            f"{stream.width}x{stream.height} is odd, so {codec.title} is written with 4:4:4 color, "
            "which not every player shows"
        )
    if av.VideoFormat(stream.pixel_format, 64, 64).name.startswith(("yuva", "rgba", "bgra", "argb", "abgr", "gbrap")):
        notes.append("transparency dropped")
    return tuple(notes)


def _options(codec: Codec, container: Container, settings: VideoSettings) -> dict[str, str]:
    options = dict(codec.options)
    if codec.crf is not None:
        options["crf"] = str(settings.crf if settings.crf is not None else codec.crf[0])
    if not container.variable:
        options["bf"] = "0"  # such a file has no times of its own for frames that are stored in another order
    return options
