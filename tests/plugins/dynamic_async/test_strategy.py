"""The strategy in one process: what it computes, and what it refuses."""

import logging
import socket

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.nn import functional
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.utils.data import DataLoader, IterableDataset

from fulgurite.plugins.dynamic_async.engine.transport import TransportError
from fulgurite.plugins.dynamic_async.strategy import DynamicAsyncStrategy


def fit(fits, chosen=None, module=None, train=None, val=None, **options):
    module = fits.probe() if module is None else module
    run = fits.trainer(chosen, **options)
    with fits.quiet():
        run.fit(module, fits.loader() if train is None else train, val)
    return run, module


def plain(fits, rounds, *, star=False):
    """Plain SGD on the anchored objective, shard by shard, without Lightning or peers; (n, d) at the end."""
    rows, lam, count = fits.data(), fits.LAM, fits.SHARDS
    module = fits.probe().double()
    weights = [*module.network.parameters()]
    descent = torch.optim.SGD(weights, lr=fits.RATE)
    start = parameters_to_vector(weights).detach()
    states = [start] * count
    for _ in range(rounds):
        for i in range(count):
            vector_to_parameters(states[i].clone(), weights)
            x, labels = rows[i::count]
            phi = module.body(x.double())
            phi = phi / phi.norm(dim=1, keepdim=True).clamp_min(1)
            decay = sum((w.square().sum() for w in weights), start=torch.zeros((), dtype=torch.float64))
            descent.zero_grad()
            (functional.cross_entropy(module.network(phi), labels) + fits.MU / 2 * decay).backward()
            # One process: everybody's newest state is known.
            if star:
                drawn = states[i] - torch.stack(states).mean(dim=0)
            else:
                drawn = sum(states[i] - states[j] for j in range(count) if j != i) / (count - 1)
            sizes = [w.numel() for w in weights]
            for w, pull in zip(weights, (lam * drawn).split(sizes), strict=True):
                w.grad += pull.view(w.shape)
            descent.step()
            states[i] = parameters_to_vector(weights).detach()
    return torch.stack(states).numpy()


class Ended(pl.Callback):
    """The shards' states when training ends."""

    def on_train_end(self, trainer, module):
        peer = trainer.strategy.peer
        self.states = np.stack([block.value for _, block in sorted(peer.blocks().items())])
        self.counts = dict(trainer.strategy.training.counts)
        certificate = trainer.strategy.certificate()
        self.verdict = trainer.strategy.verdict
        self.bound = float("inf") if certificate is None else certificate.bound(peer.rounds())


@pytest.mark.parametrize("rounds", [1, 5])
def test_one_peer_is_plain_descent_on_the_anchored_objective_bit_for_bit(fits, rounds):
    ended = Ended()
    fit(fits, max_epochs=rounds, callbacks=[ended])
    assert ended.counts == dict.fromkeys(range(fits.SHARDS), rounds)
    assert np.array_equal(ended.states, plain(fits, rounds))
    # The first evaluation is at 0, where no weight decay can be seen.
    assert ended.verdict[0] == ("certified" if rounds > 1 else "empirical")


def test_one_peer_of_a_star_is_too(fits):
    ended = Ended()
    fit(fits, fits.strategy(topology="star"), max_epochs=3, callbacks=[ended])
    np.testing.assert_allclose(ended.states[: fits.SHARDS], plain(fits, 3, star=True), rtol=0, atol=1e-12)


@pytest.mark.parametrize("topology", ["complete", "star"])
def test_it_stops_at_eps_within_the_bound_of_the_direct_solution(fits, topology):
    ended = Ended()
    view = range(fits.SHARDS + (topology == "star"))
    _, module = fit(fits, fits.strategy(topology=topology, eps=1e-4), max_epochs=-1, callbacks=[ended])
    found = fits.answer(view, topology)
    error = max(float(np.linalg.norm(ended.states[i] - found[i])) for i in view)
    assert error <= ended.bound <= 1e-4
    mean = np.mean([found[i] for i in range(fits.SHARDS)], axis=0)
    left = np.concatenate([weight.detach().double().numpy().ravel() for weight in module.network.parameters()])
    np.testing.assert_allclose(left, mean, rtol=0, atol=1e-4)


