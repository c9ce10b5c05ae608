"""The video codecs and containers, one row each. Does not import PyAV, so that planning and `--help` stay fast."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from drsformer.signatures import LONGEST_START, is_raw
from drsformer_cli.formats import format_of

if TYPE_CHECKING:
    from pathlib import Path

INSTALL = "videos need PyAV: pip install 'drsformer[video]'"
"""What to do without the extra."""

CodecName = Literal["h264", "hevc", "av1", "vp9", "ffv1"]


@dataclass(frozen=True)
class Codec:
    """A video codec.

    Attributes:
        name: Value of --codec.
        title: Name in messages.
        encoder: FFmpeg's name of the encoder.
        crf: Default and largest value of --crf. None: the codec has none.
        odd: Whether it stores odd sizes with fewer samples of color than of brightness.
        options: Options of the encoder.
        fastest: The most frames per second that the encoder takes. None: any number.
    """

    name: CodecName
    title: str
    encoder: str
    crf: tuple[int, int] | None
    odd: bool
    options: tuple[tuple[str, str], ...] = ()
    fastest: int | None = None


CODECS: dict[str, Codec] = {
    row.name: row
    for row in (
        Codec("h264", "H.264", "libx264", (17, 51), odd=False),
        Codec("hevc", "HEVC", "libx265", (19, 51), odd=False, options=(("x265-params", "log-level=error"),)),
        Codec("av1", "AV1", "libsvtav1", (22, 63), odd=True, options=(("preset", "6"),), fastest=240),
        Codec("vp9", "VP9", "libvpx-vp9", (22, 63), odd=True, options=(("b", "0"), ("row-mt", "1"), ("cpu-used", "3"))),
        Codec("ffv1", "FFV1", "ffv1", None, odd=True, options=(("level", "3"),)),
    )
}
"""Codecs by the value of --codec."""


@dataclass(frozen=True)
class Container:
    """A container that is written.

    Attributes:
        format: FFmpeg's name of the muxer.
        title: Name in messages.
        endings: File endings.
        codecs: Codecs that it can hold; the first one is the default.
        rotation: Whether it can say that the video is displayed rotated.
        chapters: Whether it has chapters.
        variable: Whether frames can have any time; otherwise the frame rate is constant.
    """

    format: str
    title: str
    endings: tuple[str, ...]
    codecs: tuple[CodecName, ...]
    rotation: bool = True
    chapters: bool = True
    variable: bool = True


CONTAINERS = (
    Container("mp4", "MP4", (".mp4", ".m4v"), ("h264", "hevc", "av1", "vp9")),
    Container("mov", "MOV", (".mov",), ("h264", "hevc")),
    Container("matroska", "Matroska", (".mkv",), get_args(CodecName)),
    Container("webm", "WebM", (".webm",), ("vp9", "av1")),
    Container("avi", "AVI", (".avi",), ("h264", "ffv1"), rotation=False, chapters=False, variable=False),
    Container("mpegts", "MPEG-TS", (".ts", ".mts", ".m2ts"), ("h264", "hevc"), rotation=False, chapters=False),
)

CONTAINER_OF_ENDING = {ending: row for row in CONTAINERS for ending in row.endings}
"""Containers that are written, by file ending."""

VIDEO_ENDINGS = {
    *CONTAINER_OF_ENDING,
    *(".3g2", ".3gp", ".asf", ".divx", ".dv", ".f4v", ".flv", ".mpeg", ".mpg", ".mxf", ".ogv", ".vob", ".wmv", ".y4m"),
    *(".3gpp", ".amv", ".m2p", ".m2t", ".mod", ".mpe", ".ogm", ".qt", ".rm", ".rmvb", ".tod", ".wtv"),
    *(".264", ".265", ".h264", ".h265", ".hevc", ".ivf", ".m1v", ".m2v", ".nut"),  # without a container, or a bare one
}
"""In a folder, files with these endings are taken as videos."""

DEFAULT_ENDING = ".mkv"
"""Ending of the output where that of the input is not written: this container holds everything."""

_OTHER_USES = {".ts", ".mts", ".mod"}  # TypeScript, and music

_SIGNATURES = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (
        rb".{4}(ftyp|moov|mdat|wide|skip|pnot)",  # MP4 and MOV, unless they are images
        rb"\x1a\x45\xdf\xa3",  # Matroska and WebM
        rb"RIFF.{4}(AVI|AMV) ",
        rb"FLV\x01",
        rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11",  # ASF
        rb"\0\0\x01[\xb3\xba]",  # MPEG
        rb"\x47.{187}\x47",  # MPEG-TS
        rb".{4}\x47.{191}\x47",  # MPEG-TS with time codes
        rb"OggS",
        rb"YUV4MPEG2 ",
        rb"\x06\x0e\x2b\x34",  # MXF
        rb"\.RMF",  # RealMedia
        rb"\xb7\xd8\x00\x20\x37\x49\xda\x11",  # WTV
    )
)
_PATTERN = re.compile(r"%0?(\d*)d")


def is_installed() -> bool:
    """Whether PyAV is installed."""
    return importlib.util.find_spec("av") is not None


def kind_by_content(path: Path) -> Literal["image", "video"] | None:
    """What the first bytes of a regular file say; None: neither, or it cannot be read."""
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            start = file.read(LONGEST_START)
    except OSError:
        return None
    if format_of(start) is not None or is_raw(start):
        return "image"
    return "video" if any(pattern.match(start) for pattern in _SIGNATURES) else None


def may_be_a_video(path: Path) -> bool:
    """Whether a file of a folder is taken as a video."""
    ending = path.suffix.lower()
    return ending in VIDEO_ENDINGS and (ending not in _OTHER_USES or kind_by_content(path) == "video")


def is_pattern(path: Path) -> bool:
    """Whether a path names a sequence of numbered images, such as frame_%04d.png."""
    return len(_PATTERN.findall(path.name)) == 1 and not path.exists()


def files_of(path: Path) -> list[Path]:
    """The files of a sequence, in order; of another path, itself.

    Raises:
        OSError: The folder of a sequence cannot be read.
    """
    return [numbered(path, number) for number in numbers(path)] if is_pattern(path) else [path]


def numbered(pattern: Path, number: int) -> Path:
    """The file of a sequence that has a number."""
    return pattern.with_name(_PATTERN.sub(lambda match: str(number).zfill(int(match[1] or 0)), pattern.name))


def numbers(pattern: Path) -> list[int]:
    """The numbers of the files of a sequence, in order.

    Raises:
        OSError: The folder cannot be read.
    """
    found = _PATTERN.search(pattern.name)
    if found is None:
        return []
    before, after = re.escape(pattern.name[: found.start()]), re.escape(pattern.name[found.end() :])
    matches = (re.fullmatch(rf"{before}(\d+){after}", path.name) for path in pattern.parent.iterdir())
    present = sorted({int(match[1]) for match in matches if match})
    return [number for number in present if numbered(pattern, number).exists()]
