import lightning.pytorch as pl
import pytest
import torch
from torch import nn

from fulgurite.callbacks import FaultInjector
from fulgurite.callbacks.fault_injector import VARIABLE
from fulgurite.data import Digits
from fulgurite.models.softmax_probe import SoftmaxProbe
from fulgurite.plugins.dynamic_async.strategy import DynamicAsyncStrategy


def trainer(injector, strategy):
    return pl.Trainer(
        accelerator="cpu",
        devices=1,
        strategy=strategy,
        max_epochs=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[injector],
    )


def test_it_is_refused_unless_it_is_allowed(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(ValueError, match="give allow: true, or set FULGURITE_ALLOW_FAULTS=1"):
        FaultInjector(drop=0.1)
    monkeypatch.setenv(VARIABLE, "0")
    with pytest.raises(ValueError, match="give allow: true"):
        FaultInjector(drop=0.1)
    monkeypatch.setenv(VARIABLE, "1")
    assert FaultInjector(drop=0.1).faults.drop == 0.1


@pytest.mark.parametrize(("options", "words"), [({"drop": 1.5}, "drop is a chance"), ({"lives": -1}, "lives=-1")])
def test_bad_options_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        FaultInjector(allow=True, **options)


def test_who_is_struck():
    injector = FaultInjector(kill=0.1, pause=0.2, partition=0.3, drop=0.4, peers=[0, 2], lives=2, allow=True)
    assert injector.struck(2, 0) == injector.struck(0, 1) == injector.faults
    spared = injector.struck(1, 0)
    assert (spared.kill, spared.pause, spared.partition, spared.drop) == (0.0, 0.0, 0.0, 0.4)
    again = injector.struck(2, 2)
    assert (again.kill, again.pause, again.partition, again.drop) == (0.0, 0.2, 0.3, 0.4)
    assert FaultInjector(kill=0.1, allow=True).struck(7, 0).kill == 0.1


def test_another_strategy_is_refused():
    with pytest.raises(ValueError, match="got SingleDeviceStrategy, which does not survive what it does"):
        trainer(FaultInjector(drop=0.1, allow=True), "auto").fit(SoftmaxProbe(10, features=8), Digits(batch_size=64))


def test_the_strategy_has_the_faults_before_it_makes_its_peer(monkeypatch):
    struck = []
    monkeypatch.setattr("fulgurite.plugins.dynamic_async.joining.Striker.__call__", lambda self: struck.append(1))
    made = []

    class Transport:
        def __init__(self, transport, faults, *, salt):
            made.append((faults, salt))
            self._transport = transport

        def __getattr__(self, name):
            return getattr(self._transport, name)

    monkeypatch.setattr("fulgurite.plugins.dynamic_async.joining.FaultyTransport", Transport)
    injector = FaultInjector(drop=0.5, seed=3, allow=True)
    run = trainer(injector, DynamicAsyncStrategy(shards=2, heartbeat_s=0.2))
    run.fit(SoftmaxProbe(10, features=8, learning_rate=0.1), Digits(batch_size=64))
    assert made == [(injector.faults, 0)]
    assert len(struck) == run.global_step == 6


def test_a_peer_s_second_life_has_other_chances(monkeypatch):
    salts = []
    monkeypatch.setattr(
        "fulgurite.plugins.dynamic_async.joining.Striker", lambda faults, *, salt, transport: salts.append(salt)
    )
    for life in ("0", "1"):
        monkeypatch.setenv("FULGURITE_ASYNC_LIFE", life)
        run = trainer(FaultInjector(kill=0.5, allow=True), DynamicAsyncStrategy(shards=2, heartbeat_s=0.2))
        run.fit(SoftmaxProbe(10, features=8, learning_rate=0.1), Digits(batch_size=64))
    assert len(set(salts)) == 2


def test_it_changes_no_weights():
    results = []
    for callbacks in ([], [FaultInjector(drop=0.9, delay=0.5, allow=True)]):
        torch.manual_seed(0)
        run = trainer(pl.Callback(), DynamicAsyncStrategy(shards=2, heartbeat_s=0.2))
        run.callbacks.extend(callbacks)
        module = SoftmaxProbe(10, features=8, learning_rate=0.1)
        run.fit(module, Digits(batch_size=64))
        results.append(nn.utils.parameters_to_vector(module.parameters()))
    assert torch.equal(*results)
