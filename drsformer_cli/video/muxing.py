"""Join the segments of a video with the sound and the other streams of the input, without encoding anything again."""

from __future__ import annotations

import contextlib
import heapq
import io
import itertools
from collections import deque
from fractions import Fraction
from typing import IO, TYPE_CHECKING, Any

import av
from av.error import FFmpegError
from av.stream import AttachmentStream, Discard, Disposition

from drsformer_cli.errors import VideoError
from drsformer_cli.formats import listed
from drsformer_cli.video.formats import CONTAINERS, DEFAULT_ENDING
from drsformer_cli.video.output import open_output
from drsformer_cli.video.reading import best_stream, ffmpeg_errors, open_file, open_input, sound_length
from drsformer_cli.video.timeline import Timeline

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from av.container import InputContainer, OutputContainer
    from av.video.stream import VideoStream

    from drsformer_cli.video.encoding import Encoding
    from drsformer_cli.video.formats import Container
    from drsformer_cli.video.reading import Stream
    from drsformer_cli.video.segments import Work

# Facts of the file rather than of its content; the muxer writes its own.
_NOT_KEPT = (
    *("encoder", "major_brand", "minor_version", "compatible_brands", "duration", "software", "vendor_id"),
    *("alpha_mode", "bps", "number_of_frames", "number_of_bytes", "_statistics"),
)

_COVERS = {
    "gif": ("image/gif", "gif"),
    "mjpeg": ("image/jpeg", "jpg"),
    "png": ("image/png", "png"),
    "tiff": ("image/tiff", "tif"),
}
"""Media types and file endings of the covers that FFmpeg finds in Matroska, by codec."""

_LANGUAGES = {
    "bod": "tib",
    "cym": "wel",
    "cze": "ces",
    "deu": "ger",
    "ell": "gre",
    "eus": "baq",
    "fas": "per",
    "fre": "fra",
    "hye": "arm",
    "isl": "ice",
    "kat": "geo",
    "mkd": "mac",
    "msa": "may",
    "mya": "bur",
    "nld": "dut",
    "nob": "nor",
    "rum": "ron",
    "slo": "slk",
    "sqi": "alb",
    "swe": "sve",
    "zho": "chi",
}
"""The names by which FFmpeg's muxer of MOV knows languages that have several."""

_USES = [
    *(Disposition.forced, Disposition.comment, Disposition.hearing_impaired, Disposition.visual_impaired),
    *(Disposition.dub, Disposition.original, Disposition.lyrics, Disposition.karaoke, Disposition.clean_effects),
]
"""What a stream is for, in FFmpeg's words, besides the ones that follow from these."""

_IN_FRAMES = ("aac", "ac3", "flac")
"""Sound whose packets last equally long, whatever their sizes."""

_LAYOUTS = {"1 channels": "mono", "2 channels": "stereo"}
_SAMPLES = 8
_MOST_SEARCHED = 1000  # packets, where a stream begins late
_TOLERANCE = Fraction(1, 100)  # seconds that the times of a few packets may differ by
_AUDIBLE = Fraction(1, 10)  # seconds by which sound may be early


class Window:
    """The part of the input that is kept.

    Attributes:
        offset: Time in the input, in seconds, that is 0 in the output.
        begin: Time in the input from which streams are copied. None: from the beginning.
        end: Time in the input at which they end. None: at the end.
    """

    def __init__(self, offset: Fraction, *, cut_before: bool, length: Fraction | None) -> None:
        self.offset = offset
        self.begin = offset if cut_before else None
        self.end = offset + length if length is not None else None


def join(
    file: IO[bytes],
    work: Work,
    track: str,
    encoding: Encoding,
    stream: Stream,
    source: Path | None,
    window: Window,
) -> list[str]:
    """Write a video.

    Args:
        file: Where it is written.
        work: The segments.
        track: Which of their files are used.
        encoding: How they are stored.
        stream: Facts of the input's video stream.
        source: The input, for all that is not its video stream. None: there is no such file.
        window: The part of the input that is kept.

    Returns:
        What could not be kept, one line each.

    Raises:
        VideoError: FFmpeg cannot write it.
        OSError: A file cannot be read or written.
    """
    container = encoding.container
    if container is None or not work.segments:
        raise VideoError("has no frames")
    with ffmpeg_errors(f"{container.title} cannot be written"):
        try:
            return _written(file, work, track, encoding, container, stream, source, window, with_data=True)
        except FFmpegError as error:
            if isinstance(error, OSError) or source is None:
                raise
        file.seek(0)
        file.truncate()
        notes = _written(file, work, track, encoding, container, stream, source, window, with_data=False)
        return [*notes, f"data streams dropped: {container.title} cannot hold them together"]


