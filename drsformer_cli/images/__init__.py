"""Read and write images: 8 and 16 bits, gray, alpha, orientation and metadata.

`reading` opens a file; `jpeg`, `png`, `tiff`, `webp`, `avif` and `bmp` take it apart: metadata come from the file's own
bytes, pixels from Pillow. `exif` and `xmp` change metadata in place. `writing` puts a file together again.
"""

from drsformer_cli.images.image import DecodedImage, Metadata, to_8_bits
from drsformer_cli.images.limit import allow_megapixels
from drsformer_cli.images.reading import read, read_rgb8, size
from drsformer_cli.images.writing import encode, losses, side_by_side

__all__ = [
    "DecodedImage",
    "Metadata",
    "allow_megapixels",
    "encode",
    "losses",
    "read",
    "read_rgb8",
    "side_by_side",
    "size",
    "to_8_bits",
]
