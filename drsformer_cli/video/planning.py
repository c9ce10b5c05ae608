"""Which inputs are videos, and how their outputs are named. Does not import PyAV."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from drsformer_cli.errors import UsageError
from drsformer_cli.formats import FORMAT_OF_ENDING, listed
from drsformer_cli.video.formats import (
    CODECS,
    CONTAINER_OF_ENDING,
    DEFAULT_ENDING,
    INSTALL,
    VIDEO_ENDINGS,
    is_installed,
    is_pattern,
    kind_by_content,
)
from drsformer_cli.video.options import check_crf

if TYPE_CHECKING:
    from pathlib import Path

    from drsformer_cli.video.formats import CodecName, Container
    from drsformer_cli.video.options import VideoSettings

PREVIEW_SUFFIX = "_preview"

STATE = "state.json"
"""Name of the file that says which segments are finished."""

LOCK = "lock"
"""Name of the file that the process which writes the segments has locked."""

IMAGE_NAMED_AS_VIDEO = "is an image, but is named as a video; rename it"
VIDEO_NAMED_AS_IMAGE = "is a video, but is named as an image; rename it"


def is_video(path: Path) -> bool:
    """Whether an input that was named is a video: by its content, or by its ending if that says nothing.

    Raises:
        UsageError: It is one, but PyAV is not installed.
    """
    kind = "video" if is_pattern(path) else kind_by_content(path)
    found = kind == "video" or (kind is None and path.suffix.lower() in VIDEO_ENDINGS)
    if found and not is_installed():
        raise UsageError(f"{path}: {INSTALL}")
    return found


def output_ending(source: Path, codec: CodecName | None) -> str:
    """The ending of an output that the user does not name."""
    if is_pattern(source) and source.suffix.lower() in FORMAT_OF_ENDING:
        return source.suffix
    container = CONTAINER_OF_ENDING.get(source.suffix.lower())
    return source.suffix if container is not None and _holds(container, codec) else DEFAULT_ENDING


def check_output(source: Path, target: Path, settings: VideoSettings) -> None:
    """Refuse an output for a video that cannot be written.

    Raises:
        UsageError: The ending is not that of a video, nor the name a pattern of images, or it cannot hold the codec;
            or the codec has no such --crf.
    """
    ending, codec = target.suffix.lower(), settings.codec
    if is_pattern(target) and ending in FORMAT_OF_ENDING:
        options = {"--codec": codec, "--crf": settings.crf, "--resume": settings.resume or None}
        given = next((name for name, value in options.items() if value is not None), None)
        if given is not None:
            raise UsageError(f"-o {target} and {given} exclude each other: the output is images")
        return
    container = CONTAINER_OF_ENDING.get(ending)
    if container is None:
        endings = ", ".join(CONTAINER_OF_ENDING)
        raise UsageError(f"-o {target}: {source} is a video; expected {endings} or a pattern as frame_%04d.png")
    if not _holds(container, codec) and codec is not None:
        expected = listed(list(container.codecs), "or")
        raise UsageError(
            f"-o {target}: {container.title} cannot hold {CODECS[codec].title}; expected --codec {expected}"
        )
    check_crf(codec or container.codecs[0], settings.crf)


def _holds(container: Container, codec: CodecName | None) -> bool:
    return codec is None or codec in container.codecs


def was_begun(target: Path) -> bool:
    """Whether an earlier run left finished segments of an output."""
    return (work_folder(target) / STATE).exists()


def work_folder(target: Path) -> Path:
    """The folder for the unfinished parts of an output."""
    name = target.name if len(target.name.encode()) < 200 else hashlib.sha256(target.name.encode()).hexdigest()
    return target.with_name(f".{name}.drsformer")