def _written(
    file: IO[bytes],
    work: Work,
    track: str,
    encoding: Encoding,
    container: Container,
    stream: Stream,
    source: Path | None,
    window: Window,
    *,
    with_data: bool,
) -> list[str]:
    """Write a video, with or without the data streams, which a muxer may refuse at last; see `join`."""
    notes: list[str] = []
    with contextlib.ExitStack() as stack:
        others = stack.enter_context(open_input(source)) if source is not None else None
        output = stack.enter_context(open_output(file, container.format, _muxer_options(container, others)))
        with open_file(work.path(0, track), "nut") as first:
            video: Any = output.add_stream_from_template(first.streams.video[0], opaque=True)
        _describe(video, encoding, stream, notes)
        packets = [_video_packets(work, track, stream, video)]
        pauses = _Pauses()
        if others is not None and source is not None:
            samples = _first_packets(source)
            copied = _copied(others, output, video, container, samples, notes, with_data=with_data)
            packets.append(_other_packets(source, copied, window, pauses))
            _copy_metadata(others, output, window, notes, container)
        output.start_encoding()  # from now on, the units of time are known
        for _, packet in heapq.merge(*packets, key=lambda item: item[0]):
            output.mux(packet)
        if others is not None:
            output.close()
            notes.extend(_forgotten(file, container, others, list(copied)))
        if not container.variable:
            notes.extend(
                f"audio {index} is played up to {float(seconds):.1f} seconds early: {container.title} cannot hold that "
                "sound begins later or pauses"
                for index, seconds in pauses.longest.items()
                if seconds > _AUDIBLE
            )
    return notes


class _Pauses:
    """How early sound is where its packets are played one after the other, whatever their times.

    Attributes:
        longest: At most, in seconds, by index of the stream.
    """

    def __init__(self) -> None:
        self.longest: dict[int, Fraction] = {}
        self._early: dict[int, Fraction] = {}
        self._ends: dict[int, Fraction] = {}

    def add(self, packet: Any) -> None:  # noqa: ANN401
        """See the next packet, with its time in the output."""
        index, time = packet.stream.index, packet.dts if packet.dts is not None else packet.pts
        pause = time * packet.time_base - self._ends.get(index, Fraction(0))
        if abs(pause) > _TOLERANCE:
            self._early[index] = self._early.get(index, Fraction(0)) + pause
            self.longest[index] = max(self.longest.get(index, Fraction(0)), self._early[index])
        self._ends[index] = (time + packet.duration) * packet.time_base


def _forgotten(file: IO[bytes], container: Container, others: InputContainer, copied: list[int]) -> list[str]:
    """What a file that was written does not say of the input and of the streams copied from it, one line each."""
    notes: list[str] = []
    file.seek(0)
    with contextlib.suppress(FFmpegError), av.open(file, "r", container.format, metadata_errors="replace") as written:
        streams = list(written.streams)
        said = {*written.metadata.values(), *(text for row in streams for text in row.metadata.values())}
        lost = sorted(name for name, text in _kept(others.metadata).items() if text and text not in said)
        if lost:
            notes.append(f"metadata dropped: {container.title} cannot hold {', '.join(lost)}")
        for kind in ("video", "audio", "subtitle"):
            rows = [others.streams[index] for index in copied if others.streams[index].type == kind]
            if kind == "video":
                rows = [best_stream(others)]
            chosen = next((row for row in rows if row.disposition & Disposition.default), rows[0] if rows else None)
            for before, after in zip(rows, (row for row in streams if row.type == kind), strict=False):
                what = _forgotten_of(before, after, is_chosen=before is chosen and before is not rows[0])
                if what:
                    them = "it" if len(what) == 1 else "them"
                    title = f"{listed(what)} of {kind} {before.index}"
                    notes.append(f"{title} dropped: {container.title} cannot hold {them}")
    return notes


