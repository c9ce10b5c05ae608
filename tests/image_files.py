"""Image files made byte by byte, and a reader of raw tags that is independent of the code under test."""

import io
import re
import struct
import zlib

import numpy as np

SUB = {0x8769: "Exif", 0x8825: "GPS", 0xA005: "Interop"}
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
WORDS = {3: 2, 4: 4, 5: 4, 8: 2, 9: 4, 10: 4, 11: 4, 12: 8}
MAKER_NOTE = b"Maker\0MM\0*" + bytes(range(90))
THUMBNAIL = b"\xff\xd8 an image in the rain \xff\xd9"


def saved(image, image_format, **options):
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def chunk(name, data, wrong=0):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data) ^ wrong)


ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def png_rows(samples, depth):
    """(H, W, C) -> filter bytes and packed samples."""
    rows = []
    for row in samples:
        values = row.reshape(-1)
        if depth == 16:
            data = values.astype(">u2").tobytes()
        else:
            bits = np.unpackbits(values.astype(np.uint8)[:, None], axis=1)[:, 8 - depth :]
            data = np.packbits(bits.reshape(-1)).tobytes()
        rows.append(b"\0" + data)
    return b"".join(rows)


def png(samples, depth=8, color_type=2, *, interlaced=False, before=b"", after=b"", size=None):
    """A PNG of (H, W, C) samples in file units."""
    H, W = samples.shape[:2]
    W, H = size or (W, H)
    parts = [samples[y::dy, x::dx] for x, y, dx, dy in ADAM7] if interlaced else [samples]
    data = b"".join(png_rows(part, depth) for part in parts if part.size)
    header = struct.pack(">IIBBBBB", W, H, depth, color_type, 0, 0, interlaced)
    middle = before + chunk(b"IDAT", zlib.compress(data)) + after
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + middle + chunk(b"IEND", b"")


def tiff(directories, order="<", start=8):
    """A TIFF file; each directory is a dict {tag: (type, values or bytes)} or a tuple of one and its pixel data.

    A value that is itself such a dict is written as a directory, and the tag points to it.
    """
    data = bytearray((b"II*\0" if order == "<" else b"MM\0*") + bytes(4))
    data += bytes(start - len(data))

    def place(content):
        if len(data) % 2:
            data.append(0)
        data.extend(content)
        return len(data) - len(content)

    def directory(tags):
        pixels = b""
        if isinstance(tags, tuple):
            tags, pixels = tags
            tags = {**tags, 273: (4, [place(pixels)]), 279: (4, [len(pixels)])}
        entries = []
        for tag, content in sorted(tags.items()):
            kind, values = (4, [directory(content)[0]]) if isinstance(content, dict) else content
            if isinstance(values, bytes):
                raw, count = values, len(values) // SIZES[kind]
            else:
                letter = {1: "B", 3: "H", 4: "I", 5: "I", 8: "h", 9: "i", 10: "i"}[kind]
                raw = struct.pack(f"{order}{len(values)}{letter}", *values)
                count = len(values) // (2 if kind in (5, 10) else 1)
            field = raw.ljust(4, b"\0") if len(raw) <= 4 else struct.pack(order + "I", place(raw))
            entries.append(struct.pack(order + "HHI", tag, kind, count) + field)
        position = place(struct.pack(order + "H", len(entries)) + b"".join(entries) + bytes(4))
        return position, position + 2 + 12 * len(entries)

    pointer = 4
    for tags in directories:
        position, following = directory(tags)
        struct.pack_into(order + "I", data, pointer, position)
        pointer = following
    return bytes(data)


def pixel_tags(width, height, bits=(8, 8, 8), photometric=2, **more):
    """The tags that every TIFF needs."""
    names = {"subfile": 254, "planar": 284, "extra": 338, "sample_format": 339, "compression": 259, "predictor": 317}
    tags = {256: (4, [width]), 257: (4, [height]), 258: (3, bits), 259: (3, [1]), 262: (3, [photometric])}
    tags |= {277: (3, [len(bits)]), 278: (4, [height])}
    return tags | {names[name]: (4 if name == "subfile" else 3, value) for name, value in more.items()}


