import random

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fulgurite.callbacks.representative_interpretation.untouched import untouched


def small():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    )
    net[1].training = False  # frozen, while the rest trains
    net[0].bias.requires_grad = False
    return net


def snapshot(net):
    return (
        [module.training for module in net.modules()],
        [(p.requires_grad, id(p.grad), None if p.grad is None else p.grad.clone().tolist()) for p in net.parameters()],
        [tensor.clone().tolist() for tensor in net.state_dict().values()],
        torch.get_rng_state().tolist(),
        str(np.random.get_state()),
        random.getstate(),
        (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")),
    )


def test_everything_is_put_back_whatever_is_done_inside():
    net = small()
    net(torch.randn(4, 1, 6, 6)).sum().backward()
    before = snapshot(net)
    with pytest.raises(KeyError), untouched(net):
        assert not any(module.training for module in net.modules())
        net.train()
        net(torch.randn(4, 1, 6, 6)).sum().backward()  # moves statistics, adds gradients, draws dropout
        net[1].running_mean = torch.ones(4)
        net.requires_grad_(False)
        np.random.rand(), random.random(), torch.rand(3)
        raise KeyError
    assert snapshot(net) == before


def test_weights_made_in_inference_mode():
    with torch.inference_mode():
        net = small()
        net(torch.randn(4, 1, 6, 6))
    before = snapshot(net)
    with untouched(net), torch.no_grad():
        net(torch.randn(2, 1, 6, 6))
    assert snapshot(net) == before


def test_what_cannot_be_put_back_leaves_the_rest_to_be():
    net = small()
    before = snapshot(net)

    class Stubborn(dict):
        def get(self, name, default=None):
            raise KeyError(name)

    with pytest.raises(KeyError, match="running_mean"), untouched(net):
        net.train()
        net.requires_grad_(False)
        net[1]._buffers = Stubborn(net[1]._buffers)
        net[1].running_var += 1
    net[1]._buffers = dict(net[1]._buffers)
    assert snapshot(net) == before


def test_attributes_are_put_back_and_containers_get_their_entries_again():
    net, kept = small(), torch.ones(2)
    net.last, net.count, net.seen, net.by_name = kept, 3, [kept], {"a": kept}
    net[0].gone = seen = {1}
    listed = net.seen
    with pytest.raises(KeyError), untouched(net):
        net.last = net[3].last = torch.zeros(2)
        net.count += 1
        net.seen.append(kept)
        net.by_name["a"] = 0
        seen.add(2)
        del net[0].gone
        raise KeyError
    assert net.last is kept
    assert net.seen is listed
    assert (net.count, len(listed), net.by_name["a"] is kept, net[0].gone) == (3, 1, True, {1})
    assert not hasattr(net[3], "last")


def test_a_part_of_what_is_looked_into_is_as_well(monkeypatch):
    net, copies = small(), []
    monkeypatch.setattr(net[1].running_mean, "clone", lambda: copies.append(0) or torch.zeros(4), raising=False)
    with untouched(nn.DataParallel(net)), untouched(net), untouched(net[1]), torch.no_grad():
        pass
    assert len(copies) == 1
    assert net.training


def test_train_is_never_called():
    class Guarded(nn.Linear):
        def train(self, mode=True):
            raise AssertionError("train was called")

    net = Guarded(2, 2)
    with untouched(net):
        assert not net.training
    assert net.training


def test_gradients_inside_inference_mode():
    net = small()
    with torch.inference_mode():
        images = torch.randn(2, 1, 6, 6)
        with untouched(net):
            point = images.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(net(point).sum(), point)
        assert torch.is_inference_mode_enabled()
    assert gradient.any()


def test_evaluation_is_exact_under_autocast():
    net = small()
    images = torch.randn(2, 1, 6, 6)
    with untouched(net):
        expected = net(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert net(images).dtype == torch.bfloat16
        with untouched(net):
            assert torch.equal(net(images), expected)
        assert torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_precision_of_products(precision):
    backends = torch.backends
    settings = [backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn, backends.mkldnn.matmul]

    def now():
        return [setting.fp32_precision for setting in settings] + [backends.cudnn.allow_tf32]

    first = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        before = now()
        with untouched(nn.Linear(1, 1)):
            assert not {"tf32", "bf16"} & set(map(str, now()))
            assert torch.get_float32_matmul_precision() == "highest"
        assert now() == before
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(first)


def test_a_seed_makes_random_answers_repeat_and_leaves_no_trace():
    net = nn.Linear(1, 1)
    before = torch.get_rng_state()
    drawn = []
    for seed in (3, 3, 4):
        with untouched(net, seed=seed):
            drawn.append((torch.rand(1).item(), float(np.random.rand()), random.random()))
    assert drawn[0] == drawn[1] != drawn[2]
    assert torch.equal(torch.get_rng_state(), before)


def test_entered_again_it_respects_what_is_set_inside():
    net = small()
    with untouched(net), torch.no_grad(), untouched(net):
        assert not torch.is_grad_enabled()
    assert net.training


def test_statistics_of_the_batch_are_refused():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, track_running_stats=False))
    with pytest.raises(ValueError, match=r"without running statistics \('1'\)"), untouched(net):
        pass


def test_compiled_functions_run_as_written():
    calls = []

    def backend(graph, _):
        calls.append(graph)
        return graph.forward

    net = nn.Linear(2, 2)
    compiled = torch.compile(net, backend=backend)
    with untouched(net):
        compiled(torch.ones(1, 2))
    assert not calls
    compiled(torch.ones(1, 2))
    assert calls


class Validated(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net, self.gradients = small(), []

    def forward(self, images):
        return self.net(images)

    def validation_step(self, batch, _):
        assert torch.is_inference_mode_enabled()
        with untouched(self):
            point = batch[0].clone().requires_grad_()
            (gradient,) = torch.autograd.grad(self(point).sum(), point)
        self.gradients.append(gradient)


def test_a_lightning_module_in_validation():
    module = Validated()
    loader = DataLoader(TensorDataset(torch.randn(4, 1, 6, 6)), batch_size=2)
    options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    pl.Trainer(**options).validate(module, loader, verbose=False)
    assert len(module.gradients) == 2
    assert module.gradients[0].any()
