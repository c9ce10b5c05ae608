"""Open a video and decode its frames."""

from __future__ import annotations

import contextlib
from collections import deque
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import numpy as np
from av.codec.context import Flags
from av.error import FFmpegError

from drsformer.images import upright
from drsformer_cli.errors import VideoError
from drsformer_cli.video import color
from drsformer_cli.video.color import Coding
from drsformer_cli.video.timeline import Timeline

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

    from drsformer_cli.images import DecodedImage
    from drsformer_cli.video.color import Planes, Rgb
    from drsformer_cli.video.encoding import PixelFormat
    from drsformer_cli.video.options import VideoSettings

_MISSING_SECONDS = 0.5
"""A video that ends this much before its header says was cut off."""

_EXACT_DURATIONS = ("matroska", "mov", "avi", "flv")  # the duration is in the header, not estimated

_BY_MATRIX = {
    (1, 0, 0, 1): 1,
    (-1, 0, 0, 1): 2,
    (-1, 0, 0, -1): 3,
    (1, 0, 0, -1): 4,
    (0, 1, 1, 0): 5,
    (0, 1, -1, 0): 6,
    (0, -1, -1, 0): 7,
    (0, -1, 1, 0): 8,
}
"""EXIF orientations by the signs of a display matrix: the new x and y of one step along a row, and along a column."""

_LOST = {
    "A53_CC": "closed captions",
    "DOVI_METADATA": "Dolby Vision data",
    "DYNAMIC_HDR_PLUS": "HDR10+ data",
    "SPHERICAL": "360-degree projection",
}
"""What FFmpeg finds beside the pixels of a frame, by PyAV's names."""

_BACK = {6: 8, 8: 6}

HLG, _PQ = 18, 16  # transfer functions
_INTERLACED = (2, 3, 4, 5)

_MOST_DAMAGED = 1000
"""Damaged packets after which nothing more is expected of a file."""


@dataclass(frozen=True)
class Tags:
    """How the colors of a video are to be shown, as FFmpeg's numbers; see AVColorSpace and the like."""

    matrix: int
    range: int
    primaries: int
    transfer: int


@dataclass
class Stream:
    """The video in a file, or a sequence of images.

    Attributes:
        width: Width of the stored frames.
        height: Height of the stored frames.
        pixel_format: FFmpeg's name of the pixel format.
        tags: How colors are shown.
        orientation: EXIF orientation that is applied when it is displayed.
        matrix: The whole display matrix, nine numbers. None: it is not rotated.
        time_base: Unit of the times of frames, in seconds.
        rate: Frames per second, at least nearly.
        frames: Number of frames, at least nearly. None: unknown.
        aspect: Width of a pixel divided by its height. None: unknown.
        notes: What the user should know.
        is_constant: Whether the frame rate is made constant, and `time_base` is the time of a frame.
    """

    width: int
    height: int
    pixel_format: str
    tags: Tags
    time_base: Fraction
    rate: Fraction
    frames: int | None
    orientation: int = 1
    matrix: list[int] | None = None
    aspect: Fraction | None = None
    notes: list[str] = field(default_factory=list)
    is_constant: bool = False


@dataclass(frozen=True)
class Frame:
    """A frame.

    Attributes:
        pixels: RGB, upright, (H, W, 3), uint8 or uint16: what the network gets.
        time: In units of the stream's time base, 0 at the first frame.
        duration: In the same unit.
        planes: As it is stored. None: it was read from an image, and no video is written.
        image: The image that it was read from.
        number: Number of that image.
    """

    pixels: Rgb
    time: int
    duration: int
    planes: Planes | None = None
    image: DecodedImage | None = None
    number: int | None = None


@contextlib.contextmanager
def ffmpeg_errors(what: str) -> Iterator[None]:
    """Replace errors of FFmpeg, except those of the system such as a full disk, by a VideoError."""
    try:
        yield
    except FFmpegError as error:
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror) from None
        raise VideoError(f"{what}: {error.strerror}") from None


