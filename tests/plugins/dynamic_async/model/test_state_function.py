"""Each of the six cases by hand."""

import numpy as np
import pytest

from fulgurite.plugins.dynamic_async.model import DenseSchedule, DynamicMap, ScheduleError, delta


class Told(DynamicMap):
    """Three participants in a ring; each evaluation tells what it was given and gives 100·t-like fresh numbers."""

    num_participants = 3

    def __init__(self):
        self.calls = []

    def bottom(self, i):
        return np.array(-1.0)

    def initial(self, i):
        return np.array(10.0 * i)

    def neighbours(self, i):
        return np.array([0, 1, 2])

    def evaluate(self, i, epoch, participants, inputs):
        self.calls.append((i, epoch, participants.tolist(), [float(inputs[j]) for j in (0, 1, 2)]))
        return np.array(100.0 + len(self.calls))


EVERYBODY, WITHOUT_1 = [True, True, True], [True, False, True]


def schedule(active, epochs, participants, reads=()):
    last = len(active) - 1
    table = np.zeros((last + 1, 3, 3), dtype=int)
    table[1:] = np.arange(last)[:, None, None]
    for (t, i, j), read in dict(reads).items():
        table[t, i, j] = read
    return DenseSchedule(np.array(active, dtype=bool), table, epochs, np.array(participants, dtype=bool))


def run(*args, **kwargs):
    map = Told()
    states = delta(map, schedule(*args, **kwargs))
    return [[float(x) for x in state] for state in states], map.calls


NONE, FIRST, SECOND = [0, 0, 0], [1, 0, 0], [0, 1, 0]


def test_cases_1_and_2_the_beginning():
    states, calls = run([EVERYBODY], [0], [WITHOUT_1])
    assert states == [[0, -1, 20]]
    assert calls == []


def test_case_3_who_leaves_is_bottom():
    states, _ = run([NONE, SECOND], [0, 1], [EVERYBODY, WITHOUT_1])
    assert states[1] == [0, -1, 20]


def test_case_4_who_joins_has_the_initial_value_again_and_its_activation_is_ignored():
    states, calls = run([NONE, SECOND, NONE, SECOND], [0, 0, 1, 2], [EVERYBODY, WITHOUT_1, EVERYBODY])
    assert [state[1] for state in states] == [10, 101, -1, 10]
    assert len(calls) == 1


def test_case_5_who_is_not_active_keeps_its_value_over_epochs_too():
    states, _ = run([NONE, FIRST, NONE, NONE], [0, 0, 1, 1], [EVERYBODY, WITHOUT_1])
    assert [state[0] for state in states] == [0, 101, 101, 101]


def test_case_6_reads_what_the_schedule_says_in_the_epoch_of_now():
    _, calls = run([NONE, FIRST, FIRST, FIRST], [0, 0, 0, 1], [EVERYBODY, EVERYBODY], {(3, 0, 0): 1, (2, 0, 0): 0})
    assert calls == [
        (0, 0, EVERYBODY, [0, 10, 20]),
        (0, 0, EVERYBODY, [0, 10, 20]),
        (0, 1, EVERYBODY, [101, 10, 20]),
    ]


def test_who_does_not_take_part_is_read_as_bottom_however_old_the_data():
    _, calls = run([NONE, NONE, FIRST], [0, 0, 1], [EVERYBODY, WITHOUT_1], {(2, 0, 1): 0})
    assert calls == [(0, 1, WITHOUT_1, [0, -1, 20])]


def test_data_of_an_earlier_life_may_be_read():
    active, epochs = [NONE, SECOND, NONE, NONE, FIRST], [0, 0, 1, 2, 2]
    _, calls = run(active, epochs, [EVERYBODY, WITHOUT_1, EVERYBODY], {(4, 0, 1): 1})
    assert calls[-1] == (0, 2, EVERYBODY, [0, 101, 20])
    _, calls = run(active, epochs, [EVERYBODY, WITHOUT_1, EVERYBODY], {(4, 0, 1): 2})
    assert calls[-1] == (0, 2, EVERYBODY, [0, -1, 20])


def test_another_beginning():
    states = delta(Told(), schedule([NONE], [0], [WITHOUT_1]), [np.array(float(k)) for k in (7, 8, 9)])
    assert [float(x) for x in states[0]] == [7, -1, 9]


def test_both_axioms_are_checked_on_the_way():
    wrong = schedule([NONE, FIRST, FIRST], [0, 0, 0], [EVERYBODY])
    wrong._reads[2, 0, 1] = 2
    with pytest.raises(ScheduleError, match="at tick 2 participant 0 reads participant 1 as of tick 2"):
        delta(Told(), wrong)
    wrong = schedule([NONE, FIRST, FIRST], [0, 1, 1], [EVERYBODY, EVERYBODY])
    wrong._epochs[2] = 0
    with pytest.raises(ScheduleError, match="falls at tick 2"):
        delta(Told(), wrong)
    with pytest.raises(ScheduleError, match="for 2 participants, the map has 3"):
        delta(Told(), DenseSchedule(np.ones((1, 2), bool), np.zeros((1, 2, 2), int), [0], np.ones((1, 2), bool)))
