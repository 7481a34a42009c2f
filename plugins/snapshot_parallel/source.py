"""One timeline's graphs and features on the device, run by run: sent or kept, and the next one under way."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from fulgurite.plugins.snapshot_parallel.checks import check_events
from fulgurite.plugins.snapshot_parallel.events import Span, Windows, span
from fulgurite.plugins.snapshot_parallel.formats import Choice, Mode, choose
from fulgurite.plugins.snapshot_parallel.graphs import SnapshotGraphs, build, from_windows
from fulgurite.plugins.snapshot_parallel.m_product import m_features
from fulgurite.plugins.snapshot_parallel.packets import Packet, RawEvents, holding, pack, unpack, unpack_events
from fulgurite.plugins.snapshot_parallel.timeline import TimelineLike
from fulgurite.plugins.snapshot_parallel.transfer import Arrival, Transfer

Run = tuple[int, int]
Made = TypeVar("Made")


@dataclass(eq=False)
class _Shipment:
    """A run's packet and features under way, and what was made of them."""

    packet: Packet
    with_degrees: bool
    arrival: Arrival


class TimelineSource:
    """Graphs and features of runs of snapshots on a device; made by ``Residency``.

    Args:
        timeline: on the host.
        runs: the runs that will be asked for, in order.
        transfer: sends and counts.
        level: ``graphs`` keeps what was built; ``events`` keeps raw events and features and builds anew;
            ``streamed`` sends anew, and sends the run that is likely the next ahead.
        mode: what may travel.
        dtype: of features and M-products.
        room: how many more bytes may stay on the device.
        on_use: told before a run is sent or built, so that another source can :meth:`release` its own.

    Raises:
        ValueError: events that no graphs can be built of, see
            :func:`~fulgurite.plugins.snapshot_parallel.checks.check_events`.

    Attributes:
        level: as given.
        device: where everything lies.

    Example:
        >>> from fulgurite.data.timeline import Timeline
        >>> timeline = Timeline.from_events([0, 1], [1, 2], [0, 1], num_nodes=3, degree_features=True)
        >>> source = TimelineSource(timeline, [(0, 1), (1, 2)], Transfer("cpu"), level="streamed")
        >>> source.graphs(0, 1).nnz, source.features(1, 2).shape
        (1, torch.Size([1, 3, 2]))
    """

    def __init__(
        self,
        timeline: TimelineLike,
        runs: Sequence[Run],
        transfer: Transfer,
        *,
        level: Literal["graphs", "events", "streamed"] = "graphs",
        mode: Mode = "auto",
        dtype: torch.dtype | None = None,
        room: Callable[[], int] = lambda: 2**62,
        on_use: Callable[[TimelineSource], None] = lambda _: None,
    ) -> None:
        check_events(timeline)
        self.timeline = timeline
        self.level = level
        self.device = transfer.device
        self._runs = list(runs)
        self._transfer = transfer
        self._mode = mode
        self._dtype = dtype
        self._room = room
        self._on_use = on_use
        self._kept: dict[Hashable, Any] = {}
        self._packets: dict[Run, tuple[Packet, bool]] = {}
        self._under_way: dict[Run, _Shipment] = {}
        self._present: tuple[Run, dict[str, Any]] | None = None
        self._followed: dict[tuple[Run | None, Run], Run] = {}
        self._last: tuple[Run | None, Run | None] = (None, None)
        self._events: list[RawEvents] | None = None
        self._given: Tensor | None = None
        self._changing: list[tuple[int, int, Tensor]] = []

    @property
    def nbytes(self) -> int:
        """Bytes on the device that stay between runs."""
        return sum(_size(value) for value in (*(self._events or ()), self._given, self._changing, *self._kept.values()))

    def release(self) -> None:
        """Let go of the run at hand and of what is under way; what stays stays."""
        self._present = None
        self._under_way.clear()

    def graphs(self, start: int, stop: int) -> SnapshotGraphs:
        """The graphs of snapshots [start, stop)."""
        return self._get("graphs", (start, stop))

    def features(self, start: int, stop: int) -> Tensor:
        """(stop − start, N, F): log(1 + degrees) where asked for, then the given ones; mixed by the M-product.

        Raises:
            ValueError: the timeline has none.
        """
        if self.timeline.features is None and not self.timeline.degree_features:
            raise ValueError("got a timeline without features; give it features, or degree_features=True")
        return self._get("features", (start, stop))

    def cached(self, key: Hashable, start: int, stop: int, make: Callable[[], Made]) -> Made:
        """What ``make()`` gives from a run's graphs and features; kept where they are kept and there is room."""
        place = ("cached", key, start, stop)
        if place not in self._kept:
            with torch.inference_mode(False):
                made = make()
            grad = isinstance(made, Tensor) and made.requires_grad
            if self.level != "graphs" or grad or _size(made) > self._room():
                return made
            self._kept[place] = made
        return self._kept[place]

    def sent_once(self, key: Hashable, send: Callable[[], Made]) -> Made:
        """What ``send()`` brought to the device, such as targets; sent again only where everything is streamed.

        The level was chosen with room for targets, so that there is no need to look for it.
        """
        place = ("sent", key)
        if place not in self._kept:
            sent = send()
            if self.level == "streamed":
                return sent
            self._kept[place] = sent
        return self._kept[place]

    def send(self, tensor: Tensor, kind: str = "targets") -> Tensor:
        """A tensor on the device, counted under its kind."""
        return self._transfer.send([(kind, tensor)]).take()[0]

    def _get(self, what: str, run: Run) -> Any:
        if (what, run) in self._kept:
            return self._kept[what, run]
        # What is made while validating is used in training too, which tensors of inference mode cannot be.
        with torch.inference_mode(False), torch.no_grad():
            parts = self._parts(run)
            if self.level == "graphs":
                self._kept[what, run] = parts[what]
            return parts[what]

    def _parts(self, run: Run) -> dict[str, Any]:
        if self._present is not None and self._present[0] == run:
            return self._present[1]
        if run[0] == run[1]:
            graphs = build(self.timeline, *run, device=self.device)
            return {"graphs": graphs, "features": self._no_features()}
        self._present = None  # before the next is built, so that two are never held
        self._on_use(self)
        if self.level == "events":
            parts = self._rebuilt(run)
        else:
            shipment = self._under_way.pop(run, None) or self._ship(run)
            self._under_way.clear()
            self._ship_next(run)
            parts = self._opened(run, shipment)
        self._present = (run, parts)
        if self.level == "graphs":
            # Both are kept, so that a run is sent and built once whichever was asked for first.
            self._kept.update({(what, run): value for what, value in parts.items()})
            self._present = None
        return parts

    def _packet(self, run: Run) -> tuple[Packet, bool]:
        if run not in self._packets:
            timeline, needs = self.timeline, span(self.timeline, *run)
            mode: Mode = "events" if timeline.edge_index.device.type != "cpu" else self._mode
            choice = choose(timeline, needs, mode)
            degrees = timeline.degree_features and not _covers(choice, needs)
            size = (needs.stop_step - needs.low_step) * timeline.num_nodes * 2 * self._feature_type().itemsize
            if degrees and mode == "auto":
                # Degrees come from the events for nothing; sent by themselves they may cost more than is saved.
                events = choose(timeline, needs, "events")
                if events.total <= choice.total + size:
                    choice, degrees = events, False
            made = pack(timeline, needs, choice), degrees
            if self.level == "graphs":
                return made
            self._packets[run] = made
        return self._packets[run]

    def _ship(self, run: Run) -> _Shipment:
        packet, with_degrees = self._packet(run)
        tensors = list(packet.tensors)
        if with_degrees:
            raw = RawEvents.of(self.timeline, packet.span.low_step, packet.span.stop_step)
            tensors.append(("features", self._degrees([raw], packet.span)))
        given = self.timeline.features
        if given is not None and given.dim() == 3:
            tensors.append(("features", given[packet.span.low_step : packet.span.stop_step]))
        return _Shipment(packet, with_degrees, self._transfer.send(tensors))

    def _ship_next(self, run: Run) -> None:
        before, last = self._last
        if before is not None and last is not None:
            self._followed[before, last] = run
        self._last = (last, run)
        guess = self._followed.get((last, run)) if last is not None else None
        if guess is None and run in self._runs:
            # Nothing is known yet: blocks come in order, and from last to first when they are run again.
            back = last in self._runs and self._runs.index(last) > self._runs.index(run)
            place = self._runs.index(run) + (-1 if back else 1)
            guess = self._runs[place] if 0 <= place < len(self._runs) else None
        if guess is not None and guess[0] < guess[1] and guess != run and ("graphs", guess) not in self._kept:
            self._under_way[guess] = self._ship(guess)

    def _opened(self, run: Run, shipment: _Shipment) -> dict[str, Any]:
        packet, timeline = shipment.packet, self.timeline
        arrived = shipment.arrival.take()
        lists, events = unpack(packet, arrived, timeline)
        graphs = self._from_windows(lists, run)
        given = arrived[len(packet.tensors) :]
        degrees = None
        if timeline.degree_features:
            degrees = given[0] if shipment.with_degrees else self._degrees(events, packet.span)
        dynamic = given[-1] if timeline.features is not None and timeline.features.dim() == 3 else None
        return {"graphs": graphs, "features": self._made_features(run, degrees, dynamic)}

    def _rebuilt(self, run: Run) -> dict[str, Any]:
        timeline, needs = self.timeline, span(self.timeline, *run)
        events = self._resident_events(needs)
        held = holding(events, needs.first_event_step, needs.stop_step)
        lists = held.windows(timeline, needs.low_step, needs.stop_step, symmetrise=timeline.symmetrise)
        degrees = self._degrees(events, needs) if timeline.degree_features else None
        dynamic = None
        if timeline.features is not None and timeline.features.dim() == 3:
            dynamic = self._resident_features(needs)
        features = self._made_features(run, degrees, dynamic)
        return {"graphs": self._from_windows(lists, run), "features": features}

    def _resident_events(self, needs: Span) -> list[RawEvents]:
        if self._events is None:
            steps = tuple(step for first, last in joined_runs(self.timeline, self._runs) for step in range(first, last))
            self._events = self._send_events(steps)
        if not any(part.first <= needs.first_event_step and needs.stop_step <= part.last for part in self._events):
            self._events += self._send_events(tuple(range(needs.first_event_step, needs.stop_step)))
        return self._events

    def _resident_features(self, needs: Span) -> Tensor:
        """Those of the own runs' steps alone, sent once."""
        given = self.timeline.features
        assert given is not None

        def held() -> Tensor | None:
            parts = (
                part[needs.low_step - first : needs.stop_step - first]
                for first, last, part in self._changing
                if first <= needs.low_step and needs.stop_step <= last
            )
            return next(parts, None)

        if not self._changing:
            runs = joined_runs(self.timeline, self._runs, "features")
            self._changing = [(first, last, self.send(given[first:last], "features")) for first, last in runs]
        if held() is None:  # a run that was not planned
            first, last = needs.low_step, needs.stop_step
            self._changing.append((first, last, self.send(given[first:last], "features")))
        found = held()
        assert found is not None
        return found

    def _send_events(self, steps: tuple[int, ...]) -> list[RawEvents]:
        if not steps:
            return []
        everything = Span(0, 0, 0, steps[0], steps[0], steps[-1] + 1)
        plain = choose(self.timeline, everything, "events")
        choice = Choice((), {}, steps, plain.sparse_weights, plain.weight_type, 0, False)
        packet = pack(self.timeline, everything, choice)
        return unpack_events(choice, iter(self._transfer.send(packet.tensors).take()), self.timeline)

    def _from_windows(self, lists: Windows, run: Run) -> SnapshotGraphs:
        return from_windows(lists, self.timeline, *run, dtype=self._dtype or torch.float64)

    def _feature_type(self) -> torch.dtype:
        return self._dtype or feature_type(self.timeline)

    def _no_features(self) -> Tensor:
        given = self.timeline.features
        width = 2 * self.timeline.degree_features + (0 if given is None else given.shape[-1])
        return torch.zeros(0, self.timeline.num_nodes, width, dtype=self._feature_type(), device=self.device)

    def _degrees(self, events: list[RawEvents], needs: Span) -> Tensor:
        held = holding(events, needs.low_step, needs.stop_step)
        return held.degrees(self.timeline, needs.low_step, needs.stop_step).log1p_()

    def _made_features(self, run: Run, degrees: Tensor | None, dynamic: Tensor | None) -> Tensor | None:
        timeline, needs = self.timeline, span(self.timeline, *run)
        given = dynamic
        if timeline.features is not None and timeline.features.dim() == 2:
            if self._given is None:
                self._given = self.send(timeline.features, "features")
            given = self._given.expand(needs.stop_step - needs.low_step, -1, -1)
        parts = [part.to(self._feature_type()) for part in (degrees, given) if part is not None]
        if not parts:
            return None
        features = parts[0] if len(parts) == 1 else torch.cat(parts, 2)
        if timeline.m_window == 1:
            return features.contiguous()
        first, count = timeline.first + run[0], run[1] - run[0]
        return m_features(features, window=timeline.m_window, first=first, count=count)


