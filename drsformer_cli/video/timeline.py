"""Times that begin again in the middle of a file, as in MPEG files that were put together, are continued."""

from __future__ import annotations

from collections import deque
from fractions import Fraction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from av.container import InputContainer

_MAY_BEGIN_AGAIN = 0x0200  # AVFMT_TS_DISCONT
_STEP_BACK = Fraction(1, 10)  # seconds; less is a disorder of the packets


class Timeline:
    """Moves the packets of a file so that the times of each stream go on.

    All streams are moved by one shift when the first of them begins again; the last packets of the others may still
    belong to the part before. Two timelines that see the same packets move them alike.

    Attributes:
        breaks: How often the times began again.

    Args:
        container: The file.
    """

    def __init__(self, container: InputContainer) -> None:
        self.breaks = 0
        self._container = container
        self._is_needed = bool(container.format.flags & _MAY_BEGIN_AGAIN)
        self._shifts: deque[Fraction] = deque([Fraction(0)], 2)  # seconds; of the part before, and of this one
        self._ends: dict[int, Fraction] = {}  # of the last packet of each stream, moved
        self._latest = Fraction(0)

    def packets(self, *streams: Any) -> Iterator[Any]:  # noqa: ANN401
        """The packets of some streams, or of all, which are moved by what all streams say."""
        if not self._is_needed:
            yield from self._container.demux(*streams)
            return
        wanted = {row.index for row in streams or self._container.streams}
        for packet in self._container.demux():
            self._move(packet)
            if packet.stream.index in wanted:
                yield packet

    def _move(self, packet: Any) -> None:  # noqa: ANN401
        stored = packet.dts if packet.dts is not None else packet.pts
        if stored is None:
            return
        time = stored * packet.time_base
        end = self._ends.get(packet.stream.index)
        is_sparse = packet.stream.type not in ("audio", "video")
        near = self._latest if is_sparse and self._ends else time if end is None else end
        shift = min(reversed(self._shifts), key=lambda one: abs(time + one - near))
        if end is not None and not is_sparse and time + shift < end - _STEP_BACK - self._length(packet):
            shift = self._latest - time
            self._shifts.append(shift)
            self.breaks += 1
        if not is_sparse:
            self._ends[packet.stream.index] = time + shift + self._length(packet)
            self._latest = max(self._latest, self._ends[packet.stream.index])
        if shift:
            ticks = round(shift / packet.time_base)
            packet.pts = packet.pts + ticks if packet.pts is not None else None
            packet.dts = packet.dts + ticks if packet.dts is not None else None

    def _length(self, packet: Any) -> Fraction:  # noqa: ANN401
        return Fraction((packet.duration or 0) * packet.time_base)
