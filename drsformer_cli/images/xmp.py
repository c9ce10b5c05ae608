"""XMP packets, changed in place: the orientation, and references to data that is not written."""

from __future__ import annotations

import re

GAIN_MAP_DROPPED = "gain map (HDR) dropped: the SDR image is kept"
VIDEO_DROPPED = "video of the motion photo dropped"

# By namespace: names of properties that refer to data that is not written.
_GONE = {
    rb"http://ns.google.com/photos/1.0/camera/": rb"(?:MotionPhoto|MicroVideo)\w*",
    rb"http://ns.google.com/photos/1.0/container/": rb"\w+",
    rb"http://ns.google.com/photos/1.0/container/item/": rb"\w+",
    rb"http://ns.google.com/photos/1.0/depthmap/": rb"\w+",
    rb"http://ns.google.com/photos/1.0/image/": rb"\w+",
    rb"http://ns.google.com/photos/1.0/audio/": rb"\w+",
    rb"http://ns.adobe.com/hdr-gain-map/1.0/": rb"\w+",
    rb"http://ns.apple.com/HDRGainMap/1.0/": rb"\w+",
    rb"http://ns.adobe.com/xmp/note/": rb"HasExtendedXMP",
    rb"http://ns.adobe.com/xap/1.0/": rb"Thumbnails",
}
_GAIN_MAPS = (rb"http://ns.adobe.com/hdr-gain-map/1.0/", rb"http://ns.apple.com/HDRGainMap/1.0/")
_MOTION = (rb"http://ns.google.com/photos/1.0/camera/",)

_ORIENTATION = re.compile(rb"""(tiff:Orientation(?:\s*=\s*["']|>)\s*)([0-9]+)""")
_TURNED = {b"2", b"3", b"4", b"5", b"6", b"7", b"8"}
_QUOTED = rb"""(?:"[^"]*"|'[^']*')"""


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


def without_dropped_data(packet: bytes) -> tuple[bytes, list[str]]:
    """The packet without references to data that is not written, and notes about that data."""
    told = []
    for namespace, names in _GONE.items():
        for prefix in set(re.findall(rb"""xmlns:(\w+)\s*=\s*["']""" + re.escape(namespace) + rb"""["']""", packet)):
            name = re.escape(prefix) + rb":(?:" + names + rb")"
            element = re.compile(
                rb"<(" + name + rb")(?=[\s/>])(?:[^<>\"']|" + _QUOTED + rb")*(?:/>|>.*?</\1\s*>)", re.DOTALL
            )
            attribute = re.compile(rb"\s" + name + rb"\s*=\s*" + _QUOTED)
            without = attribute.sub(b"", element.sub(b"", packet))
            if without == packet:
                continue
            if namespace in _GAIN_MAPS:
                told.append(GAIN_MAP_DROPPED)
            elif namespace in _MOTION:
                told.append(VIDEO_DROPPED)
            if not re.search(rb"[<\s/]" + re.escape(prefix) + rb":\w", without):
                declaration = rb"\sxmlns:" + re.escape(prefix) + rb"\s*=\s*" + _QUOTED
                without = re.sub(declaration, b"", without)
            packet = without
    return packet, list(dict.fromkeys(told))


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