class Reader:
    """A video file.

    Attributes:
        stream: Facts of the video stream.
        container: The open file.
        offset: Time in the file, in seconds, that is 0 in the output; known when a frame has been read.
        problem: Why the video could not be read to its end. None: it was, or is still being read.
        is_irregular: Whether times of frames that were read are not one unit of the stream's time base apart.
        late: Time of the first frame in the output, in the same unit; known when it has been read.

    Raises:
        VideoError: It is not a video that can be read.
        OSError: The file cannot be read.
    """

    def __init__(self, path: Path, settings: VideoSettings) -> None:
        self.path = path
        self.settings = settings
        self.problem: str | None = None
        self.offset = Fraction(0)
        if path.exists() and not path.is_file():
            raise VideoError("is a pipe or a device; a video is read more than once, so expected a file")
        with path.open("rb"):
            pass  # errors of the system, in Python's words
        self.is_irregular = False
        self.late = 0
        self._lost: set[str] = set()
        self._open()
        try:
            self.stream = self._facts()
        finally:
            self.container.close()
        self._open()  # at the first frame again, in formats that cannot be searched too

    def _open(self) -> None:
        """Open the file.

        AVI has no times of display, and FFmpeg's guesses may be late, or those of other frames. Its frames come out in
        the order of display, so they get the times at which they are stored, `_slots`, in order.
        """
        self.container = open_input(self.path)
        self._video = best_stream(self.container)
        if self._video.codec_context is not None:
            self._video.codec_context.thread_type = "AUTO"
            self._video.codec_context.flags |= Flags.unaligned  # crop every column that the codec says, not 32 at once
        self._start = Fraction(self.container.start_time or 0, av.time_base)
        self._slots: deque[int] | None = deque() if self.container.format.name == "avi" else None
        self._timeline = Timeline(self.container)
        self.problem = None
        self._is_broken = False

    def close(self) -> None:
        """Close the file."""
        self.container.close()

    def frames(self, pixel_format: PixelFormat, skip: int = 0) -> Iterator[Frame]:
        """Decode the frames between --start and --end, without the first `skip` ones.

        Raises:
            VideoError: There are none.
        """
        coding = self.coding(pixel_format)
        count, last, fraction = 0, -1, Fraction(0)
        for frame in self._selected():
            if count == 0:
                self.offset = self._seconds(frame) if self.settings.start > 0 else self._start
            ticks_exactly = (self._seconds(frame) - self.offset) / self.stream.time_base
            if count == 0 and self.stream.is_constant:
                fraction = max(ticks_exactly, Fraction(0)) % 1  # less than a frame: the video begins that much earlier
            ticks = round(ticks_exactly - fraction)
            if count == 0:
                self.late = max(0, ticks)
            self._lost |= _lost(frame)
            self.is_irregular |= count > 0 and ticks != last + 1
            last = max(ticks, last + 1)  # times must increase
            count += 1
            if count > skip:
                planes = planes_of(self._of_one_size(frame), pixel_format, self.stream.tags)
                pixels = np.ascontiguousarray(upright(color.to_rgb(planes, coding), self.stream.orientation))
                yield Frame(pixels, last, self._ticks(frame), planes)
        self.stream.notes.extend(f"{what} dropped" for what in sorted(self._lost))
        if self._timeline.breaks:
            times = f"{self._timeline.breaks} time{'s' * (self._timeline.breaks != 1)}"
            self.stream.notes.append(f"its times begin again {times}, as in files that were put together; they go on")
        if count == 0:
            raise VideoError(self.problem or "has no frames in that time" if self._is_cut() else "has no frames")

    def _of_one_size(self, frame: VideoFrame) -> VideoFrame:
        """The frame, scaled to the size of the first one of the file if it has another."""
        width, height = self.stream.width, self.stream.height
        if (frame.width, frame.height) == (width, height):
            return frame
        note = f"its size changes; frames of {frame.width}x{frame.height} are scaled to {width}x{height}"
        if note not in self.stream.notes:
            self.stream.notes.append(note)
        return frame.reformat(width=width, height=height, interpolation="BICUBIC", threads=1)

    def coding(self, pixel_format: PixelFormat) -> Coding:
        """How the planes of a frame are coded."""
        matrix = color.matrix_of(self.stream.tags.matrix, self.stream.width, self.stream.height)
        return Coding(matrix, self.stream.tags.range == 2, pixel_format.bits)

    def _is_cut(self) -> bool:
        return self.settings.start > 0 or self.settings.end is not None

    def _seconds(self, frame: VideoFrame) -> Fraction:
        return (frame.pts or 0) * (frame.time_base or self.stream.time_base)

    def _ticks(self, frame: VideoFrame) -> int:
        """How long a frame is shown, in the stream's time base; a nominal time if the file does not say."""
        if not frame.duration:
            return max(1, round(1 / (self.stream.rate * self.stream.time_base)))
        return max(1, round(frame.duration * (frame.time_base or self.stream.time_base) / self.stream.time_base))

    def _selected(self) -> Iterator[VideoFrame]:
        """The frames between --start and --end."""
        begin = self._start + self.settings.start
        end = self._start + self.settings.end if self.settings.end is not None else None
        tolerance = self.stream.time_base / 2
        for frame in self._from(begin):
            time = self._seconds(frame)
            if end is not None and time >= end - tolerance:
                return
            if time >= begin - tolerance or self.settings.start == 0:
                self._is_broken |= frame.is_corrupt
                yield frame

    def _from(self, begin: Fraction) -> Iterator[VideoFrame]:
        """The frames from the last key frame before a time; from the beginning if the file cannot be searched.

        Nor can AVI whose frames are stored in another order: key frames may be followed by frames shown before them.
        """
        is_reordered = self._video.codec_context is not None and self._video.codec_context.has_b_frames
        if self.settings.start > 0 and (self._slots is None or not is_reordered):
            with contextlib.suppress(FFmpegError):
                self.container.seek(int(begin / (self._video.time_base or 1)), stream=self._video)
                frames = self._decoded()
                first = next(frames, None)
                if first is not None and self._seconds(first) <= begin:
                    yield first
                    yield from frames
                    return
            self.container.close()
            self._open()
        yield from self._decoded()

    def _decoded(self) -> Iterator[VideoFrame]:
        """All frames from here on; at the end, `problem` says whether some are missing."""
        damaged, end, following = 0, Fraction(0), 0
        missing = _MissingFrames(self._video)
        packets = self._timeline.packets()
        while True:
            try:
                packet = next(packets, None)
                if packet is None:
                    break
                frames = self._frames_of(packet)
            except FFmpegError as error:
                damaged += 1
                if isinstance(error, OSError) or damaged > _MOST_DAMAGED:
                    break
                continue
            self._is_broken |= packet.is_corrupt and packet.stream.index == self._video.index
            if packet.pts is not None:
                end = max(end, packet.pts * packet.time_base + self._length(packet))
                missing.add(packet, self._timeline.breaks)
            for frame in frames:
                if frame.pts is None:
                    frame.pts = following
                following = frame.pts + (frame.duration or 1)
                yield frame
        self.problem = self._problem(damaged, missing.count, end)

    def _problem(self, damaged: int, lost: int, end: Fraction) -> str | None:
        """Why the video that ended after some damaged and some lost packets is not complete; None: it is."""
        missing = self._missing_after(end)
        if missing > _MISSING_SECONDS:
            return f"cut off: the last {float(missing):.1f} seconds are missing"
        if damaged:
            return f"damaged: {damaged} packet{'s' * (damaged != 1)} could not be decoded"
        if lost:
            return f"damaged: {lost} frame{'s are' if lost != 1 else ' is'} missing"
        return "damaged: some frames are incomplete" if self._is_broken else None

    def _frames_of(self, packet: Any) -> list[VideoFrame]:  # noqa: ANN401
        """The frames that a packet completes; none if it is that of another stream, or empty."""
        if packet.stream.index != self._video.index:
            return []
        has_time = packet.pts is not None or packet.dts is not None
        if has_time and not packet.size:  # the frame before it is shown for longer, as in Theora
            return []
        if packet.has_sidedata("encryption_info"):
            raise VideoError("is encrypted")
        has_slot = self._slots is not None and packet.dts is not None
        if has_slot:
            self._slots.append(packet.dts)  # type: ignore[union-attr]
        decoded: list[VideoFrame] = []
        try:
            with contextlib.suppress(EOFError):
                decoded = packet.decode()
        except FFmpegError:
            if has_slot:
                self._slots.remove(packet.dts)  # type: ignore[union-attr]
            raise
        for frame in decoded:
            if self._slots:
                frame.pts = self._slots.popleft()
        return decoded

    def _length(self, packet: Any) -> Fraction:  # noqa: ANN401
        """Seconds that a packet lasts."""
        if packet.duration:
            return Fraction(packet.duration * packet.time_base)
        if packet.stream.index == self._video.index and self._video.guessed_rate:
            return 1 / self._video.guessed_rate
        return sound_length(packet) if packet.stream.type == "audio" else Fraction(0)

    def _missing_after(self, end: Fraction) -> Fraction:
        """Seconds between the last packet and the end according to the header."""
        if not self.container.duration or not self.container.format.name.startswith(_EXACT_DURATIONS):
            return Fraction(0)
        seconds = Fraction(self.container.duration, av.time_base)
        if self.container.format.name == "avi":  # FFmpeg's shrinks with the file
            seconds = max(seconds, self._video.frames * (self._video.time_base or Fraction(0)))
        return seconds - end

    def _facts(self) -> Stream:
        video = self._video
        context = video.codec_context
        if context is None:
            raise VideoError("FFmpeg has no decoder for its codec")
        first = self._first_frame()
        tags = _tags(first, context)
        rate = video.guessed_rate or video.average_rate or Fraction(25)
        matrix = _display_matrix(first)
        if matrix is not None and _orientation(matrix) == 1:
            matrix = None
        notes = []
        if matrix is not None and _orientation(matrix) is None:
            notes.append("is displayed rotated by an angle that is not a multiple of 90 degrees; it is kept")
        if first.interlaced_frame or context.field_order in _INTERLACED:
            notes.append(
                "is interlaced: both fields are restored together, and written as whole frames; "
                "deinterlace it first for a better result"
            )
        if tags.transfer == _PQ:
            raise VideoError("is HDR (PQ); expected SDR or HLG")
        if tags.transfer == HLG:
            notes.append("is HDR (HLG) and stays HDR; the models were trained on SDR")
        others = [row for row in self.container.streams.video if row.index != video.index]
        if video.metadata.get("alpha_mode") == "1":  # in WebM, which FFmpeg decodes without it
            notes.append("transparency dropped")
        if any(not row.disposition & av.stream.Disposition.attached_pic for row in others):
            notes.append("has several video streams; only the main one is kept")
        return Stream(
            width=first.width,
            height=first.height,
            pixel_format=first.format.name,
            tags=tags,
            time_base=video.time_base or Fraction(1, 90_000),
            rate=rate,
            frames=self._count(rate),
            orientation=(_orientation(matrix) if matrix is not None else None) or 1,
            matrix=matrix,
            aspect=video.sample_aspect_ratio,
            notes=notes,
        )

    def _first_frame(self) -> VideoFrame:
        frame = next(self._decoded(), None)
        if frame is None:
            raise VideoError(self.problem or "has no frames")
        return frame

    def _count(self, rate: Fraction) -> int | None:
        """The number of frames between --start and --end, at least nearly."""
        seconds = Fraction(self.container.duration or 0, av.time_base)
        if self._video.frames and not self._is_cut():
            return self._video.frames
        end = (
            min(seconds, self.settings.end)
            if self.settings.end is not None and seconds
            else (self.settings.end or seconds)
        )
        return max(1, round((end - self.settings.start) * rate)) if end > self.settings.start else None


