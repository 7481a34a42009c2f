"""Peers in processes of their own: killed, joined late, gone, refused; the answer is that of the direct solution."""

import math
import socket

import numpy as np
import pytest

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

EPS = 1e-6


@pytest.fixture(scope="module")
def histories():
    """What the churn histories below came to, so far."""
    return []


@pytest.fixture(scope="module")
def rounds(fits):
    """Enough for EPS from anywhere in X: the radius is ‖∇f‖/μ at most, with rows of norm √2 and residuals of √2."""
    return math.ceil(math.log(2 * 2 / fits.MU / EPS) / -math.log(1 - fits.RATE * fits.MU)) + 1


def first(fits, **options):
    def make(pipe):
        chosen = fits.strategy(run="test", key=fits.KEY, **options)
        fits.trainer(chosen, max_epochs=-1, callbacks=[fits.Told(pipe, 0.002)]).fit(fits.probe(), fits.loader())

    return make


def joiner(fits, address, *, module=None, slow_s=0.002, trainer=None, **options):
    def make(pipe):
        options.setdefault("key", fits.KEY)
        options.setdefault("run", "test")
        chosen = fits.strategy(join=[address], **options)
        run = fits.trainer(chosen, **{"max_epochs": -1, "callbacks": [fits.Told(pipe, slow_s)]} | (trainer or {}))
        run.fit(module or fits.probe(), fits.loader())

    return make


def check(fits, group, numbers, histories):
    """What each of these saw in the end is within its bound, and all histories agree within 2 EPS."""
    found = fits.answer()
    for k in numbers:
        said = group.said[k]
        assert said["verdict"] == "certified"
        seen = said["states"]
        error = max(float(np.linalg.norm(seen[i] - found[i])) for i in seen)
        assert error <= said["bound"]
    best = group.said[numbers[0]]
    assert best["bound"] <= EPS
    answer = np.concatenate([best["states"][i] for i in range(fits.SHARDS)])
    for other in histories:
        assert np.abs(answer - other).max() <= 2 * EPS
    histories.append(answer)


def test_the_first_is_killed_and_the_others_end_with_the_right_answer(fits, tmp_path, histories, rounds):
    with fits.Fits(tmp_path) as group:
        one = group.start(first(fits))
        group.until(lambda: "address" in group.said[one])
        two, three = (group.start(joiner(fits, group.said[one]["address"])) for _ in range(2))
        group.until(group.whole(one, two, three))
        assert [k for k in (one, two, three) if group.said[k]["leads"]] == [one]
        orphans, lives = group.said[one]["hosted"], group.said[two]["lives"]
        group.kill(one)
        group.until(group.whole(two, three))
        # Its shards live on, in a later life each; somebody leads, and only one.
        group.until(lambda: group.said[two]["leads"] != group.said[three]["leads"])
        assert all(group.said[two]["lives"][i] == lives[i] + (i in orphans) for i in range(fits.SHARDS))
        four = group.start(joiner(fits, group.said[three]["address"]))
        group.until(lambda: group.said[four].get("hosted"))
        group.until(group.whole(two, three, four, rounds=rounds))
        group.finish(two, three, four)
        check(fits, group, [two, three, four], histories)


def test_one_joins_late_one_fails_and_one_leaves(fits, tmp_path, histories, rounds):
    with fits.Fits(tmp_path) as group:
        one = group.start(first(fits))
        group.until(lambda: group.said[one].get("rounds", 0) > 5)
        two = group.start(joiner(fits, group.said[one]["address"]))
        group.until(group.whole(one, two, rounds=5))
        three = group.start(joiner(fits, group.said[two]["address"]))
        group.until(group.whole(one, two, three))
        group.tell(two, "fail")
        group.until(lambda: group.ends[two] is not None)
        assert group.ends[two] == "RuntimeError: told to"
        group.until(group.whole(one, three))
        # Leaving is no failure: what it hosted goes on from where it was, in a new life.
        before = group.said[one]["counts"]
        group.tell(one, "leave")
        group.until(lambda: group.ends[one] is not None)
        assert group.ends[one] == "well"
        group.until(group.whole(three, rounds=rounds))
        assert all(group.said[three]["counts"][i] >= before[i] for i in before)
        group.finish(three)
        check(fits, group, [three], histories)


