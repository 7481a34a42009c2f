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