def test_validation_and_checkpoints_have_the_mean_of_the_shards(fits, tmp_path):
    ended = Ended()
    saved = ModelCheckpoint(tmp_path, save_last=True)
    module = fits.probe()
    seen = []
    step = module.validation_step
    module.validation_step = lambda batch, batch_idx: (
        seen.append(module.network.weight.detach().clone()),
        step(batch, batch_idx),
    )
    run, _ = fit(
        fits, None, module, val=fits.loader(), max_epochs=2, callbacks=[ended, saved], enable_checkpointing=True
    )
    mean = ended.states.mean(axis=0)
    weight = torch.from_numpy(mean[: module.network.weight.numel()]).view(module.network.weight.shape)
    kept = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]["network.weight"]
    for found in (kept, seen[-1], module.network.weight.detach()):
        torch.testing.assert_close(found.double(), weight, rtol=0, atol=1e-15)
    assert "val/accuracy" in run.callback_metrics


def test_fast_dev_run_takes_a_step_of_each_loop(fits):
    run, _ = fit(fits, val=fits.loader(), fast_dev_run=True)
    assert run.global_step == 1
    assert run.state.finished


def test_a_network_that_is_not_convex_trains_and_is_empirical(fits):
    class Network(pl.LightningModule):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.body = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))

        def training_step(self, batch, index):
            return functional.cross_entropy(self.body(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=0.02)

    module = Network()
    before = functional.cross_entropy(module.body(fits.data().tensors[0]), fits.data().tensors[1])
    run, _ = fit(fits, fits.strategy(certify="report"), module, max_epochs=20, precision="32-true")
    after = functional.cross_entropy(module.body(fits.data().tensors[0]), fits.data().tensors[1])
    assert after < before / 2
    verdict, reason = run.strategy.verdict
    assert verdict == "empirical"
    assert "Network has no objective_bounds" in reason
    with pytest.raises(ValueError, match="certify: require, but the answer would not be certified: Network has no"):
        fit(fits, None, Network())


class Refused:
    """Modules that the certificate, or the strategy, cannot take."""

    @staticmethod
    def with_optimizer(fits, make):
        module = fits.probe()
        module.configure_optimizers = lambda: make(module.network.parameters())
        return module


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda w: torch.optim.SGD(w, lr=0.1, momentum=0.9), "SGD has momentum=0.9; plain steps"),
        (lambda w: torch.optim.SGD(w, lr=0.1, weight_decay=0.1), "weight_decay=0.1.*; put it into the loss"),
        (lambda w: torch.optim.Adam(w, lr=0.1), "Adam is not plain gradient descent; take torch.optim.SGD"),
        (lambda w: torch.optim.SGD(w, lr=5.0), r"the learning rate is 5; at most 2/\(L \+ mu \+ 2 lam\) = 0.83"),
    ],
)
def test_an_optimizer_that_is_not_certified_is_refused_with_what_to_change(fits, make, words):
    with pytest.raises(ValueError, match=f"certify: require, but .*{words}"):
        fit(fits, None, Refused.with_optimizer(fits, make))
    if "rate is 5" not in words:  # which diverges
        run, _ = fit(fits, fits.strategy(certify="report"), Refused.with_optimizer(fits, make), max_epochs=1)
        assert run.strategy.verdict[0] == "empirical"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gradient_clip_val": 1.0}, "gradients are clipped at 1.0; take gradient_clip_val: null"),
        ({"precision": "bf16-mixed"}, "precision bf16-mixed rounds"),
        ({"accumulate_grad_batches": 2}, "got accumulate_grad_batches=2; a step of a shard is one batch here"),
    ],
)
def test_a_trainer_that_does_not_fit_is_refused(fits, options, words):
    with pytest.raises(ValueError, match=words):
        fit(fits, **options)


def test_several_optimizers_are_refused(fits):
    module = fits.probe()
    module.configure_optimizers = lambda: (
        [torch.optim.SGD([weight], lr=0.1) for weight in module.network.parameters()],
        [],
    )
    module.automatic_optimization = False
    with pytest.raises(ValueError, match="optimizes by hand"):
        fit(fits, None, module)


def test_data_without_a_length_are_refused(fits):
    class Stream(IterableDataset):
        def __iter__(self):
            yield from fits.data()

    with pytest.raises(
        ValueError, match=r"dataset Stream has no length|samples are dealt out by index|InfiniteSampler"
    ):
        fit(fits, train=DataLoader(Stream(), batch_size=4))


def test_a_loss_that_is_not_what_is_stated_is_refused_at_the_first_step(fits):
    module = fits.probe()
    module.objective_bounds = lambda: (0.5, 2.0)
    module.learning_rate = 0.1
    with pytest.raises(
        ValueError, match=r"objective_bounds\(\) states mu = 0.5; the cross_entropy here has a weight decay"
    ):
        fit(fits, None, module)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shards": 0}, "shards=0"),
        ({"local_peers": 0}, "local_peers=0"),
        ({"lam": -1.0}, "lam=-1"),
        ({"eps": 0.0}, "eps=0.0"),
        ({"transport": "mpi"}, "transport='mpi'; choose from 'zmq', 'ray'"),
        ({"topology": "ring"}, "topology='ring'"),
        ({"certify": "maybe"}, "certify='maybe'"),
        ({"heartbeat_s": 2.0, "timeout_s": 1.0}, "0 < heartbeat_s < timeout_s"),
        ({"join": ["tcp://127.0.0.1:5000"]}, "join: without run:"),
    ],
)
def test_bad_options_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        DynamicAsyncStrategy(**options)


