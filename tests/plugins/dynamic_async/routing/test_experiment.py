import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from fulgurite.plugins.dynamic_async.routing import experiment
from fulgurite.plugins.dynamic_async.routing.errors import AlgebraError, TopologyError
from fulgurite.plugins.dynamic_async.routing.experiment import ALGEBRAS, make_algebra, run_routing
from fulgurite.plugins.dynamic_async.routing.networks import built_in, random_topology
from fulgurite.plugins.dynamic_async.routing.route_figure import route_picture, write_route_picture
from fulgurite.plugins.dynamic_async.routing.route_page import epoch_cells, findings, render_route_page
from fulgurite.plugins.dynamic_async.routing.schedules import topology_schedule


def run_of(topology, algebra, manner="random", **options):
    made = make_algebra(algebra, topology)
    return run_routing(topology, made, topology_schedule(topology, manner, **options), words=manner)


@pytest.fixture(scope="module")
def changing():
    return run_of(random_topology(8, epochs=5, ticks_per_epoch=80, seed=2), "path-vector", seed=1)


def test_every_epoch_is_held_against_its_own_answer(changing):
    assert len(changing.wrong) == 401
    assert changing.wrong[0] > 0  # nothing is known at first
    for epoch in changing.epochs:
        assert epoch.wrong[2] == 0
        assert changing.wrong[epoch.settled : epoch.end + 1].max() == 0
        assert epoch.settled == epoch.start or changing.wrong[epoch.settled - 1] > 0
        ends = [end for end in changing.ends if epoch.start < end <= epoch.end]
        assert len(ends) == epoch.pseudocycles
        assert epoch.used == (0 if epoch.settled == epoch.start else 1 + sum(end < epoch.settled for end in ends))
        assert epoch.used <= epoch.verdict.k_star
    assert max(epoch.used for epoch in changing.epochs) >= 2
    assert any(epoch.bound_kept for epoch in changing.epochs)
    assert [epoch.start for epoch in changing.epochs] == [0, 80, 160, 240, 320]


def test_it_is_plain_json(changing):
    back = json.loads(json.dumps(changing.to_json()))
    assert back["wrong"] == changing.wrong.tolist()
    assert back["epochs"][1]["verdict"]["k_star"] == changing.epochs[1].verdict.k_star


@pytest.mark.parametrize("algebra", ALGEBRAS)
def test_every_algebra_runs_and_shows(algebra):
    run = run_of(random_topology(6, epochs=3, ticks_per_epoch=60, seed=3), algebra)
    assert run.epochs[0].used is not None
    if run.epochs[0].verdict.k_star is not None:
        assert run.epochs[0].used <= run.epochs[0].verdict.k_star
    assert [epoch_cells(0, epoch)["verdict"] for epoch in run.epochs] == [epoch.verdict.verdict for epoch in run.epochs]


def test_a_bound_that_is_broken_would_be_told(changing):
    epoch = next(epoch for epoch in changing.epochs if epoch.used >= 2 and epoch.bound_kept)
    topology, e = random_topology(8, epochs=5, ticks_per_epoch=80, seed=2), changing.epochs.index(epoch)
    answer = experiment.Answer(np.zeros((8, 1), dtype=np.int64), "dijkstra")
    cycles = [
        experiment.Pseudocycle(start, end, e)
        for start, end in zip(changing.ends[:-1], changing.ends[1:], strict=True)
        if epoch.start < end <= epoch.end
    ]
    wrong = changing.wrong[epoch.start : epoch.end + 1]
    for k_star, kept in ((1, False), (epoch.used, True)):
        verdict = replace(epoch.verdict, k_star=k_star)
        assert experiment._result(topology, e, epoch.end, answer, verdict, wrong, cycles).bound_kept is kept
    broken = replace(changing, epochs=(*changing.epochs[:-1], replace(changing.epochs[-1], bound_kept=False)))
    assert "only" in findings(broken)[0]
    assert ", all were right by then." in findings(changing)[0]


def test_no_answer_is_not_called_right():
    run = run_of(built_in("bad-gadget"), "policy")
    (epoch,) = run.epochs
    assert (epoch.answer, epoch.settled, epoch.used, epoch.bound_kept) == ("none", None, None, None)
    assert run.wrong.min() > 0  # whatever it does, something would move
    assert epoch_cells(0, epoch)["used"] == "no answer"
    assert any("oscillate" in line or "no stable state" in line for line in findings(run))


def test_what_counts_to_infinity_stays_wrong():
    run = run_of(built_in("count-to-infinity"), "shortest")
    assert [epoch.used is None for epoch in run.epochs] == [False, True]
    assert epoch_cells(1, run.epochs[1])["used"] == "still wrong"
    assert "Still wrong at its end: epoch 1." in findings(run)


def test_too_large_a_run_is_refused_before_it_begins(monkeypatch):
    monkeypatch.setattr(experiment, "MOST_BYTES", 1000)
    with pytest.raises(TopologyError, match="name fewer destinations, or end earlier"):
        run_of(built_in("disagree"), "policy")
    with pytest.raises(AlgebraError, match="no algebra is named 'ospf'; expected one of shortest"):
        make_algebra("ospf", built_in("disagree"))


def test_what_is_too_much_to_count_is_left_out(monkeypatch):
    monkeypatch.setattr(experiment, "MOST_STEPS", 10)
    run = run_of(built_in("bad-gadget"), "policy")
    assert (run.wrong == -1).all()
    assert run.epochs[0].wrong is None
    assert epoch_cells(0, run.epochs[0])["wrong"] == "–"
    route_picture(run)


def test_picture_and_page(changing, tmp_path):
    write_route_picture(changing, tmp_path / "a" / "route.png")
    assert (tmp_path / "a" / "route.png").read_bytes()[:4] == b"\x89PNG"
    figure = route_picture(changing)
    upper, lower, *near = figure.axes
    assert len(near) == len(changing.epochs)
    assert {text.get_text() for text in upper.texts} >= {"\n".join(changing.epochs[0].events) or "start"}
    assert any(f"k* {changing.epochs[0].verdict.k_star}" in text.get_text() for text in lower.texts)
    drawn = np.concatenate([line.get_ydata() for line in upper.lines if len(line.get_ydata()) == 80])
    assert set(drawn.tolist()) <= set(changing.wrong.tolist())
    hostile = replace(changing, topology="<script>alert(1)</script>", schedule="a & b")
    page = render_route_page(hostile)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "$" not in page
    assert not re.findall(r'(?:src|href)="(?!#)', page)  # it needs nothing but itself
    assert page.count("<tr>") == 6


def test_many_epochs_fit_into_a_picture():
    run = run_of(random_topology(6, epochs=40, ticks_per_epoch=10, seed=1), "rip")
    upper, _ = route_picture(run).axes
    assert not upper.texts or all("down" not in text.get_text() for text in upper.texts)


def test_none_of_it_needs_torch():
    code = (
        "import sys, fulgurite.plugins.dynamic_async.routing as r\n"
        "[getattr(r, name) for name in r.__all__]\n"
        "import fulgurite.plugins.dynamic_async.routing.route_page\n"
        "topology = r.built_in('count-to-sixteen')\n"
        "r.run_routing(topology, r.Rip16(), r.topology_schedule(topology))\n"
        "assert not {'torch', 'lightning', 'networkx'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
