import warnings

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchmetrics.retrieval import RetrievalMRR

from fulgurite.models.dynamic_gnn.metrics import (
    ClassMetrics,
    RankingMetrics,
    area_under_roc,
    average_precision,
    class_scores,
    reciprocal_ranks,
)


def rows(seed: int, count: int, num_classes: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, num_classes, generator=generator, dtype=torch.float64) * 3
    return logits, torch.randint(num_classes, (count,), generator=generator)


@pytest.mark.parametrize("num_classes", [2, 3, 5])
def test_scores_are_log_odds_of_the_softmax(num_classes):
    logits, _ = rows(0, 50, num_classes)
    chance = logits.softmax(dim=1)
    odds = (chance / (1 - chance)).log().float()
    expected = odds[:, 1:] if num_classes == 2 else odds
    torch.testing.assert_close(class_scores(logits), expected)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(2, 60), levels=st.integers(1, 40))
def test_areas_are_those_of_scikit_learn_with_ties_and_large_scores(seed, count, levels):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(levels, (count,), generator=generator).float() * 7 - 90
    positive = torch.rand(count, generator=generator) < 0.4
    positive[0], positive[1] = True, False
    assert average_precision(scores, positive).item() == pytest.approx(
        average_precision_score(positive, scores), abs=1e-6
    )
    assert area_under_roc(scores, positive).item() == pytest.approx(roc_auc_score(positive, scores), abs=1e-6)


def test_a_class_that_is_not_there_gives_nan_and_no_warning():
    scores = torch.tensor([0.1, 0.2])
    assert average_precision(scores, torch.tensor([False, False])).isnan()
    assert area_under_roc(scores, torch.tensor([True, True])).isnan()
    assert average_precision(scores, torch.tensor([True, True])) == 1


def expected_reciprocal_rank(scores: list[float], positive: list[bool], draws: int) -> float:
    """1 / (mean rank of the first positive over shuffled orders of what is tied)."""
    generator = torch.Generator().manual_seed(0)
    total = 0
    for _ in range(draws):
        order = torch.randperm(len(scores), generator=generator).tolist()
        order.sort(key=lambda i: -scores[i])
        total += 1 + [positive[i] for i in order].index(True)
    return draws / total


def test_reciprocal_rank_is_that_of_torchmetrics_without_ties():
    generator = torch.Generator().manual_seed(1)
    scores = torch.rand(400, generator=generator)
    positive = torch.rand(400, generator=generator) < 0.2
    query = torch.randint(40, (400,), generator=generator) * 3
    queries, values = reciprocal_ranks(scores, positive, query)
    assert queries.tolist() == query[positive].unique().tolist()
    theirs = RetrievalMRR(empty_target_action="skip")(scores, positive, indexes=query)
    assert values.mean().item() == pytest.approx(theirs.item(), abs=1e-6)


@pytest.mark.parametrize(
    ("scores", "positive"),
    [
        ([1, 1, 1, 1], [True, False, False, False]),
        ([1, 1, 1, 1, 0], [True, False, True, False, False]),
        ([3, 2, 2, 2, 2, 1], [False, True, True, False, False, True]),
    ],
)
def test_reciprocal_rank_of_ties_is_the_expected_rank(scores, positive):
    _, values = reciprocal_ranks(
        torch.tensor(scores).float(), torch.tensor(positive), torch.zeros(len(scores), dtype=torch.int64)
    )
    assert values.item() == pytest.approx(expected_reciprocal_rank(scores, positive, 20000), rel=0.02)


def test_a_scorer_without_an_opinion_gets_no_more_than_chance():
    positive = torch.tensor([True] + [False] * 19).repeat(50)
    query = torch.arange(50).repeat_interleave(20)
    scores = torch.full((1000,), 0.5)
    metrics = RankingMetrics()
    metrics.update(scores, positive, torch.zeros_like(query), query)
    values = metrics.compute()
    assert values["mrr"].item() == pytest.approx(1 / 10.5)
    assert values["map"].item() == pytest.approx(0.05)


def test_a_sources_best_edge_counts_and_other_sources_pairs_do_not():
    # Source 0: edges in places 2 and 3 of its own pairs. Source 1: its only pair is an edge, whatever its score.
    scores = torch.tensor([0.9, 0.8, 0.7, 0.1])
    positive = torch.tensor([False, True, True, True])
    metrics = RankingMetrics()
    metrics.update(scores, positive, torch.zeros(4, dtype=torch.int64), torch.tensor([0, 0, 0, 1]))
    values = metrics.compute()
    assert values["mrr"].item() == pytest.approx((1 / 2 + 1) / 2)
    assert values["map"].item() == pytest.approx((1 / 2 + 2 / 3 + 3 / 4) / 3)


def test_snapshots_are_weighted_by_their_edges():
    generator = torch.Generator().manual_seed(2)
    scores, step = torch.randn(300, generator=generator), torch.randint(4, (300,), generator=generator) * 5
    positive, source = torch.rand(300, generator=generator) < 0.3, torch.randint(9, (300,), generator=generator)
    positive[step == 5] = False  # a snapshot without an edge counts nothing
    metrics = RankingMetrics()
    metrics.update(scores, positive, step, source)
    precision = rank = edges = 0.0
    for t in (0, 10, 15):
        here = step == t
        weight = int(positive[here].sum())
        edges += weight
        precision += weight * average_precision_score(positive[here], scores[here])
        each = [
            RetrievalMRR()(scores[pairs].sigmoid(), positive[pairs], indexes=source[pairs]).item()
            for u in range(9)
            if positive[pairs := here & (source == u)].any()
        ]
        rank += weight * sum(each) / len(each)
    values = metrics.compute()
    assert values["map"].item() == pytest.approx(precision / edges, abs=1e-6)
    assert values["mrr"].item() == pytest.approx(rank / edges, abs=1e-6)


