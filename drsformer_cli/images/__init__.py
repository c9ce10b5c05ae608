"""Read and write images: 8 and 16 bits, gray, alpha, orientation and metadata.

`reading` opens a file; `jpeg`, `png`, `tiff`, `webp`, `avif`, `heic` and `bmp` parse it: metadata is copied from the
file's bytes, pixels come from Pillow or pillow-heif. `exif` and `xmp` change metadata in place. `writing` encodes an
image.
"""

from drsformer.errors import UnsupportedError
from drsformer_cli.images.image import DecodedImage, Metadata, to_8_bits
from drsformer_cli.images.limit import TooLargeError, allow_megapixels
from drsformer_cli.images.reading import read, read_rgb8, size
from drsformer_cli.images.writing import check_size, encode, losses, side_by_side

__all__ = [
    "DecodedImage",
    "Metadata",
    "TooLargeError",
    "UnsupportedError",
    "allow_megapixels",
    "check_size",
    "encode",
    "losses",
    "read",
    "read_rgb8",
    "side_by_side",
    "size",
    "to_8_bits",
]
