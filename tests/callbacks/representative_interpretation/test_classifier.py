import pytest
import torch
from torch import nn

from fulgurite.callbacks.representative_interpretation.classifier import Classifier, agree, as_logits


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((torch.zeros(2, 3), 1), "got a tuple of 2 from the model"),
        ([torch.zeros(2, 3)], "got a list of 1"),
        (None, "got a NoneType"),
        (torch.zeros(2, 3, 4), r"got float32 \(2, 3, 4\) from the model for 2 images"),
        (torch.zeros(3, 3), r"got float32 \(3, 3\)"),
        (torch.zeros(()), r"got float32 \(\)"),
        (torch.zeros(2, 3, dtype=torch.int64), "got int64"),
    ],
)
def test_answers_that_are_no_logits(answer, message):
    with pytest.raises(ValueError, match=f"{message}.*expected logits.*pass logits=lambda out"):
        as_logits(answer, 2)


def test_wrappers_are_taken_off():
    net = nn.Linear(2, 2)
    assert Classifier(nn.DataParallel(net)).model is net
    assert Classifier(torch.compile(net)).model is net


def test_names_may_begin_in_the_wrappers():
    net = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)))
    assert Classifier(nn.DataParallel(net)).own_name("module.1.0") == "1.0"
    assert Classifier(torch.compile(net)).own_name("_orig_mod.1") == "1"
    both = Classifier(nn.DataParallel(torch.compile(net)))
    assert [both.own_name(name) for name in ("module._orig_mod.1", "1", "relu_1")] == ["1", "1", "relu_1"]
    inner = nn.Sequential()
    inner.module = net
    assert Classifier(nn.DataParallel(inner)).own_name("module.1") == "module.1"
    assert Classifier(nn.DataParallel(inner)).own_name("module.module.1") == "module.1"
    assert Classifier(net).own_name("module.1") == "module.1"


def test_answers_at_random_are_told_from_those_that_depend_on_the_batch():
    noise = torch.Generator().manual_seed(0)

    class Noisy(nn.Module):
        def forward(self, images):
            return images + torch.rand(images.shape, generator=noise)

    class Centred(nn.Module):
        def forward(self, images):
            return images - images.mean(0)

    images = torch.rand(3, 2, generator=torch.Generator().manual_seed(1))
    for count in (1, 3):
        with pytest.raises(ValueError, match=r"other logits for the same images each time.*functional dropout"):
            Classifier(Noisy()).expected(images[:count])
    with pytest.raises(ValueError, match="an image alone than beside others"):
        Classifier(Centred()).expected(images)


def test_dropout_that_is_always_on_is_found_even_where_one_image_gets_the_same_logits():
    class Dropping(nn.Module):
        def forward(self, images):
            return nn.functional.dropout(images, 0.5)

    images = torch.rand(8, 2, generator=torch.Generator().manual_seed(1)) + 1
    with torch.random.fork_rng():
        for seed in range(40):
            torch.manual_seed(seed)
            with pytest.raises(ValueError, match="same images each time"):
                Classifier(Dropping()).expected(images)


def test_numbers_that_are_drawn_in_vain_do_no_harm():
    class Drawing(nn.Module):
        def forward(self, images):
            return images + 0 * torch.rand(1)

    images = torch.ones(3, 2)
    with torch.random.fork_rng():
        assert torch.equal(Classifier(Drawing()).expected(images), images)


def test_a_network_with_a_child_called_module_is_no_wrapper():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = nn.Linear(2, 2)

    net = Net()
    assert Classifier(net).model is net


def test_images_take_the_networks_type():
    assert Classifier(nn.Linear(2, 2).double()).ready(torch.zeros(1, 2)).dtype == torch.float64
    with torch.inference_mode():
        made_inside = torch.zeros(1, 2)
    assert not Classifier(nn.Linear(2, 2)).ready(made_inside).is_inference()


def test_agreement_is_relative_to_the_largest_logit():
    logits = torch.tensor([[1000.0, 1.0]])
    assert agree(logits + 0.01, logits)
    assert not agree(logits + 1, logits)
    assert not agree(logits[:, :1], logits)
    assert not agree(logits * torch.nan, logits)
