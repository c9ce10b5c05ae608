"""Image quality in numbers: PSNR and SSIM against the clean image, NIQE and BRISQUE without one."""

from drsformer_cli.metrics.full_reference import PROTOCOLS, SMALLEST_SSIM_SIDE, Protocol, luma, psnr, ssim
from drsformer_cli.metrics.no_reference import BRISQUE_FILES, NIQE_FILE, Brisque, Niqe

__all__ = [
    "BRISQUE_FILES",
    "NIQE_FILE",
    "PROTOCOLS",
    "SMALLEST_SSIM_SIDE",
    "Brisque",
    "Niqe",
    "Protocol",
    "luma",
    "psnr",
    "ssim",
]
