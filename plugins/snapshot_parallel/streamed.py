"""What goes to the device in a step where nothing stays there: for plans."""

from __future__ import annotations

from typing import Literal

from fulgurite.plugins.snapshot_parallel.events import span
from fulgurite.plugins.snapshot_parallel.formats import choose
from fulgurite.plugins.snapshot_parallel.memory import MemoryPlan
from fulgurite.plugins.snapshot_parallel.plan import size
from fulgurite.plugins.snapshot_parallel.statistics import Statistics
from fulgurite.plugins.snapshot_parallel.timeline import TimelineLike


def streamed_bytes(memory: MemoryPlan, statistics: Statistics, timeline: TimelineLike | None = None) -> int:
    """Bytes that go to the device of the rank that needs most, in a step that streams everything.

    Of a timeline's own events they are exact, formats and windows' beginnings included. By statistics alone a snapshot
    goes as its share of the events, 8 B each, or as CSR where that is less. Checkpointed blocks are sent again for
    their second computation, but for the last, which is there still.
    """
    part = memory.partition
    assert part is not None
    again = 2 if memory.collectives != "none" else 1
    most = 0
    for rank in range(part.ranks):
        sent = [_run_bytes(statistics, timeline, *split.steps[rank]) for split in part.blocks]
        most = max(most, again * sum(sent) - (sent[-1] if again > 1 else 0))
    return most


def _run_bytes(statistics: Statistics, timeline: TimelineLike | None, start: int, stop: int) -> int:
    if start == stop:
        return 0
    if timeline is None:
        nnz, steps = sum(statistics.nnz[start:stop]), stop - start
        features = steps * statistics.nodes * statistics.features * statistics.itemsize
        events = 8 * statistics.events * nnz // max(1, statistics.total_nnz)
        return features + min(events, 8 * nnz + 4 * (statistics.nodes + 1) * steps)
    needs = span(timeline, start, stop)
    given = timeline.features
    changing = 0 if given is None or given.dim() == 2 else given[0].nbytes * (needs.stop_step - needs.low_step)
    return choose(timeline, needs).total + changing


def about_transfer(residency: Literal["graphs", "streamed"], bandwidth: float, *, on_cpu: bool) -> str:
    """What a plan says of its copies to the device."""
    if on_cpu:
        return "Parts ran on the CPU, whose memory graphs lie in: no time goes into copies to a device."
    if residency == "graphs":
        return (
            "Graphs and features are taken to stay on the device, so that a step copies nothing there (transfer 0); "
            'see residency "streamed" for what copies would take.'
        )
    return (
        f"Transfer is what goes to the device in a step, over {size(bandwidth)} a second and not overlapped; the "
        "rebuilding of graphs there is not in these numbers."
    )
