"""Hypothesis strategies of legal schedules, for every test of the dynamic iterations (fixture ``schedules``)."""

import numpy as np
from hypothesis import strategies as st

from fulgurite.plugins.dynamic_async.model.generators import RandomSchedule, adversarial_schedule
from fulgurite.plugins.dynamic_async.model.schedule import DenseSchedule

PARTICIPANTS, TICKS = st.integers(1, 6), st.integers(0, 60)


@st.composite
def dense_schedules(draw, participants=PARTICIPANTS, ticks=TICKS):
    """Any legal schedule, written down: drawn shapes and manners, filled in from a drawn seed."""
    n, last = draw(participants), draw(ticks)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    activation = draw(st.sampled_from([0.1, 0.5, 0.9, 1.0]))
    away = draw(st.sampled_from([0.0, 0.2, 0.6]))
    churn = draw(st.sampled_from([0.0, 0.05, 0.3]))
    manner = draw(st.sampled_from(["any", "recent", "fresh", "mixed"]))
    active = rng.random((last + 1, n)) < activation
    epochs = np.cumsum(rng.random(last + 1) < churn)
    participants = rng.random((int(epochs[-1]) + 1, n)) >= away
    reads = np.zeros((last + 1, n, n), dtype=np.int64)
    for t in range(1, last + 1):
        anything = rng.integers(0, t, (n, n))
        recent = np.maximum(t - 1 - rng.integers(0, 4, (n, n)), 0)
        often = rng.random((n, n)) < 0.05
        reads[t] = {"any": anything, "recent": recent, "fresh": t - 1, "mixed": np.where(often, anything, recent)}[
            manner
        ]
    return DenseSchedule(active, reads, epochs, participants)


@st.composite
def random_schedules(draw, participants=PARTICIPANTS, ticks=TICKS):
    """Schedules made by a counter, which the compiled simulation takes too."""
    probability = st.sampled_from([0.0, 0.1, 0.5])
    return RandomSchedule(
        draw(participants),
        draw(ticks),
        seed=draw(st.integers(0, 2**32 - 1)),
        activation=draw(st.sampled_from([0.1, 0.5, 1.0])),
        max_gap=draw(st.none() | st.integers(1, 6)),
        max_delay=draw(st.integers(1, 6)),
        loss=draw(probability),
        reorder=draw(st.booleans()),
        churn=draw(probability),
        away=draw(probability),
    )


@st.composite
def adversarial_schedules(draw, participants=PARTICIPANTS, ticks=TICKS):
    """Legal but nasty ones."""
    seed, churn = draw(st.integers(0, 2**32 - 1)), draw(st.booleans())
    return adversarial_schedule(draw(participants), draw(ticks), seed=seed, phase=draw(st.integers(2, 8)), churn=churn)


def schedules(participants=PARTICIPANTS, ticks=TICKS):
    """Any of them."""
    return st.one_of(kind(participants, ticks) for kind in (dense_schedules, random_schedules, adversarial_schedules))