class _MissingFrames:
    """Counts the frames that are not there in a format that stores each one, also one that repeats the one before it.

    Of the others, FFmpeg does not say what it passes over where a file is damaged, and a time without a frame may be
    meant. In Ogg, it passes over a whole page for one wrong bit.

    Attributes:
        count: How many frames are not there so far.

    Args:
        video: The stream.
    """

    def __init__(self, video: VideoStream) -> None:
        self.count = 0
        self._video = video
        self._is_counted = video.codec_context is not None and video.codec_context.name == "theora"
        self._last: int | None = None
        self._breaks = 0

    def add(self, packet: Any, breaks: int) -> None:  # noqa: ANN401
        """See the next packet of the file, in which times began again so often up to here."""
        if not self._is_counted or packet.stream.index != self._video.index:
            return
        if self._last is not None and breaks == self._breaks:  # times are counted in frames
            self.count += max(0, packet.pts - self._last - 1)
        self._last, self._breaks = packet.pts, breaks


def open_input(path: Path) -> InputContainer:
    """Open a video; see `open_file`.

    Raises:
        VideoError: It is not a video, or it is damaged.
        OSError: It cannot be read.
    """
    what = "its index is missing, so it was cut off or never finished" if _lacks_index(path) else "not a video"
    with ffmpeg_errors(what):
        try:
            return open_file(path)
        except OSError:  # also of Matroska that ends within its header
            _read_through(path)
            raise VideoError("its header is damaged or cut off") from None


