"""How to recognize raw files, HEIC, AVIF, and kinds that are not read. Quick to import, for planning and `--help`."""

from __future__ import annotations

import re

RAW_ENDINGS = {
    *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".gpr", ".iiq", ".kdc", ".mef", ".mos"),
    *(".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"),
}
"""Endings of raw files. Many are TIFF files whose first image is a small preview."""

RAW_MESSAGE = "is a raw file; develop it first (darktable-cli, dcraw, rawpy)"

HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})
"""Brands of ISO base media files with HEVC images."""

AVIF_BRANDS = frozenset({b"avif", b"avis"})
"""Brands of ISO base media files with AV1 images."""

GENERAL_BRANDS = frozenset({b"mif1", b"mif2", b"msf1", b"heif"})
"""Brands of ISO base media files with images of any codec: another brand tells which."""

LONGEST_START = 512
"""Bytes at the beginning of a file that are enough to recognize it."""

_RAW_SIGNATURES = {
    0: (b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FUJIFILMCCD-RAW", b"FOVb", b"\0MRM"),  # ORF, RW2, RAF, X3F, MRW
    4: (b"ftypcrx ",),  # CR3
    6: (b"HEAPCCDR",),  # CRW
    8: (b"CR\2\0", b"IIII", b"MMMM"),  # CR2, IIQ: TIFF files with these bytes after the header
}


_KNOWN = {
    b"GIF8": "a GIF",
    b"%PDF": "a PDF",
    b"\x00\x00\x00\x0cjP  ": "a JPEG 2000 image",
    b"\xff\x4f\xff\x51": "a JPEG 2000 image",
    b"\x00\x00\x00\x0cJXL ": "a JPEG XL image",
    b"\xff\x0a": "a JPEG XL image",
    b"II\xbc\x01": "a JPEG XR image",
    b"8BPS": "a Photoshop file",
    b"\x76\x2f\x31\x01": "an OpenEXR image",
    b"qoif": "a QOI image",
    b"#?RADIANCE": "a Radiance HDR image",
    b"\x00\x00\x01\x00": "an icon",
    b"\x00\x00\x02\x00": "an icon",
    b"<svg": "an SVG drawing",
    b"\x0a\x05\x01": "a PCX image",
}
_NETPBM = re.compile(rb"P[1-7Ff][\s#]")
_XML = (b"<?xml", b"\xef\xbb\xbf<", b"<!--")


def is_raw(start: bytes) -> bool:
    """Whether the first bytes of a file are those of a raw file; False for DNG, NEF, ARW and others that are TIFF."""
    return any(start.startswith(found, at) for at, signatures in _RAW_SIGNATURES.items() for found in signatures)


def brands(start: bytes) -> list[bytes]:
    """The brands in the first bytes of an ISO base media file: the major one, then the others; general ones last."""
    if start[4:8] != b"ftyp":
        return []
    end = min(int.from_bytes(start[:4]), len(start))
    found = dict.fromkeys([start[8:12], *(start[at : at + 4] for at in range(16, end - 3, 4))])
    return sorted(found, key=GENERAL_BRANDS.__contains__)


def is_heic(start: bytes) -> bool:
    """Whether the first bytes of a file are those of HEIC, or of an image of an unknown codec in the same container."""
    known = HEIC_BRANDS | AVIF_BRANDS | GENERAL_BRANDS
    found = next((brand for brand in brands(start) if brand in known), b"")
    return bool(found) and found not in AVIF_BRANDS


def other_kind(start: bytes) -> str | None:
    """What a file is that is not an image of a known format, by its first bytes; None: something else."""
    if _NETPBM.match(start):
        return "a Netpbm image"
    if start.startswith(_XML) and b"<svg" in start:
        return "an SVG drawing"
    if brands(start):
        return "a video, or an image of another kind"
    return next((kind for magic, kind in _KNOWN.items() if start.startswith(magic)), None)
