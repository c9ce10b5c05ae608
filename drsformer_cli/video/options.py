"""The options of `drsformer derain` that are for videos."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Literal

import typer

from drsformer.config import MOST_NEIGHBORS
from drsformer_cli.errors import UsageError
from drsformer_cli.options import number, one_of
from drsformer_cli.video.formats import CODECS, CodecName

_FOR_VIDEOS = "Videos: "


def parse_time(text: str) -> Fraction:
    """Seconds, as 90, 1:30 or 0:01:30.5.

    Raises:
        typer.BadParameter: The text is not a time.
    """
    if not re.fullmatch(r"(\d+|\d+:[0-5]?\d|\d+:[0-5]?\d:[0-5]?\d)(\.\d*)?", text):
        raise typer.BadParameter(f"{text!r} is not a time; expected seconds, m:ss or h:mm:ss")
    seconds = Fraction(0)
    for part in text.split(":"):
        seconds = seconds * 60 + Fraction(part)
    return seconds


def parse_temporal(text: str) -> Literal["auto", "off"] | int:
    """The value of --temporal.

    Raises:
        typer.BadParameter: The text is not auto, off or a number of frames.
    """
    if text.lower() in ("auto", "off"):
        return "auto" if text.lower() == "auto" else "off"
    if not text.isdecimal() or int(text) > MOST_NEIGHBORS:
        raise typer.BadParameter(f"{text!r} is not auto, off or a number of frames up to {MOST_NEIGHBORS}")
    return int(text)


def _checked_time(text: str | None) -> str | None:
    if text is not None:
        parse_time(text)
    return text


def _checked_temporal(text: str) -> str:
    parse_temporal(text)
    return text


def _crf_help() -> str:
    defaults = ", ".join(f"{row.crf[0]} for {row.title}" for row in CODECS.values() if row.crf)
    return f"{_FOR_VIDEOS}quality, lower is better; the default looks like the input. Default: {defaults}."


TemporalOption = Annotated[
    str,
    typer.Option(
        "--temporal",
        metavar="auto|off|N",
        help=f"{_FOR_VIDEOS}use up to N frames before and after each one; off: each frame by itself. Default: auto.",
        callback=_checked_temporal,
        show_default=False,
    ),
]
CodecOption = Annotated[
    CodecName | None,
    typer.Option(
        "--codec",
        metavar="|".join(CODECS),
        parser=one_of(list(CODECS)),
        help=f"{_FOR_VIDEOS}how frames are stored. Default: h264; vp9 in WebM.",
    ),
]
CrfOption = Annotated[int | None, typer.Option("--crf", metavar="N", parser=number(int, 0), help=_crf_help())]
StartOption = Annotated[
    str | None,
    typer.Option(
        "--start",
        metavar="TIME",
        help=f"{_FOR_VIDEOS}begin at this time, in seconds or h:mm:ss.",
        callback=_checked_time,
    ),
]
EndOption = Annotated[
    str | None,
    typer.Option("--end", metavar="TIME", help=f"{_FOR_VIDEOS}end before this time.", callback=_checked_time),
]
PreviewOption = Annotated[
    float | None,
    typer.Option(
        "--preview",
        metavar="SECONDS",
        parser=number(float, 0.001, 1_000_000),
        help=f"{_FOR_VIDEOS}write only NAME_preview: so many seconds of input and output side by side.",
    ),
]
FpsOption = Annotated[
    float | None,
    typer.Option(
        "--fps",
        metavar="N",
        parser=number(float, 0.001, 1000),
        help="Frames per second where the input is a pattern such as frame_%04d.png. Default: 25.",
    ),
]
ResumeOption = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Continue an interrupted run: skip finished outputs, and resume videos at the last part that was kept.",
    ),
]


@dataclass(frozen=True)
class VideoSettings:
    """What the options say.

    Attributes:
        codec: A key of `CODECS`. None: the default of the container.
        crf: Quality. None: the default of the codec.
        start: Time of the first frame in seconds.
        end: Time before which the last frame is. None: the end of the video.
        preview: Whether only a side-by-side video is written.
        fps: Frames per second of numbered images.
        temporal: How many neighbors of a frame are used.
        resume: Whether earlier work is continued.
        given: Names of the given options that images do not use.
    """

    codec: CodecName | None = None
    crf: int | None = None
    start: Fraction = Fraction(0)
    end: Fraction | None = None
    preview: bool = False
    fps: Fraction = Fraction(25)
    temporal: Literal["auto", "off"] | int = "auto"
    resume: bool = False
    given: tuple[str, ...] = ()


def video_settings(
    *,
    codec: CodecName | None,
    crf: int | None,
    start: str | None,
    end: str | None,
    preview: float | None,
    fps: float | None,
    temporal: str,
    resume: bool,
) -> VideoSettings:
    """Check the options, and combine them.

    Raises:
        UsageError: Options contradict each other.
    """
    first = parse_time(start) if start is not None else Fraction(0)
    last = parse_time(end) if end is not None else None
    if last is not None and last <= first:
        raise UsageError(f"--end {end} is not after --start {start or 0}")
    if preview is not None:
        if last is not None or resume:
            raise UsageError(f"--preview and {'--end' if last is not None else '--resume'} exclude each other")
        last = first + Fraction(preview).limit_denominator(1000)
    only_videos = {
        "--codec": codec,
        "--crf": crf,
        "--start": start,
        "--end": end,
        "--preview": preview,
        "--fps": fps,
        "--temporal": temporal if temporal != "auto" else None,
    }
    return VideoSettings(
        codec,
        crf,
        first,
        last,
        preview is not None,
        Fraction(fps).limit_denominator(1001) if fps is not None else Fraction(25),
        parse_temporal(temporal),
        resume,
        tuple(name for name, value in only_videos.items() if value is not None),
    )


def check_crf(codec: CodecName, crf: int | None) -> None:
    """Refuse a quality that a codec does not have.

    Raises:
        UsageError: It has none, or no such value.
    """
    if crf is None:
        return
    row = CODECS[codec]
    if row.crf is None:
        raise UsageError(f"--crf {crf}: {row.title} has no such setting; leave it out")
    if crf > row.crf[1]:
        raise UsageError(f"--crf {crf}: expected at most {row.crf[1]} for {row.title}")