def test_strangers_are_refused_by_name_and_harm_nobody(fits, tmp_path):
    with fits.Fits(tmp_path) as group:
        one = group.start(first(fits))
        group.until(lambda: "address" in group.said[one])
        address = group.said[one]["address"]
        strangers = {
            "has another key": group.start(joiner(fits, address, key="x" * 40)),
            "of another run": group.start(joiner(fits, address, run="other")),
            "trains something else": group.start(joiner(fits, address, lam=0.25)),
        }
        group.until(lambda: all(group.ends[k] for k in strangers.values()))
        for words, k in strangers.items():
            assert group.ends[k].startswith(f"TransportError: this peer could not join {address}: who listens there")
            assert words in group.ends[k]
        assert group.said[one]["hosted"] == tuple(range(fits.SHARDS))
        assert set(group.said[one]["lives"].values()) == {1}
        group.finish(one)


def test_nobody_to_join_is_said(fits, tmp_path):
    with fits.Fits(tmp_path) as group:
        alone = group.start(joiner(fits, "tcp://127.0.0.1:9", wait_s=0.5))
        group.until(lambda: group.ends[alone] is not None)
        assert "could not join tcp://127.0.0.1:9: nobody was heard within 0.5 s" in group.ends[alone]


def test_rounds_end_for_all_once_every_shard_has_them(fits, tmp_path):
    with fits.Fits(tmp_path) as group:
        one = group.start(first(fits))
        group.until(lambda: "address" in group.said[one])
        address = group.said[one]["address"]
        two = group.start(joiner(fits, address, slow_s=0.05))
        group.until(group.whole(one, two))
        due = max(group.said[one]["counts"].values()) + 40
        three = group.start(joiner(fits, address, trainer={"max_epochs": due}))
        group.until(lambda: all(group.ends[k] for k in (one, two, three)))
        assert {group.ends[k] for k in (one, two, three)} == {"well"}
        assert all(min(group.said[k]["counts"].values()) >= due - 1 for k in (one, two, three))
        assert min(group.said[three]["counts"].values()) >= due


def test_a_shard_goes_on_from_its_file_at_its_next_host(fits, tmp_path):
    files = tmp_path / "shards"
    with fits.Fits(tmp_path) as group:
        one = group.start(first(fits, checkpoints=str(files)))
        group.until(lambda: "address" in group.said[one])
        two = group.start(joiner(fits, group.said[one]["address"], checkpoints=str(files)))
        group.until(group.whole(one, two))
        # The next files after five seconds have what was reached by then.
        group.until(lambda: len(list(files.glob("shard-*.pt"))) == fits.SHARDS)
        lost = group.said[two]["hosted"]
        counts = dict(group.said[one]["counts"])
        group.kill(two)
        group.until(group.whole(one))
        assert all(group.said[one]["lives"][i] >= 2 for i in lost)
        assert all(group.said[one]["counts"][i] >= counts[i] for i in counts)
        group.finish(one)
    assert sorted(path.name for path in files.iterdir()) == [f"shard-000{i}.pt" for i in range(fits.SHARDS)]


def test_a_process_that_fails_while_it_sets_up_ends_and_frees_its_port(fits, tmp_path, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        listen = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    with monkeypatch.context() as broken, fits.quiet(), pytest.raises(RuntimeError, match="no such luck"):

        def fail(*_):
            raise RuntimeError("no such luck")

        broken.setattr("fulgurite.plugins.dynamic_async.strategy.ShardTraining", fail)
        fits.trainer(fits.strategy(listen=listen)).fit(fits.probe(), fits.loader())
    with fits.quiet():
        fits.trainer(fits.strategy(listen=listen), max_epochs=1).fit(fits.probe(), fits.loader())