def _read_through(path: Path) -> None:
    """Read a file, so that an error of the system is raised."""
    with path.open("rb") as file:
        while file.read(1 << 20):
            pass


def open_file(path: Path, container_format: str | None = None) -> InputContainer:
    """Open a file with FFmpeg, whatever its name, which may open no other one and no address.

    Args:
        path: The file.
        container_format: FFmpeg's name of the demuxer. None: it is found by the content.
    """
    options = {"protocol_whitelist": "file"}
    return av.open(f"file:{path}", "r", format=container_format, options=options, metadata_errors="replace")


def _lacks_index(path: Path) -> bool:
    """Whether an MP4 or MOV file has no box `moov`."""
    boxes: list[bytes] = []
    at, end = 0, path.stat().st_size
    with path.open("rb") as file:
        while len(head := file.read(16)) >= 8 and len(boxes) < 1000:
            length, name = int.from_bytes(head[:4]), head[4:8]
            boxes.append(name)
            if length == 1:  # a long box
                length = int.from_bytes(head[8:16])
            if length < 8:
                break
            at += length
            if at > end:  # of no use, and perhaps too far for a seek
                break
            file.seek(at)
    return boxes[:1] == [b"ftyp"] and b"moov" not in boxes


def sound_length(packet: Any) -> Fraction:  # noqa: ANN401
    """Seconds that a packet of sound lasts, where the file does not say, as of WavPack and ALAC in Matroska."""
    if packet.stream.codec_context is not None:
        with contextlib.suppress(FFmpegError):
            return sum((Fraction(row.samples, row.sample_rate) for row in packet.decode()), Fraction(0))
    return Fraction(0)


