"""XMP packets, changed in place: the orientation, and references to data that is not written."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.parsers import expat

if TYPE_CHECKING:
    from collections.abc import Mapping

GAIN_MAP_DROPPED = "gain map (HDR) dropped: the SDR image is kept"
VIDEO_DROPPED = "video of the motion photo dropped"

# By namespace: names of properties that refer to data that is not written.
_GONE = {
    "http://ns.google.com/photos/1.0/camera/": re.compile(r"(?:MotionPhoto|MicroVideo)\w*"),
    "http://ns.google.com/photos/1.0/container/": re.compile(r"\w+"),
    "http://ns.google.com/photos/1.0/container/item/": re.compile(r"\w+"),
    "http://ns.google.com/photos/1.0/depthmap/": re.compile(r"\w+"),
    "http://ns.google.com/photos/1.0/image/": re.compile(r"\w+"),
    "http://ns.google.com/photos/1.0/audio/": re.compile(r"\w+"),
    "http://ns.adobe.com/hdr-gain-map/1.0/": re.compile(r"\w+"),
    "http://ns.apple.com/HDRGainMap/1.0/": re.compile(r"\w+"),
    "http://ns.adobe.com/xmp/note/": re.compile(r"HasExtendedXMP"),
    "http://ns.adobe.com/xap/1.0/": re.compile(r"Thumbnails"),
}
# Likewise in an image that was turned: areas of it, as fractions of the sides before the turn.
_GONE_WHEN_TURNED = {
    "http://www.metadataworkinggroup.com/schemas/regions/": re.compile(r"Regions"),
    "http://ns.microsoft.com/photo/1.2/": re.compile(r"RegionInfo"),
}
_NOTES = {
    **dict.fromkeys(_GONE_WHEN_TURNED, "marked regions (faces) dropped: the image was turned"),
    "http://ns.adobe.com/hdr-gain-map/1.0/": GAIN_MAP_DROPPED,
    "http://ns.apple.com/HDRGainMap/1.0/": GAIN_MAP_DROPPED,
    "http://ns.google.com/photos/1.0/camera/": VIDEO_DROPPED,
}

_ORIENTATION = re.compile(rb"""(tiff:Orientation(?:\s*=\s*["']|>)\s*)([0-9]+)""")
_TURNED = {b"2", b"3", b"4", b"5", b"6", b"7", b"8"}
_QUOTED = rb"""(?:"[^"]*"|'[^']*')"""
_TAG = re.compile(rb"""<(?:[^<>"']|""" + _QUOTED + rb")*>")
_ATTRIBUTE = re.compile(rb"""\s+([^\s=<>"']+)\s*=\s*""" + _QUOTED)
_DECLARATION = re.compile(rb"""\sxmlns:([^\s=<>"']+)\s*=\s*""" + _QUOTED)
_USE_OF_PREFIX = re.compile(rb"""[<\s/]([^\s:=<>"'/]+):""")


def orientation(packet: bytes | None) -> int | None:
    """The orientation 1..8 in the packet, or None."""
    found = _ORIENTATION.search(packet) if packet else None
    return int(found[2]) if found and found[2] in {b"1", *_TURNED} else None


def upright(packet: bytes, turn: int) -> bytes:
    """The packet of an image to which an orientation 1..8 was applied."""
    packet = _ORIENTATION.sub(lambda found: found[1] + b"1" if found[2] in _TURNED else found[0], packet)
    if turn >= 5:
        for one, other in (
            (b"tiff:ImageWidth", b"tiff:ImageLength"),
            (b"exif:PixelXDimension", b"exif:PixelYDimension"),
        ):
            packet = _exchanged(packet, one, other)
    return packet


def without_dropped_data(packet: bytes, turn: int) -> tuple[bytes, list[str]]:
    """The packet without references to data that is not written, and notes about that data.

    A packet that is not well-formed is returned as it is.

    Args:
        packet: The packet.
        turn: The orientation 1..8 that was applied to the image.
    """
    try:
        found = _References(packet, _GONE if turn == 1 else _GONE | _GONE_WHEN_TURNED)
    except expat.ExpatError:
        return packet, []
    ends = [0, *(end for _, end in found.spans)]
    starts = [*(start for start, _ in found.spans), len(packet)]
    without = b"".join(packet[end:start] for end, start in zip(ends, starts, strict=True))
    unused = found.prefixes - set(_USE_OF_PREFIX.findall(without)) if found.spans else set()
    if unused:
        without = _DECLARATION.sub(lambda found: b"" if found[1] in unused else found[0], without)
    return without, list(dict.fromkeys(_NOTES[namespace] for namespace in found.namespaces if namespace in _NOTES))


class _References:
    """Where a packet refers to data that is not written.

    Args:
        packet: The packet.
        gone: By namespace: names of the properties that refer to such data.

    Attributes:
        spans: First byte and end of each such element and attribute, in their order.
        namespaces: Their namespaces, in that order.

    Raises:
        xml.parsers.expat.ExpatError: The packet is not well-formed.
    """

    def __init__(self, packet: bytes, gone: Mapping[str, re.Pattern[str]]) -> None:
        self.spans: list[tuple[int, int]] = []
        self.namespaces: list[str] = []
        self._packet = packet
        self._gone = gone
        self._declared: dict[str, list[str]] = {}  # the namespaces of a prefix, the innermost last
        self._prefixes: dict[str, set[bytes]] = {}  # all prefixes of a namespace
        self._depth = 0
        self._start, self._outermost = 0, 0  # first byte and depth of the element that goes; 0: none
        self._parser = expat.ParserCreate("utf-8", namespace_separator=" ")  # whatever it declares
        self._parser.StartNamespaceDeclHandler = self._declare
        self._parser.EndNamespaceDeclHandler = lambda prefix: self._declared[prefix].pop()
        self._parser.StartElementHandler = self._begin
        self._parser.EndElementHandler = self._finish
        try:
            self._parser.Parse(packet, True)
        except expat.ExpatError:
            if self._depth or not self.spans:  # otherwise something is behind the packet
                raise

    @property
    def prefixes(self) -> set[bytes]:
        """The prefixes of the namespaces."""
        return {prefix for namespace in self.namespaces for prefix in self._prefixes[namespace]}

    def _declare(self, prefix: str, namespace: str) -> None:
        self._declared.setdefault(prefix, []).append(namespace)
        self._prefixes.setdefault(namespace, set()).add((prefix or "").encode())

    def _begin(self, name: str, attributes: Mapping[str, str]) -> None:
        self._depth += 1
        if self._outermost:
            return
        start = self._parser.CurrentByteIndex
        if self._is_gone(name):
            self._start, self._outermost = start, self._depth
            self.namespaces.append(name.rpartition(" ")[0])
        elif any(map(self._is_gone, attributes)):
            for attribute in _ATTRIBUTE.finditer(self._packet, start, self._end_of_tag(start)):
                prefix, _, local = attribute[1].decode(errors="replace").rpartition(":")
                namespace = self._declared[prefix][-1] if self._declared.get(prefix) else ""
                if self._is_gone(f"{namespace} {local}"):
                    self.spans.append(attribute.span())
                    self.namespaces.append(namespace)

    def _finish(self, _: str) -> None:
        if self._depth == self._outermost:
            end = self._end_of_tag(self._start)
            if not self._packet.endswith(b"/>", 0, end):
                end = self._end_of_tag(self._parser.CurrentByteIndex)
            self.spans.append((self._start, end))
            self._outermost = 0
        self._depth -= 1

    def _end_of_tag(self, start: int) -> int:
        tag = _TAG.match(self._packet, start)
        if tag is None:
            raise expat.ExpatError("the encoding is not one of single bytes")
        return tag.end()

    def _is_gone(self, name: str) -> bool:
        """Whether a property, given by its namespace and name, refers to data that is not written."""
        namespace, _, local = name.rpartition(" ")
        return namespace in self._gone and self._gone[namespace].fullmatch(local) is not None


def _exchanged(packet: bytes, one: bytes, other: bytes) -> bytes:
    """Exchange the values of two properties if each occurs once."""
    found = [list(re.finditer(name + rb"""(?:\s*=\s*["']|>)\s*(\d+)""", packet)) for name in (one, other)]
    if [len(matches) for matches in found] != [1, 1]:
        return packet
    first, second = sorted((matches[0] for matches in found), key=lambda match: match.start(1))
    return b"".join(
        [
            *(packet[: first.start(1)], second[1]),
            *(packet[first.end(1) : second.start(1)], first[1]),
            packet[second.end(1) :],
        ]
    )