def test_beyond_this_machine_a_key_is_due(fits, monkeypatch):
    monkeypatch.delenv("FULGURITE_ASYNC_KEY", raising=False)
    with pytest.raises(TransportError, match="can be reached from other machines and there is no key"):
        fit(fits, fits.strategy(listen="tcp://0.0.0.0:0"))


def test_a_port_in_use_is_named(fits):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(TransportError, match=str(port)):
            fit(fits, fits.strategy(listen=f"tcp://127.0.0.1:{port}"))


def test_an_eps_below_what_rounding_adds_up_to_is_refused(fits):
    with pytest.raises(ValueError, match=r"eps=1e-12 is out of reach: rounding alone .* precision: 64-true"):
        fit(fits, fits.strategy(eps=1e-12), precision="32-true", max_epochs=-1)


def test_more_shards_than_samples_are_refused(fits):
    with pytest.raises(ValueError, match="got 42 samples for 43 shards"):
        fit(fits, fits.strategy(shards=43))


def test_shard_files_are_gone_on_from(fits, tmp_path):
    first, second = Ended(), Ended()
    fit(fits, fits.strategy(checkpoints=str(tmp_path)), max_epochs=30, callbacks=[first])
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"shard-000{i}.pt" for i in range(fits.SHARDS)]
    for i in range(fits.SHARDS):
        kept = torch.load(tmp_path / f"shard-000{i}.pt", weights_only=True)
        assert kept["evaluations"] == 30
        assert np.array_equal(kept["value"].numpy(), first.states[i])
    # The count goes on, so that one more round is enough.
    fit(fits, fits.strategy(checkpoints=str(tmp_path)), max_epochs=31, callbacks=[second])
    assert set(second.counts.values()) == {31}
    assert np.array_equal(second.states, plain(fits, 31))


def test_a_shard_file_of_another_model_is_left_alone(fits, tmp_path, caplog):
    fit(fits, fits.strategy(checkpoints=str(tmp_path)), max_epochs=2)
    ended = Ended()
    with caplog.at_level(logging.WARNING):
        fit(fits, fits.strategy(checkpoints=str(tmp_path), lam=0.4), max_epochs=1, callbacks=[ended])
    assert "is of another model, data cut or lam" in caplog.text
    assert set(ended.counts.values()) == {1}


def test_a_joining_value_outside_x_is_refused(fits, tmp_path, caplog):
    fit(fits, fits.strategy(checkpoints=str(tmp_path)), max_epochs=2)
    path = tmp_path / "shard-0001.pt"
    content = torch.load(path, weights_only=True)
    content["value"] += 1e6
    torch.save(content, path)
    ended = Ended()
    with caplog.at_level(logging.WARNING):
        fit(fits, fits.strategy(checkpoints=str(tmp_path)), max_epochs=3, callbacks=[ended])
    assert "outside the domain X of its run): shard 1 does not begin from it" in caplog.text
    assert "shard 0" not in caplog.text
    assert ended.verdict[0] == "certified"
    assert np.linalg.norm(ended.states, axis=1).max() < 100


def test_a_damaged_shard_file_is_left_alone(fits, tmp_path, caplog):
    (tmp_path / "shard-0002.pt").write_bytes(b"torn")
    ended = Ended()
    with caplog.at_level(logging.WARNING):
        fit(fits, fits.strategy(checkpoints=str(tmp_path)), max_epochs=1, callbacks=[ended])
    assert "shard 2 does not begin from it" in caplog.text
    assert np.array_equal(ended.states, plain(fits, 1))


def test_a_full_disk_is_a_warning_and_training_goes_on(fits, tmp_path, caplog, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fulgurite.plugins.dynamic_async.shard_checkpoints.torch.save", full)
    ended = Ended()
    with caplog.at_level(logging.WARNING):
        fit(fits, fits.strategy(checkpoints=str(tmp_path)), max_epochs=3, callbacks=[ended])
    assert "No space left on device; training goes on" in caplog.text
    assert caplog.text.count("No space left") == 1
    assert np.array_equal(ended.states, plain(fits, 3))
    assert list(tmp_path.iterdir()) == []
