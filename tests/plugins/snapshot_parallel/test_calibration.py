import json

import pytest
import torch

from fulgurite.plugins.snapshot_parallel.calibration import LINKS, Link, LinkError, find_link, measure_link, timed


def test_alpha_counts_by_rounds_and_beta_by_bytes():
    link = Link("l", 2.0, 10.0)
    assert link.seconds(calls=3, sent=40, ranks=2) == 3 * 2.0 + 4
    assert link.seconds(calls=3, sent=40, ranks=8) == 3 * 2.0 * 3 + 4
    assert link.seconds(calls=3, sent=40, ranks=5) == link.seconds(calls=3, sent=40, ranks=8)


def test_one_rank_waits_for_nobody():
    assert Link("l", 1.0, 1.0).seconds(calls=7, sent=100, ranks=1) == 0


@pytest.mark.parametrize(("alpha", "beta"), [(-1, 1), (float("nan"), 1), (float("inf"), 1), (0, 0), (0, -3)])
def test_numbers_out_of_range_are_refused(alpha, beta):
    with pytest.raises(LinkError, match="expected"):
        Link("l", alpha, beta)


def test_presets_say_that_nobody_measured_them():
    assert {link.source for link in LINKS.values()} == {"assumed"}
    assert all(find_link(name) is link for name, link in LINKS.items())


def test_numbers_replace_a_presets_and_are_called_given():
    link = find_link("nvlink", alpha=1.0)
    assert (link.alpha, link.beta, link.source) == (1.0, LINKS["nvlink"].beta, "given")
    assert find_link("measure", alpha=1.0, beta=2.0) == Link("given", 1.0, 2.0)


def test_an_unknown_link_is_told_the_known_ones():
    with pytest.raises(LinkError, match=r"'carrier-pigeon'.*measure, ethernet-10g"):
        find_link("carrier-pigeon")


def test_a_link_is_plain_json():
    assert Link(**json.loads(json.dumps(LINKS["pcie"].to_dict()))) == LINKS["pcie"]


def test_the_median_is_of_the_timed_runs_only():
    turns = []
    assert timed(lambda: turns.append(1), torch.device("cpu"), repeats=5, warmup=2) >= 0
    assert len(turns) == 7


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_here_measure_their_link():
    link = measure_link(repeats=3)
    assert link.source == "measured"
    assert 0 < link.alpha < 5
    assert link.beta > 1e6
