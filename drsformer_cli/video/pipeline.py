"""Videos in, restored videos out: while a frame is restored, later ones are decoded and earlier ones encoded.

A few frames are in memory at a time, however long the video is.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from drsformer.images import upright
from drsformer.temporal import CONTEXT, restore_frames
from drsformer_cli import __version__, console
from drsformer_cli.deraining.pipeline import make_writable, mean_change, output_file
from drsformer_cli.errors import IMAGE_ERRORS, UsageError, VideoError
from drsformer_cli.images import limit
from drsformer_cli.video import color
from drsformer_cli.video.encoding import choose_encoding
from drsformer_cli.video.formats import CONTAINER_OF_ENDING, files_of, is_pattern
from drsformer_cli.video.muxing import Window, join
from drsformer_cli.video.planning import was_begun
from drsformer_cli.video.reading import HLG, Frame, Reader, turned_back
from drsformer_cli.video.segments import SegmentsWriter, Work, alone
from drsformer_cli.video.sequence import SequenceReader, SequenceWriter
from drsformer_cli.video.threads import Behind, ahead

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
    from pathlib import Path

    from drsformer.inference import Restorer
    from drsformer.temporal import RestoredFrame
    from drsformer_cli.deraining.plan import Job
    from drsformer_cli.video.color import Planes, Rgb
    from drsformer_cli.video.encoding import Encoding
    from drsformer_cli.video.options import VideoSettings

_AHEAD = 3  # frames that wait for the network, and as many that wait for the encoder
_HEAD_BYTES = 1 << 20  # of the input, to recognize it when work is resumed


@dataclass(frozen=True)
class WrittenVideo:
    """A video that was written.

    Attributes:
        width: Width of the frames.
        height: Height of the frames.
        frames: Number of frames.
        resumed: How many of them an earlier run had restored.
        seconds: Time of this run.
        scales: The scales at which the rain was removed, in order, without repetitions.
        mean_change: Mean absolute difference of all values, on a scale of 255.
        notes: What reading and writing had to change, one line each.
        problem: Why the video is not complete. None: it is.
    """

    width: int
    height: int
    frames: int
    resumed: int
    seconds: float
    scales: tuple[float, ...]
    mean_change: float
    notes: tuple[str, ...]
    problem: str | None

    @property
    def is_complete(self) -> bool:
        """Whether the input was read to its end."""
        return self.problem is None

    @property
    def frames_per_second(self) -> float:
        """Frames that this run restored in a second."""
        return (self.frames - self.resumed) / self.seconds if self.seconds else 0.0

    def facts(self, model: str) -> dict[str, object]:
        """What --json says, with the name of the model."""
        return {
            "seconds": round(self.seconds, 3),
            "megapixels": round(self.width * self.height / 1e6, 3),
            "frames": self.frames,
            "frames_per_second": round(self.frames_per_second, 3),
            "resumed_frames": self.resumed,
            "scales": list(self.scales),
            "model": model,
            "mean_change": round(self.mean_change, 3),
            **({"incomplete": self.problem} if self.problem else {}),
        }

    def summary(self) -> str:
        """One line for people."""
        resumed = f", {self.resumed} of them earlier" if self.resumed else ""
        frames = f"{self.frames} frame{'s' * (self.frames != 1)} of {self.width}x{self.height}"
        return f"{frames}{resumed} in {self.seconds:.1f} s ({self.frames_per_second:.2f} frames/s)"


class _Sink(Protocol):
    """Takes restored frames."""

    def write(self, frame: Frame, pixels: Rgb, shot: tuple[int, float] | None, change: float) -> None:
        """Take the next frame; `shot` is its number and scale where these are new, `change` its `mean_change`."""


def derain_videos(
    jobs: Sequence[Job],
    restorer: Restorer,
    settings: VideoSettings,
    identity: Mapping[str, Any],
    *,
    quality: int,
    overwrite: bool,
    progress: Callable[[Job, float, str], None],
    done: Callable[[Job, WrittenVideo], None] | None = None,
) -> Generator[tuple[Job, Future[WrittenVideo]]]:
    """Restore videos, one after the other; see `derain_video`, and `derain` of `deraining.pipeline` for `done`.

    Yields:
        Each job with its result, or with one of the `IMAGE_ERRORS`.
    """
    for job in jobs:
        writing: Future[WrittenVideo] = Future()
        try:
            written = derain_video(
                job,
                restorer,
                settings,
                identity=identity,
                quality=quality,
                overwrite=overwrite,
                progress=lambda share, text, job=job: progress(job, share, text),  # type: ignore[misc]
                say=lambda text, job=job: console.say(f"{job.name}: {text}"),  # type: ignore[misc]
            )
        except IMAGE_ERRORS as error:
            writing.set_exception(error)
        else:
            writing.set_result(written)
            if done is not None:
                done(job, written)
        yield job, writing


def derain_video(
    job: Job,
    restorer: Restorer,
    settings: VideoSettings,
    *,
    identity: Mapping[str, Any],
    quality: int,
    overwrite: bool,
    progress: Callable[[float, str], None],
    say: Callable[[str], None],
) -> WrittenVideo:
    """Restore a video.

    Args:
        job: What to read and where to write it.
        restorer: The network and its settings.
        settings: The options for videos.
        identity: What else the result depends on: the model and its settings.
        quality: Quality of frames that are written as images.
        overwrite: Whether existing files may be replaced.
        progress: Called with the share of frames that are done, and a text about them.
        say: Called with a line for the user if the run ends early and finished segments are kept.

    Raises:
        VideoError: The video cannot be read or written.
        OSError: A file cannot be read or written.
    """
    if job.source is None or job.target is None:
        raise UsageError("a video is read from a file and written to a file")
    make_writable(job.target.parent)
    if settings.resume:
        overwrite = overwrite or was_begun(job.target)  # whoever began it was allowed to
    reader: Reader | SequenceReader = (
        SequenceReader(job.source, settings) if is_pattern(job.source) else Reader(job.source, settings)
    )
    with contextlib.closing(reader):
        limit.check(reader.stream.width * reader.stream.height)
        container = CONTAINER_OF_ENDING.get(job.target.suffix.lower())
        if container is not None and not container.variable:
            reader.stream.time_base, reader.stream.is_constant = 1 / reader.stream.rate, True
        encoding = choose_encoding(reader.stream, container, settings)
        run = _Run(job, reader, restorer, settings, encoding, progress, say)
        if container is None:
            return run.into_images(quality=quality, overwrite=overwrite)
        with alone(job.target):
            return run.into_video(identity, overwrite=overwrite)


class _Run:
    """The restoration of one video."""

    def __init__(
        self,
        job: Job,
        reader: Reader | SequenceReader,
        restorer: Restorer,
        settings: VideoSettings,
        encoding: Encoding,
        progress: Callable[[float, str], None],
        say: Callable[[str], None],
    ) -> None:
        self._job, self._reader, self._restorer = job, reader, restorer
        self._settings, self._encoding, self._progress, self._say = settings, encoding, progress, say
        self._begin = time.perf_counter()
        self._scales: list[float] = []
        self._change = 0.0
        self._count = 0

    def into_images(self, *, quality: int, overwrite: bool) -> WrittenVideo:
        """Write numbered images."""
        if self._reader.stream.tags.transfer == HLG:
            raise VideoError("is HDR (HLG), which images cannot hold; expected a name such as .mp4 for the output")
        paths = [path for path in (self._job.target, self._job.comparison) if path is not None]
        writers = [SequenceWriter(path, quality=quality, overwrite=overwrite) for path in paths]
        self._restore(_ImagesSink(writers, self._settings), done=0, scale=None)
        return self._written(0, writers[0].notes)

    def into_video(self, identity: Mapping[str, Any], *, overwrite: bool) -> WrittenVideo:
        """Write a video file."""
        target = self._job.target
        assert target is not None  # noqa: S101 - checked by derain_video
        work = Work.begin(target, {**identity, **self._identity()}, self._tracks(), resume=self._settings.resume)
        done = work.frames
        self._change = sum(segment.change for segment in work.segments)
        if work.damaged:
            self._say(f"kept frames from frame {done + 1} on are damaged; they are restored again")
        sink = _VideoSink(work, self._reader, self._encoding)
        self._scales = list(dict.fromkeys(scale for segment in work.segments for _, scale in segment.shots))
        try:
            self._restore(sink, done, work.scale_at(max(0, done - CONTEXT)))
            sink.writer.finish()
            notes = self._join(work, overwrite=overwrite)
        except BaseException as error:  # interrupts included
            sink.writer.discard(error)
            if work.segments:
                self._say(f"{work.frames} frames are kept in {work.folder}; --resume continues with them")
            raise
        work.remove()
        return self._written(done, notes)

    def _tracks(self) -> list[str]:
        """Suffixes of the files of a segment: restored, and side by side with the input."""
        if self._settings.preview:
            return ["_compare"]
        return ["", "_compare"] if self._job.comparison is not None else [""]

    def _join(self, work: Work, *, overwrite: bool) -> list[str]:
        stream = self._reader.stream
        end = work.segments[-1].end * stream.time_base
        cut = self._settings.end is not None
        window = Window(self._reader.offset, cut_before=self._settings.start > 0, length=end if cut else None)
        source = self._reader.path if isinstance(self._reader, Reader) else None
        notes: list[str] = []
        targets = [path for path in (self._job.target, self._job.comparison) if path is not None]
        for path, track in zip(targets, self._tracks(), strict=True):
            with output_file(path, overwrite=overwrite, folder=work.folder) as file:
                notes = join(file, work, track, self._encoding, stream, source, window)
        return notes

    def _restore(self, sink: _Sink, done: int, scale: float | None) -> None:
        """Restore the frames after the first `done` ones, which were restored earlier."""
        first = max(0, done - CONTEXT)
        waiting: deque[Frame] = deque()

        def rainy(frames: Iterator[Frame]) -> Generator[Rgb]:
            for frame in frames:
                waiting.append(frame)
                yield frame.pixels

        def write(item: tuple[Frame, Rgb, tuple[int, float] | None, float]) -> None:
            sink.write(*item)

        self._count = done
        pixel_format = self._encoding.pixel_format
        needs_planes = self._encoding.container is not None or isinstance(self._reader, Reader)
        frames = self._reader.frames(pixel_format if needs_planes else None, first)  # type: ignore[arg-type]
        with contextlib.closing(ahead(frames, _AHEAD)) as decoded, Behind(write, _AHEAD) as encoder:
            restored = restore_frames(rainy(decoded), self._restorer, temporal=self._settings.temporal, scale=scale)
            for number, after in enumerate(restored, first):
                before = waiting.popleft()
                if number < done:
                    continue
                change = mean_change(before.pixels, after.image)
                encoder.add((before, after.image, self._shot(number, after, is_first=number == done), change))
                self._change += change
                self._count += 1
                self._say_progress(done)

    def _shot(self, number: int, frame: RestoredFrame, *, is_first: bool) -> tuple[int, float] | None:
        scale = float(frame.scale)
        if not (is_first or frame.starts_shot or scale != self._scales[-1]):
            return None
        if not self._scales or scale != self._scales[-1]:
            self._scales.append(scale)
        return number, scale

    def _say_progress(self, done: int) -> None:
        total = self._reader.stream.frames
        speed = (self._count - done) / (time.perf_counter() - self._begin)
        of = f" of {total}" if total else ""
        share = min(1.0, self._count / total) if total else 0.0
        self._progress(share, f"frame {self._count}{of}, {speed:.2f} frames/s")

    def _identity(self) -> dict[str, Any]:
        """What segments depend on, by the names that messages use."""
        settings, encoding = self._settings, self._encoding
        assert encoding.codec is not None  # noqa: S101 - a video is written
        return {
            "the version of drsformer": __version__,
            "the input": _fingerprint(self._reader.path),
            "--codec": encoding.codec.name,
            "--crf": encoding.options.get("crf"),
            "--start": str(settings.start),
            "--end": str(settings.end) if settings.end is not None else None,
            "--fps": str(self._reader.stream.rate),
            "--temporal": settings.temporal,
            "--preview": settings.preview,
            "--compare": self._job.comparison is not None,
            "the encoder": [encoding.pixel_format.name, encoding.options],
        }

    def _written(self, resumed: int, notes: list[str]) -> WrittenVideo:
        stream = self._reader.stream
        H, W = stream.height, stream.width
        if stream.orientation >= 5:
            H, W = W, H
        container = self._encoding.container
        if container is not None and not container.variable and self._reader.is_irregular:
            notes.append(f"frame rate made constant: {container.title} has no other")
        if stream.is_constant and self._reader.late:
            times = f"{self._reader.late} time{'s' * (self._reader.late != 1)}"
            notes.append(f"first frame repeated {times}, since the sound begins earlier")
        return WrittenVideo(
            W,
            H,
            self._count,
            resumed,
            time.perf_counter() - self._begin,
            tuple(self._scales),
            self._change / self._count,
            tuple(dict.fromkeys([*stream.notes, *self._encoding.notes, *notes])),
            self._reader.problem,
        )


class _VideoSink:
    """Encodes frames: the planes of the input, changed as the network changed its RGB."""

    def __init__(self, work: Work, reader: Reader | SequenceReader, encoding: Encoding) -> None:
        self.writer = SegmentsWriter(work, encoding, reader.stream)
        self._coding = reader.coding(encoding.pixel_format)
        self._orientation = reader.stream.orientation
        self._tracks = work.tracks

    def write(self, frame: Frame, pixels: Rgb, shot: tuple[int, float] | None, change: float) -> None:
        """Encode a frame."""
        assert frame.planes is not None  # noqa: S101 - frames for videos have planes
        before, after = (
            np.ascontiguousarray(turned_back(image, self._orientation)) for image in (frame.pixels, pixels)
        )
        planes = color.changed(frame.planes, before, after, self._coding)
        both = {"": planes}
        if "_compare" in self._tracks:
            both["_compare"] = self._side_by_side(frame.planes, planes)
        self.writer.write([both[track] for track in self._tracks], frame.time, frame.duration, shot, change)

    def _side_by_side(self, before: Planes, after: Planes) -> Planes:
        left, right = (tuple(upright(plane, self._orientation) for plane in planes) for planes in (before, after))
        return tuple(
            np.ascontiguousarray(turned_back(plane, self._orientation)) for plane in color.side_by_side(left, right)
        )


class _ImagesSink:
    """Writes frames as images."""

    def __init__(self, writers: list[SequenceWriter], settings: VideoSettings) -> None:
        self._writers, self._preview = writers, settings.preview

    def write(self, frame: Frame, pixels: Rgb, _shot: tuple[int, float] | None, _change: float) -> None:
        """Write a frame."""
        both = np.hstack([frame.pixels, pixels])
        for writer, image in zip(self._writers, [both] if self._preview else [pixels, both], strict=False):
            writer.write(frame, image)


def _fingerprint(path: Path) -> str:
    """A text that changes when the input does."""
    paths = files_of(path)
    digest = hashlib.sha256()
    for one in paths:
        status = one.stat()
        digest.update(f"{one.name} {status.st_size} {status.st_mtime_ns}\n".encode())
    with paths[0].open("rb") as file:
        digest.update(file.read(_HEAD_BYTES))
    return digest.hexdigest()
