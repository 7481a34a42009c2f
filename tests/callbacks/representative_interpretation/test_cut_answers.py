"""What a cut takes for the logits of what a network answers."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fulgurite.callbacks.representative_interpretation.cut import candidates, split


def pictures(count=5):
    return torch.randn(count, 1, 12, 12, generator=torch.Generator().manual_seed(0))


class Traceable(nn.Module):
    def __init__(self, outputs=3):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2))
        self.last = nn.Sequential(nn.Flatten(), nn.Linear(150, 16), nn.ReLU(), nn.Linear(16, outputs))

    def forward(self, images):
        return self.last(self.first(images))


class Branching(Traceable):
    """Nothing that torch.fx could trace."""

    def forward(self, images):
        return super().forward(images / 2 if images.abs().max() > 1e6 else images)


def made(build):
    torch.manual_seed(0)
    return build().eval()


def check(net, name, images, **options):
    """G(ψ(x)) = F(x) in both precisions, with a gradient."""
    cut = split(net, name, images, **options)
    maps, answers = cut.predict(images)
    torch.testing.assert_close(cut.logits(images), answers)
    exact = maps.double().requires_grad_()
    out = cut.head(exact)
    torch.testing.assert_close(out.float(), answers)
    torch.testing.assert_close(cut.head(maps), answers)
    (gradient,) = torch.autograd.grad(out[:, 1].sum(), exact)
    assert gradient.any()
    return cut


@pytest.mark.parametrize("outputs", [1, 2])
def test_a_single_logit_counts_as_two(outputs):
    net, images = made(lambda: Traceable(outputs)), pictures()
    cut = check(net, "first", images)
    assert cut.num_classes == 2
    if outputs == 1:
        assert not cut.logits(images)[:, 0].any()
        flat = split(net, "first", images, logits=lambda out: out[:, 0])
        assert torch.equal(flat.logits(images), cut.logits(images))


def test_answers_that_are_no_tensor():
    class Several(Traceable):
        def forward(self, images):
            answer = super().forward(images)
            return {"logits": answer, "aux": answer.sum()}

    net, images = made(Several), pictures()
    with pytest.raises(ValueError, match=r"got a dict of logits, aux from the model; .*pass logits=lambda out"):
        candidates(net, images)

    def logits(out):
        return out["logits"]

    assert candidates(net, images, logits=logits) == ("first.2",)
    check(net, "first.2", images, logits=logits)


@pytest.mark.parametrize("build", [Traceable, Branching])
def test_probabilities_beside_the_logits(build):
    class Both(build):
        def forward(self, images):
            answer = super().forward(images)
            return {"logits": answer, "probs": answer.softmax(1)}

    net, images = made(Both), pictures()

    def logits(out):
        return out["logits"]

    cut = check(net, candidates(net, images, logits=logits)[-1], images, logits=logits)
    assert (cut.piecewise_linear, cut.reason) == (True, "")
    with pytest.raises(ValueError, match="ends in softmax"):
        split(net, cut.name, images, logits=lambda out: out["probs"])


ENDS = {
    "module": lambda net: nn.Sequential(net, nn.LogSoftmax(1)),
    "function": lambda net: Ending(net, lambda logits: F.log_softmax(logits, dim=-1)),
    "method": lambda net: Ending(net, lambda logits: logits.log_softmax(1)),
    "operator": lambda net: Ending(net, lambda logits: torch.log_softmax(input=logits, dim=1)),
}


class Ending(nn.Module):
    def __init__(self, net, end):
        super().__init__()
        self.net, self.end = net, end

    def forward(self, images):
        return self.end(self.net(images))


@pytest.mark.parametrize("build", [Traceable, Branching])
@pytest.mark.parametrize("end", ["module", "function", "method", "operator"])
def test_of_log_probabilities_the_logits_are_what_they_were_made_of(build, end):
    inner, images = made(build), pictures()
    net = ENDS[end](inner).eval()
    name = candidates(net, images)[-1]
    cut = check(net, name, images)
    plain = split(inner, candidates(inner, images)[-1], images)
    torch.testing.assert_close(cut.logits(images), plain.logits(images))
    with torch.no_grad():
        torch.testing.assert_close(cut.logits(images).log_softmax(1), net(images))
    assert (cut.method, cut.piecewise_linear, cut.dtype) == (plain.method, True, torch.float64)
    taken = split(net, name, images, logits=lambda out: out)
    assert torch.equal(taken.logits(images), cut.logits(images))


def test_log_probabilities_that_are_worked_on_are_no_logits():
    net, images = Ending(made(Traceable), lambda logits: 2 * F.log_softmax(logits, 1)), pictures()
    assert "log_softmax is not" in split(net, "net.first", images).reason
    with pytest.raises(ValueError, match=r"ends in log_softmax; .* have it return the value before that"):
        split(Ending(made(Traceable), lambda logits: F.log_softmax(logits, 1)[:, :]), "net.first", images)


@pytest.mark.parametrize("layer", [nn.Softmax(1), nn.Sigmoid()])
def test_probabilities_are_refused(layer):
    net = made(lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 3), layer))
    with pytest.raises(ValueError, match=r"ends in (softmax|sigmoid); expected logits"):
        split(net, "1", pictures())
