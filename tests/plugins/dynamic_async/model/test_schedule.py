import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.plugins.dynamic_async.model import DenseSchedule, Schedule, ScheduleError


def parts(n=3, last=4):
    """A legal schedule's active, reads, epochs and participants."""
    reads = np.zeros((last + 1, n, n), dtype=int)
    reads[1:] = np.arange(last)[:, None, None]
    return np.ones((last + 1, n), dtype=bool), reads, np.zeros(last + 1, dtype=int), np.ones((1, n), dtype=bool)


class Lenient(Schedule):
    """Whatever it is given."""

    def __init__(self, active, reads, epochs, participants):
        self.num_ticks, self.num_participants = len(active) - 1, active.shape[1]
        self.parts = active, reads, epochs, participants

    def active(self, t):
        return self.parts[0][t]

    def read_time(self, t, i, j):
        return int(self.parts[1][t, i, j])

    def epoch(self, t):
        return int(self.parts[2][t])

    def participants(self, e):
        return self.parts[3][e]


KINDS = pytest.mark.parametrize("kind", [DenseSchedule, Lenient])


def checked(kind, *given_parts):
    kind(*given_parts).validate()


@KINDS
def test_a_legal_one_passes(kind):
    checked(kind, *parts())
    checked(kind, *parts(n=1, last=0))


@KINDS
@pytest.mark.parametrize(("read", "t"), [(2, 2), (4, 2), (-1, 3), (1, 1)])
def test_causality(kind, read, t):
    active, reads, epochs, participants = parts()
    reads[t, 1, 2] = read
    expected = f"at tick {t} participant 1 reads participant 2 as of tick {read}; causality allows ticks 0 to {t - 1}"
    with pytest.raises(ScheduleError, match=expected):
        checked(kind, active, reads, epochs, participants)


@KINDS
def test_tick_0_reads_nothing(kind):
    active, reads, epochs, participants = parts()
    reads[0] = 7
    checked(kind, active, reads, epochs, participants)


@KINDS
def test_epochs_never_fall(kind):
    active, reads, _, participants = parts()
    with pytest.raises(ScheduleError, match="falls from 1 to 0 at tick 3"):
        checked(kind, active, reads, np.array([0, 0, 1, 0, 1]), np.repeat(participants, 2, axis=0))
    with pytest.raises(ScheduleError, match="tick 0 is of epoch -1"):
        checked(kind, active, reads, np.array([-1, 0, 0, 0, 0]), participants)


@KINDS
def test_masks_of_another_shape_or_type(kind):
    active, reads, epochs, participants = parts()
    with pytest.raises(ScheduleError, match="participants"):
        checked(kind, active, reads, epochs, participants[:, :2])
    with pytest.raises(ScheduleError, match="bools"):
        checked(kind, active, reads, epochs, participants.astype(int))
    with pytest.raises(ScheduleError, match=r"active.*bools"):
        checked(kind, active.astype(float), reads, epochs, participants)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"active": np.ones((0, 3), bool)}, "active must be"),
        ({"reads": np.zeros((5, 3, 2), int)}, r"reads must be of shape \(5, 3, 3\)"),
        ({"reads": np.zeros((5, 3, 3))}, "whole numbers"),
        ({"epochs": np.zeros(4, int)}, r"epochs must be of shape \(5,\)"),
        ({"epochs": np.full(5, 1)}, "the last epoch"),
        ({"indptr": [0, 0, 0, 0]}, "only one of them"),
        ({"indptr": [0, 1, 1], "indices": [0]}, "indptr must rise"),
        ({"indptr": [0, 2, 2, 2], "indices": [1, 1]}, "ascending"),
        ({"indptr": [0, 1, 1, 1], "indices": [3]}, "0 to 2"),
        ({"indptr": [0, 1, 1, 1], "indices": [2]}, r"reads must be of shape \(5, 1\)"),
    ],
)
def test_parts_that_do_not_fit(changes, message):
    named = dict(zip(("active", "reads", "epochs", "participants"), parts(), strict=True))
    with pytest.raises(ScheduleError, match=message):
        DenseSchedule(**named | changes)


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_links_are_a_table_in_which_the_rest_is_fresh(schedules, data):
    table = data.draw(schedules.dense_schedules())
    n, ticks = table.num_participants, table.num_ticks + 1
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    linked = rng.random((n, n)) < 0.5
    indptr, indices = np.cumsum([0, *linked.sum(axis=1)]), np.nonzero(linked)[1]
    full = np.where(linked, table.reads_on(np.arange(n + 1) * n, np.tile(np.arange(n), n)).reshape(-1, n, n), -7)
    full = np.where(full == -7, np.arange(-1, ticks - 1)[:, None, None], full)
    full[0] = 0
    masks = np.array([table.participants(e) for e in range(int(table.epochs()[-1]) + 1)])
    active = np.array([table.active(t) for t in range(ticks)])
    sparse = DenseSchedule(active, full[:, linked], table.epochs(), masks, indptr=indptr, indices=indices)
    for t in range(1, ticks):
        for i in range(n):
            assert sparse.reads(t, i).tolist() == full[t, i].tolist()
            assert [sparse.read_time(t, i, j) for j in range(n)] == full[t, i].tolist()
    other = rng.random((n, n)) < 0.5
    wanted = np.cumsum([0, *other.sum(axis=1)]), np.nonzero(other)[1]
    np.testing.assert_array_equal(sparse.reads_on(*wanted), full[:, other])
    np.testing.assert_array_equal(sparse.dense().reads_on(*wanted), full[:, other])
    np.testing.assert_array_equal(sparse.oldest_reads()[1:], full.min(axis=2)[1:])


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_written_down_it_is_the_same(schedules, data):
    schedule = data.draw(schedules.schedules(ticks=st.integers(0, 20)))
    dense = schedule.dense()
    n = schedule.num_participants
    assert dense.num_ticks == schedule.num_ticks
    assert dense.epochs().tolist() == [schedule.epoch(t) for t in range(schedule.num_ticks + 1)]
    for t in range(schedule.num_ticks + 1):
        assert dense.active(t).tolist() == schedule.active(t).tolist()
        assert dense.present(t).tolist() == schedule.present(t).tolist()
        for i in range(n):
            wanted = [schedule.read_time(t, i, j) for j in range(n)] if t else None
            assert wanted is None or dense.reads(t, i).tolist() == schedule.reads(t, i).tolist() == wanted
    everybody = np.arange(n + 1) * n, np.tile(np.arange(n), n)
    np.testing.assert_array_equal(schedule.reads_on(*everybody), dense.reads_on(*everybody))
    np.testing.assert_array_equal(schedule.oldest_reads()[1:], dense.oldest_reads()[1:])
