"""Makes small videos: flashes and clicks at known times, any pixel format, and what else a file can hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING

import av
import numpy as np

if TYPE_CHECKING:
    from pathlib import Path


@dataclass
class Clip:
    """A video to make; frames are noise on a gradient, and every `flash`-th is bright."""

    frames: int = 8
    size: tuple[int, int] = (48, 32)
    codec: str = "libx264"
    pixel_format: str = "yuv420p"
    rate: Fraction = Fraction(25)
    times: list[int] | None = None  # in 1/1000 s
    tags: tuple[int, int, int, int] = (1, 1, 1, 1)  # matrix, range, primaries, transfer
    matrix: list[int] | None = None
    sound: str | None = None
    layout: str = "mono"
    bit_rate: int | None = None  # of the sound
    language: str | None = None  # of the sound
    flash: int = 4
    metadata: dict[str, str] = field(default_factory=dict)
    chapters: bool = False
    attachment: bytes | None = None
    cover: bytes | None = None  # a PNG
    disposition: int = 0
    aspect: Fraction | None = None
    options: dict[str, str] = field(default_factory=dict)

    def write(self, path: Path) -> Path:
        with av.open(str(path), "w") as output:
            output.metadata.update(self.metadata)
            video = self._video(output)
            sound = output.add_stream(self.sound, rate=48_000, layout=self.layout) if self.sound else None
            if self.bit_rate:
                sound.bit_rate = self.bit_rate
            if self.language:
                sound.metadata["language"] = self.language
            if self.attachment is not None:
                output.add_attachment("note.txt", "text/plain", self.attachment)
            if self.cover is not None:
                output.add_attachment("cover.png", "image/png", self.cover)
            if self.chapters:
                names = {"one": (0, 100), "two": (100, 320)}
                output.set_chapters(
                    [
                        {"id": n, "start": a, "end": b, "time_base": Fraction(1, 1000), "metadata": {"title": name}}
                        for n, (name, (a, b)) in enumerate(names.items())
                    ]
                )
            times = self.times or [round(1000 * i / self.rate) for i in range(self.frames)]
            for i, time in enumerate(times):
                output.mux(video.encode(self._frame(i, time)))
            output.mux(video.encode(None))
            if sound is not None:
                self._clicks(output, sound, times)
        return path

    def _video(self, output):
        video = output.add_stream(self.codec, rate=self.rate, options={"threads": "1", **self.options})
        video.width, video.height = self.size
        video.pix_fmt, video.disposition = self.pixel_format, self.disposition
        context = video.codec_context
        context.time_base = Fraction(1, 1000)
        context.colorspace, context.color_range, context.color_primaries, context.color_trc = self.tags
        if self.aspect:
            context.sample_aspect_ratio = self.aspect
        if self.matrix:
            video.set_display_matrix(self.matrix)
        return video

    def _frame(self, i, time):
        """Planes of every legal value and beyond: noise on a gradient; a bright frame is a flash."""
        width, height = self.size
        frame = av.VideoFrame(width, height, self.pixel_format)
        rng = np.random.default_rng(i)
        for number, plane in enumerate(frame.planes):
            deep = "1" in self.pixel_format.rpartition("p")[2]
            kind, top = (np.uint16, 1023) if deep else (np.uint8, 255)
            across = np.linspace(0.1, 0.9, plane.width)[None] if number else np.linspace(0, 1, plane.width)[None]
            values = 0.7 * across + 0.1 * rng.random((plane.height, plane.width))
            if number == 0 and i % self.flash == 0:
                values += 0.2
            rows = np.frombuffer(plane, kind).reshape(plane.height, -1)
            rows[:, : plane.width] = np.round(values * top)
        frame.pts, frame.time_base, frame.duration = time, Fraction(1, 1000), round(1000 / self.rate)
        frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc = self.tags
        return frame

    def _clicks(self, output, sound, times):
        """A click of 5 ms at the time of each flash."""
        end = times[-1] + 40
        wave = np.zeros(48 * end, np.float32)
        for time in times[:: self.flash]:
            wave[48 * time : 48 * time + 240] = 0.9
        step = sound.codec_context.frame_size or 1024
        for at in range(0, len(wave), step):
            samples = np.repeat(wave[None, at : at + step], len(sound.layout.channels), axis=0)
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=self.layout)
            frame.sample_rate, frame.pts, frame.time_base = 48_000, at, Fraction(1, 48_000)
            output.mux(sound.encode(frame))
        output.mux(sound.encode(None))


@dataclass
class Found:
    """What is in a video."""

    times: list[float]
    frames: list  # of av.VideoFrame
    streams: dict[str, list[str]]
    metadata: dict[str, str]
    chapters: list[tuple[float, float, str]]
    attachments: list[bytes]
    clicks: list[float]
    codec: str
    average_rate: Fraction
    aspect: Fraction | None

    @property
    def first(self):
        return self.frames[0]

    def planes(self, i):
        return planes(self.frames[i])


def planes(frame):
    """The planes of a frame."""
    kind = np.dtype("<u2" if frame.format.name.endswith("le") else np.uint8)
    return [
        np.frombuffer(plane, kind).reshape(plane.height, -1)[:, : plane.width].astype(int) for plane in frame.planes
    ]


def found(path):
    """Read a video."""
    with av.open(str(path)) as source:
        video = source.streams.video[0]
        frames, sound = [], []
        for packet in source.demux():
            if packet.stream.type in ("video", "audio"):
                for frame in packet.decode():
                    (frames if packet.stream is video else sound).append(frame)
        streams = {}
        for row in source.streams:
            streams.setdefault(row.type, []).append(row.name)
        return Found(
            [frame.time for frame in frames],
            frames,
            streams,
            dict(source.metadata),
            [
                (float(c["start"] * c["time_base"]), float(c["end"] * c["time_base"]), c["metadata"]["title"])
                for c in source.chapters()
            ],
            [row.data for row in source.streams if row.type == "attachment"],
            _clicks_in(sound),
            video.codec_context.name,
            video.average_rate,
            video.sample_aspect_ratio,
        )


def _clicks_in(frames):
    """Times at which the sound begins to be loud after it was silent."""
    clicks, last = [], -1.0
    for frame in frames:
        values = np.abs(frame.to_ndarray().astype(float).reshape(-1))
        values /= 1 if frame.format.name.startswith("flt") else 32768
        for at in np.flatnonzero(values > 0.3):
            time = frame.time + at / frame.sample_rate
            if time - last > 0.02:
                clicks.append(time)
            last = time
    return clicks


def flashes(video):
    """Times of the bright frames."""
    levels = [planes(frame)[0].mean() for frame in video.frames]
    middle = (max(levels) + min(levels)) / 2
    return [time for time, level in zip(video.times, levels, strict=True) if level > middle]