def exif_block(order="<", orientation=6, *, thumbnail=True):
    """An EXIF block as cameras write them, with text in UTF-8, a MakerNote and all kinds of types."""
    exif = {
        0x9000: (7, b"0232"),
        0x9003: (2, b"2026:11:21 09:00:00\0"),
        0x9101: (7, b"\1\2\3\0"),
        0x9204: (10, [-1, 3]),
        0x927C: (7, MAKER_NOTE),
        0x9286: (7, "UNICODE\0日本".encode()),
        0xA002: (3, [56]),
        0xA003: (4, [40]),
        0xA005: {1: (2, b"R98\0"), 2: (7, b"0100")},
        0xA300: (7, b"\3"),
        0xA432: (5, [24, 1, 70, 1, 28, 10, 0, 0]),
    }
    main = {
        271: (2, b"Maker\0"),
        274: (3, [orientation]),
        282: (5, [300, 1]),
        283: (5, [300, 1]),
        296: (3, [2]),
        315: (2, "Jürgen 雨\0".encode()),
        0x8769: exif,
        0x8825: {0: (1, [2, 3, 0, 0]), 1: (2, b"N\0"), 2: (5, [48, 1, 51, 1, 2952, 100])},
        0xC4A5: (7, bytes(range(40))),
    }
    second = ({256: (4, [8]), 257: (4, [8]), 259: (3, [6])}, THUMBNAIL) if thumbnail else None
    block = tiff([main, second] if second else [main], order)
    return block.replace(struct.pack(order + "HHI", 273, 4, 1), struct.pack(order + "HHI", 513, 4, 1)).replace(
        struct.pack(order + "HHI", 279, 4, 1), struct.pack(order + "HHI", 514, 4, 1)
    )


def raw_tags(data):
    """{(directory, tag): (type, count, value with little-endian numbers)} of a TIFF file or an EXIF block."""
    order = "<" if data[:2] == b"II" else ">"
    found = {}

    def walk(position, name):
        (count,) = struct.unpack_from(order + "H", data, position)
        for i in range(count):
            tag, kind, number, field = struct.unpack_from(order + "HHI4s", data, position + 2 + 12 * i)
            length = SIZES[kind] * number
            value = field[:length]
            if length > 4:
                (at,) = struct.unpack(order + "I", field)
                value = data[at : at + length]
                assert len(value) == length, (name, tag)
            if tag in SUB:
                walk(struct.unpack(order + "I", field)[0], SUB[tag])
                continue
            if order == ">" and kind in WORDS:
                value = np.frombuffer(value, f">u{WORDS[kind]}").astype(f"<u{WORDS[kind]}").tobytes()
            found[name, tag] = (kind, number, value)
        return struct.unpack_from(order + "I", data, position + 2 + 12 * count)[0]

    found["following"] = walk(struct.unpack_from(order + "I", data, 4)[0], "main")
    return found


def jpeg_segments(data):
    """(marker, content) of the segments before the pixels."""
    found, position = [], 2
    while data[position + 1] != 0xDA:
        length = int.from_bytes(data[position + 2 : position + 4])
        found.append((data[position + 1], data[position + 4 : position + 2 + length]))
        position += 2 + length
    return found


def png_chunks(data):
    found, position = [], 8
    while position < len(data):
        length = int.from_bytes(data[position : position + 4])
        found.append((data[position + 4 : position + 8], data[position + 8 : position + 8 + length]))
        position += 12 + length
    return found


def exif_of(data):
    """The EXIF block of a file of any format, found without the code under test."""
    if data[:2] == b"\xff\xd8":
        return next(body[6:] for marker, body in jpeg_segments(data) if marker == 0xE1 and body[:6] == b"Exif\0\0")
    if data[:4] == b"\x89PNG":
        return dict(png_chunks(data))[b"eXIf"]
    if data[:4] == b"RIFF":
        at = data.index(b"EXIF")
        return data[at + 8 : at + 8 + int.from_bytes(data[at + 4 : at + 8], "little")]
    if data[4:8] == b"ftyp":
        return data[re.search(rb"II\*\0|MM\0\*", data).start() :]
    return data


def with_exif(image, image_format, block):
    """A file of a format that holds the block unchanged."""
    if image_format == "PNG":
        return png(np.asarray(image), before=chunk(b"eXIf", block))
    if image_format == "JPEG":
        return saved(image, "JPEG", exif=b"Exif\0\0" + block, quality=95, subsampling="4:4:4")
    if image_format == "AVIF":  # Pillow would write the block anew: hide it from Pillow
        hidden = (b"II*\0\x08\0\0\0" + bytes(6)).ljust(len(block), b"@")
        return saved(image, "AVIF", exif=hidden).replace(hidden, block)
    return saved(image, image_format, exif=block, lossless=True)
