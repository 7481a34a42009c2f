"""The medoid is the member with the least summed squared distance, by brute force too."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.callbacks.representative_interpretation import medoids as module
from fulgurite.callbacks.representative_interpretation.cut import split
from fulgurite.callbacks.representative_interpretation.medoids import medoids
from fulgurite.callbacks.representative_interpretation.reference import Reference


@pytest.fixture(scope="module")
def parts(fitted, shapes):
    return split(fitted, "1", shapes(16)[0])


def slow(features, member):
    rows = features.flatten(1).double()
    distances = ((rows[:, None] - rows[None, member]) ** 2).sum(2).sum(1)
    return int(torch.where(member, distances, torch.inf).argmin())


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), batch_size=st.sampled_from([3, 16, 64]), keep=st.booleans())
def test_the_same_as_by_brute_force(parts, shapes, seed, batch_size, keep):
    images, _ = shapes(40, seed=seed % 7)
    generator = torch.Generator().manual_seed(seed)
    rows = {group: torch.rand(40, generator=generator) < 0.3 for group in range(3)}
    rows[3] = torch.zeros(40, dtype=torch.bool)
    reference = Reference(images, batch_size=batch_size, most_bytes=10**9 if keep else 0)
    features = parts.features(images)
    expected = {group: slow(features, member) for group, member in rows.items() if member.any()}
    assert medoids(reference, parts, rows) == expected


def test_groups_go_in_blocks_where_their_means_are_large(parts, shapes, monkeypatch):
    reference = Reference(shapes(40)[0])
    rows = {group: torch.arange(40) % 4 == group for group in range(4)}
    whole = medoids(reference, parts, rows)
    monkeypatch.setattr(module, "_BLOCK", 8 * 16 * 36)
    assert medoids(reference, parts, rows) == whole


def test_of_equals_the_first(parts, shapes):
    images = shapes(1)[0].expand(6, -1, -1, -1)
    assert medoids(Reference(images), parts, {0: torch.arange(6) > 1}) == {0: 2}
    assert medoids(Reference(images), parts, {}) == {}