def best_stream(container: InputContainer) -> VideoStream:
    """The video stream that is restored: the best one that is not a cover.

    Raises:
        VideoError: There is none.
    """
    covers = av.stream.Disposition.attached_pic
    videos = [row for row in container.streams.video if not row.disposition & covers]
    if not videos:
        kinds = sorted({row.type for row in container.streams})
        raise VideoError(f"has no video stream, only {' and '.join(kinds)}" if kinds else "has no video stream")
    best = container.streams.best("video")
    return next((row for row in videos if best is not None and row.index == best.index), videos[0])


def _tags(frame: VideoFrame, context: Any) -> Tags:  # noqa: ANN401
    def known(of_frame: int, of_stream: int) -> int:
        return of_frame if of_frame not in (0, color.UNSPECIFIED) else int(of_stream)

    matrix, primaries, transfer = (
        known(int(getattr(frame, name)), getattr(context, name))
        for name in ("colorspace", "color_primaries", "color_trc")
    )
    span = int(frame.color_range) or int(context.color_range)
    if frame.format.is_rgb or frame.format.has_palette:
        matrix, span = 1, 1  # what it is converted to
    elif matrix == 0:  # that of RGB, as FFmpeg says of gray PNG too
        matrix = color.UNSPECIFIED
    if frame.format.name.startswith("yuvj"):
        span = 2
    return Tags(matrix, span, primaries, transfer)


