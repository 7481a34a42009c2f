import logging
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Timer
from torch import nn

from fulgurite.plugins.dynamic_async.conditions import (
    Obstacle,
    check_choice,
    check_number,
    check_trainer,
    find_watch,
    timed_out,
)

MU, SMOOTH, LAM = 0.2, 1.2, 0.5
LONGEST = 2 / (MU + SMOOTH + 2 * LAM)


class Probe(pl.LightningModule):
    def __init__(self, *layers):
        super().__init__()
        self.network = nn.Sequential(*layers, nn.Linear(4, 3))

    def objective_bounds(self):
        return MU, SMOOTH


def trainer(**changes):
    usual = {
        "accumulate_grad_batches": 1,
        "num_devices": 1,
        "num_nodes": 1,
        "gradient_clip_val": None,
        "precision": "32-true",
        "callbacks": [],
        "lr_scheduler_configs": [],
    }
    return SimpleNamespace(**usual | changes)


def watch(module=None, optimizer=None, full_batch=True, **changes):
    module = Probe() if module is None else module
    run = trainer(**changes)
    if isinstance(module, pl.LightningModule):
        module._trainer = run
        module._fabric = None
    optimizer = optimizer or torch.optim.SGD(module.parameters(), lr=LONGEST * 0.99)
    return find_watch(run, module, optimizer, LAM, full_batch=full_batch)


def test_all_that_a_certificate_needs_passes():
    found = watch()
    assert (found.mu, found.lipschitz) == (MU, SMOOTH)


def test_the_longest_step_leaves_room_for_what_the_check_lets_pass():
    module = Probe()
    watch(module, torch.optim.SGD(module.parameters(), lr=LONGEST * (1 - 2e-5)))
    with pytest.raises(Obstacle, match="the learning rate is"):
        watch(module, torch.optim.SGD(module.parameters(), lr=LONGEST))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"full_batch": False}, "full_batch: false draws the gradient by chance"),
        ({"gradient_clip_val": 0.5}, "gradients are clipped at 0.5"),
        ({"precision": "16-mixed"}, "precision 16-mixed rounds"),
        ({"lr_scheduler_configs": [1]}, "the learning rate is scheduled"),
        ({"module": nn.Linear(2, 2)}, r"Linear has no objective_bounds\(\)"),
    ],
)
def test_what_is_missing_is_named(changes, words):
    with pytest.raises(Obstacle, match=words):
        watch(**changes)


def test_two_rates_are_refused():
    module = Probe()
    head = module.network[-1]
    groups = [{"params": [head.weight], "lr": 0.1}, {"params": [head.bias], "lr": 0.2}]
    with pytest.raises(Obstacle, match=r"the learning rate is 0\.2"):
        watch(module, torch.optim.SGD(groups))


def test_coarser_products_of_float32_are_refused():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with pytest.raises(Obstacle, match="products of float32 are of precision 'high'"):
            watch()
        watch(precision="64-true")
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"accumulate_grad_batches": 4}, "accumulate_grad_batches=4"),
        ({"num_devices": 2}, "devices=2"),
        ({"num_nodes": 2}, "num_nodes=2"),
    ],
)
def test_a_trainer_that_does_not_fit_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        check_trainer(trainer(**changes), Probe(), [object()])
    with pytest.raises(ValueError, match="got 2 optimizers"):
        check_trainer(trainer(), Probe(), [object(), object()])


def test_statistics_that_stay_with_a_process_are_warned_of(recwarn):
    check_trainer(trainer(), Probe(nn.BatchNorm1d(4).eval(), nn.LayerNorm(4)), [object()])
    assert not [one for one in recwarn if "running statistics" in str(one.message)]
    with pytest.warns(UserWarning, match=r"the running statistics of 'network.0' and others stay with each process"):
        check_trainer(trainer(), Probe(nn.BatchNorm1d(4), nn.BatchNorm1d(4)), [object()])


def test_options_are_checked():
    check_choice("topology", "star", "complete", "star")
    with pytest.raises(ValueError, match="got topology='ring'; choose from 'complete', 'star'"):
        check_choice("topology", "ring", "complete", "star")
    check_number("shards", 3, 1, 4)
    for value in (0, 5, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"got shards={value}; expected 1 or more, up to 4"):
            check_number("shards", value, 1, 4)
    with pytest.raises(ValueError, match=r"got lam=inf; expected 0 or more$"):
        check_number("lam", float("inf"), 0)


def test_a_timer_says_whether_this_processs_time_is_over():
    timers = {left: Timer({"seconds": 100}) for left in (None, 50.0, 0.0)}
    for left, timer in timers.items():
        timer.time_remaining = lambda left=left: left
    assert not timed_out(trainer())
    assert not timed_out(trainer(callbacks=[timers[None], timers[50.0]]))
    assert timed_out(trainer(callbacks=[timers[50.0], timers[0.0]]))


def test_an_eps_that_cannot_stop_it_is_warned_of(fits, caplog):
    with caplog.at_level(logging.WARNING), fits.quiet():
        run = fits.trainer(fits.strategy(certify="report", full_batch=False, eps=1e-3), max_epochs=1)
        run.fit(fits.probe(), fits.loader())
    assert "eps=0.001 cannot stop this training, which is not certified: full_batch: false" in caplog.text