def _forgotten_of(before: Any, after: Any, *, is_chosen: bool) -> list[str]:  # noqa: ANN401
    """What a stream that was copied does not say of itself any more.

    Args:
        before: The stream of the input.
        after: Its copy.
        is_chosen: Whether players choose it because it says so, and not because it is the first of its kind.
    """
    title = _stream_metadata(before).get("title")
    forgotten = [f"title {title!r}"] if title and title not in after.metadata.values() else []
    if before.type == "video":
        code = _time_code(before)
        return [*forgotten, f"time code {code}"] if code and code != _time_code(after) else forgotten
    language = before.metadata.get("language", "und")
    if language != "und" and after.metadata.get("language", "und") not in (language, _LANGUAGES.get(language)):
        forgotten.insert(0, f"language {language}")
    uses = (*_USES, Disposition.default) if is_chosen else _USES
    lost = [str(use.name) for use in uses if before.disposition & use and not after.disposition & use]
    return [*forgotten, *(f"disposition {name}" for name in lost)]


def _muxer_options(container: Container, others: InputContainer | None) -> dict[str, str]:
    own_keys = others is not None and any("." in name for name in others.metadata)  # such as com.apple.quicktime.make
    return {"movflags": "+use_metadata_tags"} if own_keys and container.format in ("mp4", "mov") else {}


def _describe(video: Any, encoding: Encoding, stream: Stream, notes: list[str]) -> None:  # noqa: ANN401
    """Say how the video is to be shown."""
    codec, container = encoding.codec, encoding.container
    assert codec is not None  # noqa: S101 - a video is written
    assert container is not None  # noqa: S101
    context = video.codec_context
    context.colorspace, context.color_range = stream.tags.matrix, stream.tags.range
    context.color_primaries, context.color_trc = stream.tags.primaries, stream.tags.transfer
    if stream.aspect:
        context.sample_aspect_ratio = stream.aspect
        # FFmpeg's other muxers want it from the stream, where PyAV cannot set it.
        if stream.aspect != 1 and codec.name not in ("h264", "hevc") and container.format not in ("mp4", "mov"):
            ratio = f"{stream.aspect.numerator}:{stream.aspect.denominator}"
            notes.append(f"pixel aspect {ratio} dropped: it cannot be written with {codec.title} in {container.title}")
    context.framerate = stream.rate.limit_denominator(1001)
    video.time_base = stream.time_base
    if codec.name == "hevc" and container.format in ("mp4", "mov"):
        context.codec_tag = "hvc1"  # the one that Apple's players take
    if stream.matrix is None:
        return
    if container.rotation:
        video.set_display_matrix(stream.matrix)
    else:
        notes.append(f"rotation dropped: {container.title} has none")


def _video_packets(work: Work, track: str, stream: Stream, video: Any) -> Iterator[tuple[float, Any]]:  # noqa: ANN401
    """The packets of all segments, with times at which they are decoded that increase over all segments.

    A frame can be decoded when as many frames were shown as the order of storage may differ from that of display.
    """
    depth = max(segment.depth for segment in work.segments)
    step = max(1, round(1 / (stream.rate * stream.time_base)))
    shown: deque[int] = deque()
    header = None
    for number, segment in enumerate(work.segments):
        with open_file(work.path(number, track), "nut") as part:
            row = part.streams.video[0]
            if header is None:
                header = row.codec_context.extradata
            elif header != row.codec_context.extradata:
                raise VideoError(f"cannot be joined: segment {number} was encoded in another way; start again")
            packets: list[Any] = [packet for packet in part.demux(row) if packet.pts is not None]
        if len(packets) != segment.frames:
            raise VideoError(f"cannot be joined: {work.path(number, track)} is damaged; delete it, and use --resume")
        for packet in packets:
            packet.pts = round(packet.pts * packet.time_base / stream.time_base)
            packet.time_base = stream.time_base
        times = sorted(packet.pts for packet in packets)
        if number == 0:
            shown.extend(times[0] - (depth - i) * step for i in range(depth))
        shown.extend(times)
        following = dict(zip(times, [*times[1:], segment.end], strict=True))
        for packet in packets:
            packet.dts = shown.popleft()
            packet.duration = max(1, following[packet.pts] - packet.pts)
            packet.stream = video
            yield float(packet.dts * stream.time_base), packet


