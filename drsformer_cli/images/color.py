"""Color descriptions of images: CICP, ICC profiles and PNG chunks. HDR is refused."""

from __future__ import annotations

import struct

from drsformer.errors import UnsupportedError

_HDR = {16: "PQ", 18: "HLG"}
_SRGB_CHROMATICITIES = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)


def refuse_hdr(cicp: bytes | None, source: str) -> None:
    """Refuse transfer functions that the models were not trained on.

    Args:
        cicp: Color primaries, transfer function, matrix, range: ITU-T H.273.
        source: Where the file has them, for the message.

    Raises:
        UnsupportedError: The image is HDR.
    """
    if cicp and (name := _HDR.get(cicp[1])):
        raise UnsupportedError(
            f"is HDR ({name}, by its {source}), which no model was trained on; convert it to SDR first"
        )


def cicp_of_icc(profile: bytes | None) -> bytes | None:
    """The cicp tag of an ICC profile (version 4.4)."""
    if profile is None or len(profile) < 132:
        return None
    (count,) = struct.unpack(">I", profile[128:132])
    for i in range(min(count, 100)):
        entry = profile[132 + 12 * i : 144 + 12 * i]
        if len(entry) == 12 and entry[:4] == b"cicp":
            (offset,) = struct.unpack(">I", entry[4:8])
            content = profile[offset + 8 : offset + 12]
            return content if len(content) == 4 else None
    return None


def is_profile(profile: bytes) -> bool:
    """Whether it looks like an ICC profile."""
    return len(profile) >= 128 and profile[36:40] == b"acsp"


def is_gray(profile: bytes) -> bool:
    """Whether an ICC profile describes gray."""
    return profile[16:20] == b"GRAY"


def fits(profile: bytes, *, gray: bool) -> bool:
    """Whether an ICC profile fits the pixels; gray pixels with an RGB profile are common and do no harm."""
    return profile[16:20] == b"RGB " or (gray and is_gray(profile))


def is_srgb(cicp: bytes) -> bool:
    """Whether primaries and transfer function are sRGB's, or not specified."""
    return cicp[0] in (1, 2) and cicp[1] in (2, 13)


def says_srgb(chunks: tuple[tuple[bytes, bytes], ...]) -> bool:
    """Whether the chunks gAMA, cHRM and sRGB of a PNG describe sRGB, which is the default without them."""
    found = dict(chunks)
    if b"sRGB" in found:
        return True
    gamma, chromaticities = found.get(b"gAMA"), found.get(b"cHRM")
    if gamma and (len(gamma) != 4 or abs(struct.unpack(">I", gamma)[0] - 45455) > 100):
        return False
    if not chromaticities:
        return True
    if len(chromaticities) != 32:
        return False
    pairs = zip(struct.unpack(">8I", chromaticities), _SRGB_CHROMATICITIES, strict=True)
    return all(abs(value - expected) <= 100 for value, expected in pairs)
