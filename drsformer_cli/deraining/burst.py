"""Plan a burst: several images of one scene in, one image out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from drsformer_cli.deraining.plan import STANDARD_STREAM, Plan, expanded, plan
from drsformer_cli.errors import UsageError
from drsformer_cli.paths import identity
from drsformer_cli.video.formats import files_of
from drsformer_cli.video.planning import is_video

if TYPE_CHECKING:
    from collections.abc import Iterator

    from drsformer_cli.video.options import VideoSettings


def plan_burst(
    inputs: list[str],
    output: str | None,
    *,
    image_format: str | None = None,
    compare: bool = False,
    report: Path | None = None,
    overwrite: bool = False,
    skip_existing: bool = False,
    video: VideoSettings,
) -> Plan:
    """One job for all inputs, or none if it is skipped; see `plan`.

    Raises:
        UsageError: There are less than two images, one of them is a folder or missing, or the output is not the name of
            a file, exists, or is an input.
    """
    if STANDARD_STREAM in inputs or output == STANDARD_STREAM:
        raise UsageError("--burst reads and writes files, not '-'")
    if output is None:
        raise UsageError("--burst makes one image: expected -o FILE")
    if Path(output).is_dir() or output.endswith(("/", os.sep)):
        raise UsageError(f"--burst makes one image: expected -o FILE, not the folder {output}")
    paths = list({identity(path): path for text in inputs for path in _images(text)}.values())
    folder = next((path for path in paths if path.is_dir()), None)
    if folder is not None:
        raise UsageError(f"{folder} is a folder; --burst needs the images themselves, such as {folder / '*.jpg'}")
    if len(paths) < 2:
        raise UsageError(f"--burst needs at least 2 images, not only {paths[0]}")
    clip = next((path for path in paths if is_video(path)), None)
    if clip is not None:
        raise UsageError(f"{clip} is a video; --burst needs images")
    return plan(
        [str(paths[0])],
        output,
        others=tuple(paths[1:]),
        image_format=image_format,
        compare=compare,
        report=report,
        overwrite=overwrite,
        skip_existing=skip_existing,
        video=video,
    )


def _images(text: str) -> Iterator[Path]:
    """The images of an input, which may be a glob or a pattern of numbered images."""
    for path in expanded(text):
        yield from files_of(path)