def _copied(
    others: InputContainer,
    output: OutputContainer,
    video: Any,  # noqa: ANN401
    container: Container,
    samples: dict[int, list[Any]],
    notes: list[str],
    *,
    with_data: bool,
) -> dict[int, Any]:
    """Streams of the output by index of the stream of the input that is copied into it."""
    copied: dict[int, Any] = {}
    main = best_stream(others)
    video.metadata.update(_stream_metadata(main))
    video.disposition = main.disposition
    for row in others.streams:
        if row.index == main.index or row.discard == Discard.all:
            continue
        if row.type == "video" and not row.disposition & Disposition.attached_pic:
            continue  # said when the file was opened
        if row.type == "data" and (not with_data or _is_written_anyway(row, main)):
            continue
        packets = samples.get(row.index, [])
        if row.type == "video" and container.format == "matroska":
            if _attached(row, output, packets):
                continue
        elif _fits(row, container, packets):
            copy = _added(row, output, packets)
            copy.metadata.update(_stream_metadata(row))
            language = row.metadata.get("language")
            if container.format == "mov" and language in _LANGUAGES:
                copy.metadata["language"] = _LANGUAGES[language]
            copy.disposition = row.disposition
            copied[row.index] = copy
            continue
        name = row.name or row.type
        title = {"data": "stream", "unknown": "stream", "video": "cover"}.get(row.type, row.type)
        notes.append(f"{title} {row.index} ({name}) dropped: {_why_dropped(row, container, packets)}")
    return copied


def _is_written_anyway(row: Any, main: VideoStream) -> bool:  # noqa: ANN401
    """Whether a data stream is a time code that stays as metadata of the video; MP4 and MOV get a stream from them."""
    code = _time_code(row)
    return code is not None and code == _time_code(main)


def _time_code(row: Any) -> str | None:  # noqa: ANN401
    return next((text for name, text in row.metadata.items() if name.lower() == "timecode"), None)


def _attached(row: Any, output: OutputContainer, packets: list[Any]) -> bool:  # noqa: ANN401
    """Add a cover as the attachment that Matroska wants; whether it is an image of a kind that is recognized there."""
    kind = _COVERS.get(row.name)
    if kind is None or not packets:
        return False
    copy = output.add_attachment(f"cover.{kind[1]}", kind[0], bytes(packets[0]))
    copy.metadata.update(_kept(row.metadata))
    return True


def _added(row: Any, output: OutputContainer, packets: list[Any]) -> Any:  # noqa: ANN401
    """A stream of the output that is as one of the input, whose first packets are known."""
    with contextlib.ExitStack() as stack:
        template = row
        if output.format.name == "avi" and row.name in _IN_FRAMES:
            template = stack.enter_context(_without_blocks(row, packets))
        copy: Any = output.add_stream_from_template(template, opaque=True)
    if row.type == "audio" and row.codec_context.layout.name in _LAYOUTS:  # AVI and Matroska only count channels
        copy.codec_context.layout = _LAYOUTS[row.codec_context.layout.name]
    speed = _bytes_per_second(row, packets) if row.type == "audio" and row.name.startswith(("adpcm", "wma")) else None
    if speed is not None:
        copy.codec_context.bit_rate = 8 * speed  # AVI's muxer counts time by it
    return copy


def _bytes_per_second(row: Any, packets: list[Any]) -> int | None:  # noqa: ANN401
    """How much of a sound whose packets are of one size is a second; None: it is not known better than by the file.

    The bit rate of WMA in a file is the one that was asked for: less is stored, since a packet is of whole bytes.
    """
    equal = [packet for packet in packets if packet.size == packets[0].size]
    try:
        lengths = {
            sum(Fraction(frame.samples, frame.sample_rate) for frame in row.codec_context.decode(packet))
            for packet in equal
        }
    except FFmpegError:
        return None
    lengths.discard(Fraction(0))  # the decoder waits for the next packet
    if len(lengths) != 1:
        return None
    speed = equal[0].size / lengths.pop()
    is_near = abs(Fraction(row.codec_context.bit_rate or 0, 8) / speed - 1) * equal[0].size <= 2
    return round(speed) if is_near or row.name.startswith("adpcm") else None


