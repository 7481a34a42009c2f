"""Timelines drawn by Hypothesis, and what their graphs are by the slow and obvious way: for the tests beside."""

import numpy as np
import torch
from hypothesis import strategies as st

from fulgurite.data.timeline import Timeline


@st.composite
def timelines(draw, weights=("none", "count", "float"), m_windows=(1, 2, 4), **options):
    """A small timeline: any window, union or sum, symmetrised or not, self-loops, repeats, empty steps."""
    n, t = draw(st.integers(1, 6)), draw(st.integers(1, 9))
    events = draw(st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1), st.integers(0, t - 1)), max_size=60))
    kind = draw(st.sampled_from(weights))
    source, target, time = (np.array(events, dtype=np.int64).reshape(-1, 3)).T
    if kind == "none":
        source, target, time = np.unique(np.stack((source, target, time)), axis=1)
    seed = draw(st.integers(0, 2**31 - 1))
    random = np.random.default_rng(seed)
    weight = random.random(len(time)).astype(draw(st.sampled_from(("f4", "f8")))) * 3 if kind == "float" else None
    features = draw(st.sampled_from((None, "static", "dynamic")))
    if features is not None:
        features = torch.from_numpy(random.standard_normal((n, 3) if features == "static" else (t, n, 3)))
    given = {
        "window": draw(st.integers(1, 12)),
        "union": draw(st.booleans()),
        "symmetrise": draw(st.booleans()),
        "m_window": draw(st.sampled_from(m_windows)),
        "degree_features": draw(st.booleans()),
        **options,
    }
    return Timeline.from_events(
        source, target, time, weight=weight, num_nodes=n, num_snapshots=t, features=features, **given
    )


@st.composite
def runs(draw, timeline):
    """Start and stop of a run of its snapshots, empty ones too."""
    start = draw(st.integers(0, timeline.num_snapshots))
    return start, draw(st.integers(start, timeline.num_snapshots))


def counts(timeline):
    """(T, N, N) A, or A + Aᵀ where symmetrised, of a timeline without history: one event after another, in time."""
    t, n, w = timeline.num_snapshots, timeline.num_nodes, timeline.window
    kind = torch.int64
    if timeline.edge_weight is not None and timeline.edge_weight.is_floating_point() and not timeline.union:
        kind = timeline.edge_weight.dtype
    steps = torch.zeros(t, n, n, dtype=kind)
    for step in range(t):
        for event in range(int(timeline.offsets[step]), int(timeline.offsets[step + 1])):
            i, j = timeline.edge_index[:, event].tolist()
            steps[step, i, j] = 1 if timeline.edge_weight is None or timeline.union else timeline.edge_weight[event]
    if timeline.symmetrise and not timeline.union:
        steps = steps + steps.transpose(1, 2)
    sums = torch.zeros_like(steps)
    for step in range(t):
        for earlier in range(max(0, step - w + 1), step + 1):
            sums[step] += steps[earlier]
    if timeline.union:
        sums = (sums > 0).long()
        if timeline.symmetrise:
            sums = sums + sums.transpose(1, 2)
    return sums


def normalised(timeline):
    """(T, N, N) Ã, or Ã^M, by the note's steps."""
    adjacency = counts(timeline).double() * (0.5 if timeline.symmetrise else 1.0)
    adjacency += torch.eye(timeline.num_nodes, dtype=torch.float64)
    degree = counts(timeline).double().sum(2) * (0.5 if timeline.symmetrise else 1.0) + 1
    d = degree**-0.5
    graphs = d[:, :, None] * adjacency * d[:, None, :]
    return mixed(graphs, timeline.m_window)


def mixed(frames, window):
    """M × frames with the explicit matrix M[t, t − k] = 1 / min(t + 1, w)."""
    t = len(frames)
    m = torch.zeros(t, t, dtype=torch.float64)
    for row in range(t):
        for k in range(min(row + 1, window)):
            m[row, row - k] = 1 / min(row + 1, window)
    return torch.einsum("st,t...->s...", m, frames.double())