def _display_matrix(frame: VideoFrame) -> list[int] | None:
    try:
        data: Any = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV does not know all kinds of FFmpeg: EXIF in Motion JPEG, the views of spatial videos
        angle = np.deg2rad(frame.rotation)
        x, y = (round(65536 * float(of(angle))) for of in (np.cos, np.sin))
        return [x, -y, 0, y, x, 0, 0, 0, 1 << 30] if frame.rotation else None
    if data is None:
        return None
    matrix: list[int] = np.frombuffer(bytes(data), np.int32).tolist()
    return matrix


def _lost(frame: VideoFrame) -> set[str]:
    """What belongs to a frame and cannot be written with the restored one."""
    try:
        return {what for name, what in _LOST.items() if frame.side_data.get(name) is not None}
    except ValueError:  # see `_display_matrix`
        return set()


def _orientation(matrix: list[int]) -> int | None:
    """The EXIF orientation of a display matrix; None: another angle."""
    signs = [int(np.sign(matrix[i])) if abs(matrix[i]) > 1 << 12 else 0 for i in (0, 1, 3, 4)]
    return _BY_MATRIX.get((signs[0], signs[1], signs[2], signs[3]))


def turned_back(pixels: Rgb, orientation: int) -> Rgb:
    """The inverse of `upright`."""
    return upright(pixels, _BACK.get(orientation, orientation))


def planes_of(frame: VideoFrame, pixel_format: PixelFormat, tags: Tags) -> Planes:
    """The planes of a frame in another pixel format, with the same matrix and range."""
    if frame.format.is_rgb and max(component.bits for component in frame.format.components) < 8:
        frame = frame.reformat(format="rgb24", threads=1)  # FFmpeg makes YUV of it in which white is gray
    source = frame.format
    if source.name.replace("yuvj", "yuv") != pixel_format.name:
        matrix = {2: 5, 6: 5, 10: 9}.get(tags.matrix, tags.matrix)
        span = tags.range or 1
        frame = frame.reformat(
            format=pixel_format.name,
            src_colorspace=matrix,
            dst_colorspace=matrix,
            src_color_range=2 if source.is_rgb or source.has_palette else span,
            dst_color_range=span,
            interpolation="BICUBIC",
            threads=1,
        )
    is_gray = len(source.components) < 3 and not source.is_rgb and not source.has_palette
    kind = np.dtype(np.uint8 if pixel_format.bits == 8 else "<u2")
    planes = []
    for plane in frame.planes[:3]:
        rows = np.frombuffer(plane, kind).reshape(plane.height, plane.line_size // kind.itemsize)  # type: ignore[call-overload]
        planes.append(rows[:, : plane.width].copy())
    if is_gray:
        for plane in planes[1:]:
            plane[:] = 1 << (pixel_format.bits - 1)  # FFmpeg's is one less in the full range
    return tuple(planes)


def frame_of(planes: Planes, pixel_format: PixelFormat, tags: Tags) -> VideoFrame:
    """A frame that has these planes."""
    height, width = planes[0].shape
    frame = av.VideoFrame(width, height, pixel_format.name)
    for plane, values in zip(frame.planes, planes, strict=True):
        rows = np.frombuffer(plane, values.dtype).reshape(plane.height, plane.line_size // values.dtype.itemsize)  # type: ignore[call-overload]
        rows[:, : plane.width] = values
    frame.colorspace, frame.color_range = tags.matrix, tags.range
    frame.color_primaries, frame.color_trc = tags.primaries, tags.transfer
    return frame
