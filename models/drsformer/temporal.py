"""Restore the frames of a video."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from drsformer.images import ImageArray
    from drsformer.inference import Restorer

CONTEXT = 2
"""Frames before and after a frame that its restoration may depend on."""


@dataclass(frozen=True)
class RestoredFrame:
    """A restored frame.

    Attributes:
        image: The restored image, (H, W, 3), of the type of the rainy one.
        scale: The scale at which the rain was removed.
        starts_shot: Whether the frame is the first one of a shot.
    """

    image: ImageArray
    scale: float
    starts_shot: bool


def restore_frames(
    frames: Iterable[ImageArray],
    restorer: Restorer,
    *,
    temporal: Literal["auto", "off"] | int = "auto",  # noqa: ARG001
    scale: float | None = None,
) -> Iterator[RestoredFrame]:
    """Restore frame by frame, without the neighbors.

    Args:
        frames: The rainy frames, (H, W, 3), uint8 or uint16.
        restorer: The network and its settings.
        temporal: How many neighbors are used.
        scale: The scale of the first shot. None: it is chosen.
    """
    starts_shot = True
    for frame in frames:
        if scale is None:
            scale = restorer.choose_scale(frame)
        yield RestoredFrame(restorer.restore(frame, scale=scale).image, scale, starts_shot)
        starts_shot = False