@contextlib.contextmanager
def _without_blocks(row: Any, packets: list[Any]) -> Iterator[Any]:  # noqa: ANN401
    """A stream as `row` that does not say how many bytes are a block of sound: AVI's muxer would count time by it."""
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as trial:
        copy: Any = trial.add_stream_from_template(row, opaque=True)
        for packet in packets:
            packet.stream = copy
            trial.mux(packet)
    file.seek(0)
    with av.open(file, format="matroska") as written:
        yield written.streams[0]


def _first_packets(source: Path) -> dict[int, list[Any]]:
    """The first packets of sound, subtitles and covers, by index of the stream."""
    found: dict[int, list[Any]] = {}
    with open_input(source) as file, contextlib.suppress(FFmpegError):
        covers = {row.index for row in file.streams.video if row.disposition & Disposition.attached_pic}
        wanted = {row.index for row in file.streams if row.type in ("audio", "subtitle")} | covers
        for packet in itertools.islice(file.demux(), _MOST_SEARCHED if wanted else 0):
            is_cover = packet.stream.index in covers
            if is_cover:
                packet.pts = packet.dts = 0  # MP4 has none
            if packet.stream.index in wanted and packet.dts is not None and packet.size:
                found.setdefault(packet.stream.index, []).append(packet)
                if is_cover or len(found[packet.stream.index]) == _SAMPLES:
                    wanted.remove(packet.stream.index)
            if not wanted:
                break
    return found


def _fits(row: Any, container: Container, packets: list[Any]) -> bool:  # noqa: ANN401
    """Whether a container can hold a stream, found by writing its first packets and, if it has any, reading them."""
    file = io.BytesIO()
    try:
        with av.open(file, "w", format=container.format) as trial:
            copy = _added(row, trial, packets)
            copy.metadata.update(row.metadata)
            copy.disposition = row.disposition
            trial.start_encoding()
            times = [packet.dts * packet.time_base for packet in packets]
            for packet in packets:
                packet.stream = copy
                trial.mux(packet)
        if not packets:
            return True
        file.seek(0)
        with av.open(file, "r", container.format) as written:
            found = [one for one in written.streams if one.type == row.type]
            if not found:  # MP2 may be found as MP3
                return False
            if row.type == "video" and not found[0].disposition & Disposition.attached_pic:  # a second video
                return False
            return container.variable or _lasts(times, written)
    except (ValueError, FFmpegError):
        return False


def _lasts(times: list[Fraction], written: InputContainer) -> bool:
    """Whether the packets of a file without times are taken to last as long as they do."""
    found = [packet.dts * packet.time_base for packet in written.demux() if packet.dts is not None]
    if len(found) != len(times):  # PCM, which is divided anew
        return True
    return abs((times[-1] - times[0]) - (found[-1] - found[0])) < _TOLERANCE


def _why_dropped(row: Any, container: Container, packets: list[Any]) -> str:  # noqa: ANN401
    """Why a stream is not in the output, and which container keeps sound and subtitles."""
    if row.type in ("audio", "subtitle"):
        for other in sorted(CONTAINERS, key=lambda one: one.endings != (DEFAULT_ENDING,)):
            if _fits(row, other, packets):
                return f"it cannot be written into {container.title}; {other.title} keeps it"
    return f"{container.title} cannot hold it"


def _other_packets(
    source: Path, copied: dict[int, Any], window: Window, pauses: _Pauses
) -> Iterator[tuple[float, Any]]:
    """The packets of the copied streams, cut to the window and moved to its beginning."""
    with contextlib.ExitStack() as stack:
        others = stack.enter_context(open_input(source))
        if window.begin is not None:
            try:
                others.seek(max(0, int((window.begin - 10) * av.time_base)))  # subtitles may have begun before
            except FFmpegError:  # FLV: it is somewhere else now
                others = stack.enter_context(open_input(source))
        rows = [row for row in others.streams if row.index in copied and not isinstance(row, AttachmentStream)]
        if rows:
            yield from _moved_packets(Timeline(others).packets(*rows), copied, window, pauses)