def test_a_device_without_float64_gets_narrower_sums():
    def moved(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dtype == torch.float64:  # as MPS says
            raise TypeError(
                "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64."
            )
        return tensor.clone()

    logits, labels = rows(6, 40)
    step, source = torch.arange(40) // 8, torch.arange(40) % 4
    values = []
    for narrow in (False, True):
        classes, ranking = ClassMetrics(2), RankingMetrics()
        both = torch.nn.ModuleList([classes, ranking])
        if narrow:
            both._apply(moved)
        classes.update(logits.float(), labels, 3.5, torch.tensor(40.0, dtype=torch.float64))
        ranking.update(class_scores(logits)[:, 0], labels == 1, step, source)
        values.append({name: value.item() for metric in both for name, value in metric.compute().items()})
        for metric in both:
            metric.reset()
        sums = [value for metric in both for value in metric._defaults.values() if isinstance(value, torch.Tensor)]
        assert {value.dtype for value in sums} == {torch.float32 if narrow else torch.float64}
        assert classes.loss.dtype == ranking.edges.dtype == sums[0].dtype
    assert values[1] == pytest.approx(values[0], abs=1e-6)


class ReadElements(TorchDispatchMode):
    """Counts the elements of all operations' inputs."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += sum(leaf.numel() for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor))
        return func(*args, **(kwargs or {}))


def test_more_snapshots_of_the_same_pairs_are_no_more_work():
    generator = torch.Generator().manual_seed(5)
    scores, positive = torch.randn(6000, generator=generator), torch.rand(6000, generator=generator) < 0.2
    source, read = torch.randint(9, (6000,), generator=generator), []
    for steps in (5, 100):
        with ReadElements() as counted:
            RankingMetrics().update(scores, positive, torch.arange(6000) % steps, source)
        read.append(counted.count)
    assert read[1] < 2 * read[0]


@pytest.mark.parametrize("num_classes", [2, 4])
def test_class_metrics_are_those_of_scikit_learn(num_classes):
    logits, labels = rows(3, 200, num_classes)
    labels = labels.clamp(max=2)  # of four classes one never occurs
    metrics = ClassMetrics(num_classes)
    for part in (slice(0, 50), slice(50, 50), slice(50, 200)):
        metrics.update(logits[part], labels[part], loss=len(labels[part]), weight=2 * len(labels[part]))
    values = {name: value.item() for name, value in metrics.compute().items()}
    chance = logits.softmax(dim=1)
    classes = [1] if num_classes == 2 else [0, 1, 2]
    expected = {
        "loss": 0.5,
        "ap": sum(average_precision_score(labels == c, chance[:, c]) for c in classes) / len(classes),
        "auroc": sum(roc_auc_score(labels == c, chance[:, c]) for c in classes) / len(classes),
        "f1": f1_score(labels, chance.argmax(dim=1), labels=classes, average="macro"),
    }
    assert values == pytest.approx(expected, abs=1e-6)


def test_nothing_seen_is_nan_without_a_warning_and_a_reset_forgets():
    metrics, ranking = ClassMetrics(2), RankingMetrics()
    logits, labels = rows(0, 10)
    metrics.update(logits, labels, 1.0, 1.0)
    metrics.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torchmetrics: compute before update, which is the case
        assert all(value.isnan() for value in metrics.compute().values())
        assert all(value.isnan() for value in ranking.compute().values())
    nothing = torch.zeros(0)
    metrics.update(torch.zeros(0, 2), nothing.long(), 0.0, 0.0)
    ranking.update(nothing, nothing.bool(), nothing.long(), nothing.long())
    assert all(value.isnan() for value in [*metrics.compute().values(), *ranking.compute().values()])


@pytest.mark.distributed
@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("silent", ["updates with nothing", "never updates", "everybody"])
def test_ranks_agree_with_one_process_also_where_one_has_nothing(run_ranks, num_classes, silent):
    logits, labels = rows(4, 90, num_classes)
    step, source = torch.arange(90) // 15, torch.arange(90) % 4
    # By whole snapshots; rank 1 of the three has none.
    owned = [slice(0, 30), slice(30, 30), slice(30, 90)] if silent != "everybody" else [slice(0, 0)] * 3

    def measured(part: slice, update: bool = True) -> dict[str, float]:
        metrics, ranking = ClassMetrics(num_classes), RankingMetrics()
        if update:
            rows_here = labels[part]
            metrics.update(logits[part], rows_here, loss=0.25 * len(rows_here), weight=len(rows_here))
            ranking.update(class_scores(logits[part])[:, 0], rows_here == 1, step[part], source[part])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            values = {name: value.item() for m in (metrics, ranking) for name, value in m.compute().items()}
        assert not update or len(torch.cat(metrics.labels)) == len(labels[part])  # the states are this rank's again
        return values

    def on_rank() -> dict[str, float]:
        rank = dist.get_rank()
        return measured(owned[rank], update=not (rank == 1 and silent == "never updates"))

    expected = measured(slice(0, 90) if silent != "everybody" else slice(0, 0))
    assert [on == pytest.approx(expected, abs=1e-15, nan_ok=True) for on in run_ranks(on_rank, 3)] == [True] * 3
