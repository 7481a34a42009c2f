import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

from fulgurite.plugins.dynamic_async.model.dynamic_map import DynamicMap
from fulgurite.plugins.dynamic_async.model.errors import ScheduleError, TraceError
from fulgurite.plugins.dynamic_async.model.trace import Event, Trace, replay, value_hash


class Sum(DynamicMap):
    num_participants = 2

    def bottom(self, i):
        return np.zeros(1)

    def initial(self, i):
        return np.ones(1)

    def neighbours(self, i):
        return np.array([0, 1])

    def evaluate(self, i, epoch, participants, inputs):
        return epoch + (inputs[0] + inputs[1]) / 4


def trace(**changes) -> Trace:
    """0 joins, 1 joins with 3, 0 reads both, 1 reads the 0 of before and sees only itself, 0 leaves."""
    values = [np.ones(1), np.array([3.0]), np.ones(1), np.array([5.75]), np.zeros(1)]
    return dataclasses.replace(
        Trace(
            num_participants=2,
            num_shards=2,
            fingerprint=Sum().fingerprint(),
            event=np.array([Event.JOIN, Event.JOIN, Event.EVALUATE, Event.EVALUATE, Event.LEAVE], dtype=np.int8),
            participant=np.array([0, 1, 0, 1, 0]),
            epochs=np.array([0, 1, 2, 2, 3, 4]),
            participants=np.array([[False, False], [True, False], [True, True], [True, True], [False, True]]),
            seen=np.array([[0, 1], [-1, 1]]),
            views=np.array([[-1, -1], [-1, -1], [0, -1], [0, 1], [0, 1]]),
            configurations=np.array([[0, 0], [0, 0], [0, 0], [0, 5], [0, 5]]),
            read_starts=np.array([0, 0, 0, 2, 3, 3]),
            read_participants=np.array([0, 1, 1]),
            read_ticks=np.array([1, 2, 2]),
            hashes=np.array([list(value_hash(value)) for value in values], dtype=np.uint8),
            tags=np.array([0, 0, 1, 1, 0]),
            joining={(2, 1): np.array([3.0])},
        ),
        **changes,
    )


def test_a_trace_is_replayed_by_each_participants_own_view():
    state = replay(trace(), Sum())
    assert [float(value[0]) for value in state] == [0.0, 5.75]


def test_its_schedule_says_what_was_read_and_counts_the_unread_as_fresh():
    schedule = trace().schedule()
    assert [schedule.active(t).tolist() for t in (0, 1, 3, 4)] == [
        [False] * 2,
        [False] * 2,
        [True, False],
        [False, True],
    ]
    assert (schedule.read_time(3, 0, 0), schedule.read_time(3, 0, 1)) == (1, 2)
    assert (schedule.read_time(4, 1, 0), schedule.read_time(4, 1, 1), schedule.read_time(4, 0, 1)) == (3, 2, 3)
    assert schedule.present(5).tolist() == [False, True]
    assert trace().joins().keys() == {(2, 1)}


def test_it_is_saved_and_loaded_whole(tmp_path):
    path = tmp_path / "runs" / "trace.npz"
    trace().save(path)
    loaded = Trace.load(path)
    for field in dataclasses.fields(Trace):
        if field.name != "joining":
            assert np.array_equal(getattr(loaded, field.name), getattr(trace(), field.name)), field.name
    assert loaded.joining[2, 1].tobytes() == np.array([3.0]).tobytes()
    assert [p.name for p in path.parent.iterdir()] == ["trace.npz"]
    replay(loaded, Sum())


@pytest.mark.parametrize(
    "changes",
    [
        {"joining": {}},
        {"joining": {(2, 1): np.array([3.0 + 1e-15])}},
        {"read_ticks": np.array([1, 2, 1])},
        {"configurations": np.zeros((5, 2), dtype=np.int64)},
        {"seen": np.array([[0, 1], [0, 1]])},
    ],
)
def test_whatever_is_changed_gives_other_bits(changes):
    with pytest.raises(TraceError, match="gives another value"):
        replay(trace(**changes), Sum())


def test_two_lives_of_a_shard_at_once_are_copies_and_views_say_which_is_seen():
    """Shards 0 and 1 join, then 0 once more with 5; 1 reads the second copy, then the first."""
    values = [np.ones(1), np.ones(1), np.array([5.0]), np.array([1.5]), np.array([0.625])]
    both = trace(
        num_participants=4,
        event=np.array([Event.JOIN] * 3 + [Event.EVALUATE] * 2, dtype=np.int8),
        participant=np.array([0, 1, 2, 1, 1]),
        epochs=np.array([0, 1, 2, 3, 4, 5]),
        participants=np.array([[False] * 4, [True] + [False] * 3] + [[True, True, i > 0, False] for i in range(4)]),
        seen=np.array([[2, 1], [0, 1]]),
        views=np.array([[-1] * 4] * 4 + [[-1, 0, -1, -1], [-1, 1, -1, -1]]),
        configurations=np.zeros((6, 4), dtype=np.int64),
        read_starts=np.array([0, 0, 0, 0, 2, 4]),
        read_participants=np.array([1, 2, 0, 1]),
        read_ticks=np.array([2, 3, 1, 4]),
        hashes=np.array([list(value_hash(value)) for value in values], dtype=np.uint8),
        joining={(3, 2): np.array([5.0])},
    )
    assert both.num_copies == 2
    assert [float(value[0]) for value in replay(both, Sum())] == [1.0, 0.625]


def test_no_reset_on_joining_is_caught():
    class Keeping(Sum):
        def initial(self, i):
            return np.array([2.0])

        def fingerprint(self):
            return Sum().fingerprint()

    with pytest.raises(TraceError, match="tick 1: replaying participant 0's join"):
        replay(trace(), Keeping())


def test_a_trace_of_another_map_is_refused():
    class Other(Sum):
        def fingerprint(self):
            return bytes(16)

    with pytest.raises(TraceError, match="of the map"):
        replay(trace(), Other())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tags": np.zeros(4, dtype=np.int64)}, "tags must be of shape"),
        ({"participant": np.array([0, 1, 0, 2, 0])}, "does not have"),
        ({"views": np.full((5, 2), 7)}, "does not have"),
        ({"read_starts": np.array([0, 0, 0, 2, 3, 4])}, "does not have"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(TraceError, match=message):
        trace(**changes).schedule()


def test_reading_the_future_or_falling_epochs_is_refused():
    with pytest.raises(ScheduleError, match="tick 4"):
        trace(read_ticks=np.array([1, 2, 4])).schedule()
    with pytest.raises(ScheduleError, match="falls"):
        trace(epochs=np.array([0, 1, 2, 2, 1, 4])).schedule()


def test_files_that_are_no_traces_are_refused(tmp_path):
    path = tmp_path / "trace.npz"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(TraceError, match="no recorded run"):
        Trace.load(path)
    trace().save(path)
    whole = path.read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(TraceError):
            Trace.load(path)
    np.savez(path, header=np.frombuffer(json.dumps({"format": "fulgurite 0"}).encode(), dtype=np.uint8))
    with pytest.raises(TraceError, match="expected the format"):
        Trace.load(path)
    np.savez(path, header=np.array([{}], dtype=object))
    with pytest.raises(TraceError):
        Trace.load(path)


def test_it_needs_neither_torch_nor_lightning():
    code = "import sys, fulgurite.plugins.dynamic_async.model.trace; print({'torch', 'lightning'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "set()"
