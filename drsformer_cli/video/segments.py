"""The encoded part of a video on disk: segments that begin with a key frame, and a file that says what is in them.

A video is encoded segment by segment into a hidden folder beside the output. Each segment is complete or does not
exist, so an interrupted run loses one segment at most; `muxing` joins them without encoding again.
"""

from __future__ import annotations

import itertools
import json
import shutil
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from av.codec.context import Flags

from drsformer.files import atomic_write
from drsformer_cli.errors import VideoError
from drsformer_cli.lock import locked
from drsformer_cli.video.output import open_output
from drsformer_cli.video.planning import LOCK, STATE, was_begun, work_folder
from drsformer_cli.video.reading import ffmpeg_errors, frame_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from drsformer_cli.video.color import Planes
    from drsformer_cli.video.encoding import Encoding
    from drsformer_cli.video.reading import Stream

SEGMENT_FRAMES = 100
"""Frames of a segment, which is one group of pictures unless the scene changes."""


@dataclass(frozen=True)
class Segment:
    """A finished segment.

    Attributes:
        frames: Number of its frames.
        depth: How many places later than in the order of display a frame may be stored.
        end: Time of the end of its last frame, in the time base of the stream.
        shots: Frames, counted from the beginning of the video, from which on another scale is used, and that scale.
        sizes: Sizes of its files in bytes, one for each track.
        change: Sum of the mean absolute differences of its frames from those of the input, on a scale of 255.
    """

    frames: int
    depth: int
    end: int
    shots: list[tuple[int, float]]
    sizes: list[int]
    change: float


@dataclass
class Work:
    """The segments of an output.

    Attributes:
        folder: Where they are.
        identity: What the result depends on; work is resumed only if it is the same.
        tracks: Suffixes of the files of a segment, one for each track.
        segments: The finished segments.
        damaged: How many finished segments cannot be used, since the file of one is missing or has another size.
    """

    folder: Path
    identity: Mapping[str, Any]
    tracks: Sequence[str]
    segments: list[Segment] = field(default_factory=list)
    damaged: int = 0

    @classmethod
    def begin(cls, target: Path, identity: Mapping[str, Any], tracks: Sequence[str], *, resume: bool) -> Work:
        """Load the finished segments, or start anew.

        Raises:
            VideoError: The segments are those of another input, or were made with other settings.
            OSError: The folder cannot be read or removed.
        """
        work = cls(work_folder(target), json.loads(json.dumps(identity)), tracks)
        if not resume or not was_begun(target):
            work.remove()
            return work
        try:
            state = json.loads((work.folder / STATE).read_bytes())
            segments = [Segment(**row) for row in state["segments"]]
            earlier = dict(state["identity"])
        except (ValueError, TypeError, KeyError):
            raise VideoError(f"cannot be resumed: {work.folder / STATE} is damaged; delete {work.folder}") from None
        for name, value in work.identity.items():
            if earlier.get(name) != value:
                values = [_said(earlier.get(name)), _said(value)]
                known = f" ({values[0]} then, {values[1]} now)" if max(map(len, values)) < 30 else ""
                raise VideoError(
                    f"cannot be resumed: {name} has changed{known}; use the settings of the first run, "
                    f"or delete {work.folder}"
                )
        whole = itertools.takewhile(lambda row: work.is_whole(*row), enumerate(segments))
        work.segments = [segment for _, segment in whole]
        work.damaged = len(segments) - len(work.segments)
        return work

    def is_whole(self, number: int, segment: Segment) -> bool:
        """Whether the files of a segment have the sizes with which they were written."""
        try:
            return self.sizes(number) == segment.sizes
        except FileNotFoundError:
            return False

    @property
    def frames(self) -> int:
        """Frames of the finished segments."""
        return sum(segment.frames for segment in self.segments)

    def scale_at(self, frame: int) -> float | None:
        """The scale of a frame; None: unknown."""
        shots = [shot for segment in self.segments for shot in segment.shots]
        return next((scale for first, scale in reversed(shots) if first <= frame), None)

    def path(self, number: int, track: str) -> Path:
        """The file of a segment."""
        return self.folder / f"{number:06d}{track}.nut"

    def sizes(self, number: int) -> list[int]:
        """Sizes of the files of a segment in bytes."""
        return [self.path(number, track).stat().st_size for track in self.tracks]

    def add(self, segment: Segment) -> None:
        """Note a segment whose files are complete."""
        self.segments.append(segment)
        state = {"identity": self.identity, "segments": [asdict(row) for row in self.segments]}
        with atomic_write(self.folder / STATE) as file:
            file.write(json.dumps(state).encode())

    def remove(self) -> None:
        """Delete what is in the folder, but for its lock."""
        (self.folder / STATE).unlink(missing_ok=True)  # first: nothing counts without it
        for path in self.folder.iterdir():
            if path.name != LOCK:
                path.unlink()


