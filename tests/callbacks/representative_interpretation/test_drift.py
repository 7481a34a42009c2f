from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.callbacks.representative_interpretation.drift import Pair, Snapshot, jaccard, match, mean_jaccard

members = st.frozensets(st.integers(0, 12), max_size=8).map(lambda found: tuple(sorted(found)))
passes = st.lists(st.tuples(st.integers(0, 2), members), max_size=6)


def by_class(groups, label):
    return [members for name, members in groups if name == label]


@settings(deadline=None)
@given(before=passes, after=passes)
def test_groups_are_matched_as_well_as_they_can_be(before, after):
    """Against every possible way to pair the groups of each class."""
    pairs = match(before, after)
    for label in {name for name, _ in (*before, *after)}:
        old, new = by_class(before, label), by_class(after, label)
        mine = [pair for pair in pairs if pair.label == label]
        if not old or not new:
            assert [pair.jaccard for pair in mine] == [0.0]
            assert mine[0].before is None or mine[0].after is None
            continue
        few, many = sorted((old, new), key=len)
        best = max(
            sum(jaccard(a, b) for a, b in zip(few, chosen, strict=True)) for chosen in permutations(many, len(few))
        )
        assert sum(pair.jaccard for pair in mine) == pytest.approx(best)
        assert len(mine) == len(few)
        for pair in mine:
            assert pair.jaccard == jaccard(before[pair.before][1], after[pair.after][1])
            assert before[pair.before][0] == after[pair.after][0] == label


@settings(deadline=None)
@given(groups=passes)
def test_a_pass_is_like_itself(groups):
    assert all(pair.jaccard == 1 for pair in match(groups, groups))


def test_passes_on_other_images_or_at_another_cut_are_not_compared():
    groups = ((0, (1, 2)),)
    now = Snapshot(1, 10, "full", "conv2", "ab", groups)
    assert now.since(None) == ()
    assert now.since(Snapshot(0, 5, "light", "conv1", "ab", groups)) == ()
    assert now.since(Snapshot(0, 5, "light", "conv2", "cd", groups)) == ()
    assert now.since(Snapshot(0, 5, "light", "conv2", "ab", groups)) == (Pair(0, 0, 0, 1.0),)
    assert mean_jaccard(()) != mean_jaccard(())


def test_a_snapshot_survives_a_checkpoint(tmp_path):
    snapshot = Snapshot(3, 40, "light", "conv2", "ab", ((0, (1, 2)), (4, ())), {"coverage": 0.25})
    torch.save(snapshot.state(), tmp_path / "state.pt")
    assert Snapshot.restore(torch.load(tmp_path / "state.pt", weights_only=True)) == snapshot