def _moved_packets(
    packets: Iterator[Any], copied: dict[int, Any], window: Window, pauses: _Pauses
) -> Iterator[tuple[float, Any]]:
    """Packets that are in the window, moved to its beginning."""
    latest: dict[int, int] = {}
    while True:
        try:
            packet = next(packets, None)
        except FFmpegError:  # said when its frames were read
            return
        if packet is None:
            return
        is_cover = packet.stream.type == "video" and packet.size
        if is_cover:
            packet.pts = packet.dts = 0  # MP4 has none
        time = packet.pts if packet.pts is not None else packet.dts
        if time is None:
            continue
        if packet.stream.type == "audio" and not packet.duration:  # MP4 would cut off the last one
            packet.duration = round(sound_length(packet) / packet.time_base)
        if not is_cover and not _moved(packet, time, window):
            continue
        if packet.stream.type == "audio" and packet.duration:
            pauses.add(packet)
        _rescale(packet, copied[packet.stream.index].time_base)
        _keep_in_order(packet, latest)
        moment = (
            0.0 if is_cover else float((packet.dts if packet.dts is not None else packet.pts or 0) * packet.time_base)
        )
        packet.stream = copied[packet.stream.index]
        yield moment, packet


def _rescale(packet: Any, base: Fraction) -> None:  # noqa: ANN401
    """Count the times of a packet in another unit, in which two of them may become equal."""
    factor = packet.time_base / base
    packet.pts = round(packet.pts * factor) if packet.pts is not None else None
    packet.dts = round(packet.dts * factor) if packet.dts is not None else None
    packet.duration = round((packet.duration or 0) * factor)
    packet.time_base = base


def _keep_in_order(packet: Any, latest: dict[int, int]) -> None:  # noqa: ANN401
    """Move a packet behind the one before it in its stream, as FFmpeg does: a muxer would refuse the whole video."""
    if packet.dts is None:
        return
    before = latest.get(packet.stream.index)
    if before is not None:
        packet.dts = max(packet.dts, before if packet.stream.type == "subtitle" else before + 1)
        packet.pts = max(packet.pts, packet.dts) if packet.pts is not None else None
    latest[packet.stream.index] = packet.dts


def _moved(packet: Any, time: int, window: Window) -> bool:  # noqa: ANN401
    """Move a packet to its time in the output; whether it is in the window."""
    base = packet.time_base
    begins, ends = time * base, (time + (packet.duration or 0)) * base
    if window.end is not None and begins >= window.end:
        return False
    if window.begin is not None and ends <= window.begin:
        return False
    if window.begin is not None and begins < window.begin and packet.stream.type == "subtitle":
        late = round((window.begin - begins) / base)  # it is still shown
        packet.duration -= late
        packet.pts = time + late
        packet.dts = packet.pts
    shift = round(window.offset / base)
    packet.pts = packet.pts - shift if packet.pts is not None else None
    packet.dts = packet.dts - shift if packet.dts is not None else None
    return True


def _copy_metadata(
    others: InputContainer, output: OutputContainer, window: Window, notes: list[str], container: Container
) -> None:
    output.metadata.update(_kept(others.metadata))
    chapters = []
    for chapter in others.chapters():
        base = chapter["time_base"] or Fraction(1, av.time_base)
        begin, end = chapter["start"] * base, chapter["end"] * base
        if window.end is not None:
            end = min(end, window.end)
        first, last = (round((time - window.offset) * 1000) for time in (begin, end))
        if last > 0 and first < last:
            chapters.append({**chapter, "start": max(0, first), "end": last, "time_base": Fraction(1, 1000)})
    if not chapters:
        return
    if container.chapters:
        output.set_chapters(chapters)  # type: ignore[arg-type]
    else:
        notes.append(f"chapters dropped: {container.title} has none")


def _stream_metadata(row: Any) -> dict[str, str]:  # noqa: ANN401
    """The metadata of a stream, with the name by which FFmpeg's muxers know the title that MP4 and MOV call a name."""
    metadata = _kept(row.metadata)
    if "name" in metadata and "title" not in metadata:
        metadata["title"] = metadata.pop("name")
    return metadata


def _kept(metadata: dict[str, str]) -> dict[str, str]:
    return {name: text for name, text in metadata.items() if not name.lower().startswith(_NOT_KEPT)}