@contextmanager
def alone(target: Path) -> Iterator[None]:
    """Create the folder of an output, and lock it against other processes; in the end, keep it if it has segments.

    Raises:
        VideoError: Another process is writing the output.
        OSError: The folder cannot be created.
    """
    folder = work_folder(target)

    def refuse() -> None:
        raise VideoError(f"another process is writing {target}")

    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / LOCK, refuse))
        except OSError as error:
            raise OSError(error.errno, f"{folder}: cannot be written: {error.strerror}") from None
        try:
            yield
        finally:
            stack.close()  # Windows deletes no open file
            if not was_begun(target):
                shutil.rmtree(folder, ignore_errors=True)


def _said(value: object) -> str:
    """The value of an option, for the user."""
    return {"None": "not set", "False": "off", "True": "on"}.get(str(value), str(value))


class _TrackWriter:
    """Encodes the frames of a segment into one file."""

    def __init__(self, path: Path, encoding: Encoding, stream: Stream, stack: ExitStack) -> None:
        self._encoding, self._stream = encoding, stream
        self._file = stack.enter_context(atomic_write(path))
        self._output = open_output(self._file, "nut", {"avoid_negative_ts": "disabled"})
        stack.callback(self._output.close)
        self._video: Any = None
        self._times: list[int] = []

    def write(self, planes: Planes, time: int, duration: int) -> None:
        if self._video is None:
            self._video = self._added(planes)
        frame = frame_of(planes, self._encoding.pixel_format, self._stream.tags)
        frame.pts, frame.duration, frame.time_base = time, duration, self._stream.time_base
        self._mux(self._video.encode(frame))

    def finish(self) -> int:
        """Encode what is left; the number of places that a frame is stored later than it is shown."""
        self._mux(self._video.encode(None))
        self._output.close()
        order = {time: rank for rank, time in enumerate(sorted(self._times))}
        return max(place - order[time] for place, time in enumerate(self._times))

    def _added(self, planes: Planes) -> Any:  # noqa: ANN401
        assert self._encoding.codec is not None  # noqa: S101
        video: Any = self._output.add_stream(
            self._encoding.codec.encoder, rate=self._stream.rate.limit_denominator(1001), options=self._encoding.options
        )
        context = video.codec_context
        context.height, context.width = planes[0].shape
        context.pix_fmt = self._encoding.pixel_format.name
        context.time_base = self._stream.time_base
        context.gop_size = SEGMENT_FRAMES
        tags = self._stream.tags
        context.colorspace, context.color_range = tags.matrix, tags.range
        context.color_primaries, context.color_trc = tags.primaries, tags.transfer
        if self._stream.aspect:
            context.sample_aspect_ratio = self._stream.aspect
        if not self._encoding.global_header:
            context.flags &= ~Flags.global_header
        return video

    def _mux(self, packets: Sequence[Any]) -> None:
        for packet in packets:
            self._times.append(packet.pts)
            self._output.mux(packet)


class SegmentsWriter:
    """Encodes frames into segments, each track into files of its own.

    Args:
        work: Where the segments go.
        encoding: How frames are stored.
        stream: Facts of the input.
    """

    def __init__(self, work: Work, encoding: Encoding, stream: Stream) -> None:
        self.work = work
        self._encoding, self._stream = encoding, stream
        self._stack = ExitStack()
        self._writers: list[_TrackWriter] = []
        self._shots: list[tuple[int, float]] = []
        self._count = self._end = 0
        self._change = 0.0

    def write(
        self, tracks: Sequence[Planes], time: int, duration: int, shot: tuple[int, float] | None, change: float
    ) -> None:
        """Encode a frame of each track; see `Segment` for the last two.

        Raises:
            VideoError: The encoder fails.
            OSError: A file cannot be written.
        """
        with self._errors():
            if not self._writers:
                self.work.folder.mkdir(parents=True, exist_ok=True)
                number = len(self.work.segments)
                self._writers = [
                    _TrackWriter(self.work.path(number, track), self._encoding, self._stream, self._stack)
                    for track in self.work.tracks
                ]
            for writer, planes in zip(self._writers, tracks, strict=True):
                writer.write(planes, time, duration)
        if shot is not None:
            self._shots.append(shot)
        self._count, self._end, self._change = self._count + 1, time + duration, self._change + change
        if self._count == SEGMENT_FRAMES:
            self.finish()

    def finish(self) -> None:
        """Complete the segment."""
        if not self._writers:
            return
        with self._errors():
            depth = max(writer.finish() for writer in self._writers)
            self._stack.close()
            sizes = self.work.sizes(len(self.work.segments))
            self.work.add(Segment(self._count, depth, self._end, self._shots, sizes, self._change))
        self._writers, self._shots, self._count, self._change = [], [], 0, 0.0

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            with ffmpeg_errors("cannot be encoded"):
                yield
        except OSError as error:
            raise OSError(error.errno, f"{self.work.folder}: cannot be written: {error.strerror}") from None

    def discard(self, error: BaseException) -> None:
        """Throw away the segment that is not finished."""
        with suppress(Exception):  # what is thrown away may be unwritable
            self._stack.__exit__(type(error), error, error.__traceback__)
