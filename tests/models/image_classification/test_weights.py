from collections import OrderedDict
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fulgurite.models.image_classification.weights import adapt_head, adapt_stem, find_weights, load_weights


def made(seed, classes=4, channels=3, width=8):
    torch.manual_seed(seed)
    stem = nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False)
    body = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(OrderedDict(stem=stem, body=body, head=nn.Linear(width, classes)))


class Around(pl.LightningModule):
    def __init__(self, attribute, network):
        super().__init__()
        setattr(self, attribute, network)
        self.other = nn.Linear(2, 2)


def saved(folder, content):
    path = Path(folder, "weights.pt")
    torch.save(content, path)
    return path


def same(first, second, but=()):
    second = second.state_dict()
    return {key for key, value in first.state_dict().items() if not torch.equal(value, second[key])} == set(but)


@pytest.mark.parametrize("attribute", [None, "network", "model", "backbone"])
def test_a_state_and_a_checkpoint_of_a_module_around_it_are_read(tmp_path, attribute):
    trained, fresh = made(1), made(2)
    module = Around(attribute, trained) if attribute else None
    state = {"state_dict": module.state_dict(), "epoch": 3} if module else trained.state_dict()
    load_weights(fresh, saved(tmp_path, state))
    assert same(fresh, trained)


def test_a_real_checkpoint_of_a_trainer_is_read(tmp_path):
    module = Around("network", made(1))
    trainer = pl.Trainer(logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu")
    trainer.strategy.connect(module)
    trainer.save_checkpoint(tmp_path / "module.ckpt")
    fresh = made(2)
    load_weights(fresh, tmp_path / "module.ckpt")
    assert same(fresh, module.network)


def test_a_last_layer_for_other_classes_starts_anew_and_this_is_said(tmp_path, caplog):
    trained, fresh = made(1, classes=9), made(2)
    before = fresh.head.weight.clone()
    with caplog.at_level("INFO"):
        load_weights(fresh, saved(tmp_path, trained.state_dict()))
    assert torch.equal(fresh.head.weight, before)
    assert torch.equal(fresh.stem.weight, trained.stem.weight)
    assert "is for 9 classes, the network for 4: its last layer head starts anew" in caplog.text


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (
            lambda: made(0, width=6).state_dict(),
            r"with another shape of stem.weight, \(6, 3, 3, 3\) for \(8, 3, 3, 3\)",
        ),
        (lambda: made(0, channels=1).state_dict(), r"with another shape of stem.weight"),
        (lambda: made(0)[:2].state_dict(), "without head.weight and 1 more"),
        (lambda: {**made(0).state_dict(), "tail.weight": torch.zeros(1)}, "with an unknown tail.weight"),
        (lambda: nn.Linear(2, 2).state_dict(), "without stem.weight"),
        (lambda: {"weights": [1, 2]}, "holds no weights"),
        (lambda: torch.zeros(3), "holds no weights"),
        (lambda: {}, "holds no weights"),
        (lambda: Path, "cannot be read as a file of weights"),
    ],
)
def test_weights_of_something_else_are_refused_and_nothing_is_loaded(tmp_path, content, match):
    network = made(2)
    path = saved(tmp_path, content())
    with pytest.raises(ValueError, match=rf"weights\.pt: .*{match}"):
        load_weights(network, path)
    assert same(network, made(2))


@pytest.mark.parametrize("content", [b"", b"no weights at all", b"PK\x03\x04 half a zip"])
def test_a_broken_file_is_one_line(tmp_path, content):
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"weights\.pt: cannot be read as a file of weights: .+") as info:
        load_weights(made(0), path)
    assert "\n" not in str(info.value)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**32), st.booleans())
def test_like_channels_give_what_they_gave(before, after, seed, bias):
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Conv2d(before, 4, 3, stride=2, padding=1, bias=bias))
    plane = torch.randn(2, 1, 7, 7)
    wanted = network(plane.expand(-1, before, -1, -1))
    adapt_stem(network, after, keep=True)
    torch.testing.assert_close(network(plane.expand(-1, after, -1, -1)), wanted)


def test_a_first_layer_that_is_not_worth_keeping_starts_at_random():
    network = made(0)
    adapt_stem(network, 2, keep=False)
    assert network.stem.weight.shape == (8, 2, 3, 3)
    assert not torch.equal(network.stem.weight[:, 0], network.stem.weight[:, 1])
    layer = network.stem
    adapt_stem(network, 2, keep=False)
    assert network.stem is layer


def test_the_last_layer_may_be_a_convolution():
    network = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 10, 1), nn.AdaptiveAvgPool2d(1))
    adapt_head(network, 2)
    assert network(torch.zeros(1, 3, 5, 5)).shape == (1, 2, 1, 1)


def test_a_file_beside_a_name(tmp_path):
    path = saved(tmp_path, {})
    assert find_weights(str(path), backbone="x", names=["DEFAULT"]) == path
    assert find_weights("DEFAULT", backbone="x", names=["DEFAULT"]) is None
    assert find_weights(None, backbone="x", names=[]) is None