def feature_type(timeline: TimelineLike) -> torch.dtype:
    """The type of a timeline's features: the wider one of the degrees' (torch's default) and the given ones'."""
    given = None if timeline.features is None else timeline.features.dtype
    if given is not None and not timeline.degree_features:
        return given
    degrees = torch.promote_types(torch.get_default_dtype(), torch.float32)
    return degrees if given is None else torch.promote_types(degrees, given)


def joined_runs(
    timeline: TimelineLike, runs: Sequence[Run], of: Literal["events", "features"] = "events"
) -> list[tuple[int, int]]:
    """The steps that runs need, [first, last) from the history's start on, joined where they meet."""
    needs = [span(timeline, *run) for run in runs if run[0] < run[1]]
    joined: list[tuple[int, int]] = []
    starts = (need.first_event_step if of == "events" else need.low_step for need in needs)
    for first, last in sorted(zip(starts, (need.stop_step for need in needs), strict=True)):
        if joined and first <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
        else:
            joined.append((first, last))
    return joined


def _covers(choice: Choice, needs: Span) -> bool:
    return set(range(needs.low_step, needs.stop_step)) <= set(choice.event_steps)


def _size(value: Any) -> int:
    if isinstance(value, (tuple, list)):
        return sum(_size(part) for part in value)
    return int(getattr(value, "nbytes", 0))
