import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.models.dynamic_gnn import endpoint_classifier
from fulgurite.models.dynamic_gnn.endpoint_classifier import EndpointClassifier


def draw(seed: int, ends: int, steps: int, num_nodes: int, targets: int):
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(steps, num_nodes, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    step = torch.randint(max(steps, 1), (targets,), generator=generator)
    return embeddings, step, torch.randint(num_nodes, (ends, targets), generator=generator)


def reference(head: EndpointClassifier, embeddings, step, index):
    rows = torch.stack([embeddings[step, end] for end in index], dim=1)  # (M, k, F)
    logits = head.linear(rows.flatten(1))
    return logits if head.product is None else logits + head.product(rows.prod(dim=1))


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from([(1, "linear"), (2, "linear"), (2, "product")]),
    targets=st.integers(0, 40),
)
def test_few_and_many_targets_are_classified_as_their_rows_side_by_side(seed, kind, targets):
    ends, name = kind
    torch.manual_seed(seed)
    head = EndpointClassifier(3, ends=ends, num_classes=2, head=name).double()
    embeddings, step, index = draw(seed, ends, 3, 5, targets)
    inputs = [embeddings, *head.parameters()]
    weight = torch.randn(targets, 2, dtype=torch.float64)
    ours, theirs = head(embeddings, step, index), reference(head, embeddings, step, index)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
    gradients = [torch.autograd.grad((logits * weight).sum(), inputs) for logits in (ours, theirs)]
    for got, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-12, rtol=0)


def test_chunks_change_nothing(monkeypatch):
    head = EndpointClassifier(3, ends=2, num_classes=4, head="product").double()
    embeddings, step, index = draw(0, 2, 2, 6, 25)
    whole = head(embeddings, step, index)
    gradients = torch.autograd.grad(whole.square().sum(), [embeddings, *head.parameters()])
    monkeypatch.setattr(endpoint_classifier, "_CHUNK", 7)
    pieces = head(embeddings, step, index)
    torch.testing.assert_close(pieces, whole, atol=1e-12, rtol=0)
    again = torch.autograd.grad(pieces.square().sum(), [embeddings, *head.parameters()])
    for got, expected in zip(again, gradients, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-12, rtol=0)
    assert torch.autograd.gradcheck(lambda e: head(e, step, index), embeddings)


@pytest.mark.parametrize("name", ["linear", "product"])
def test_a_rank_without_snapshots_has_no_logits_but_gradients(name):
    head = EndpointClassifier(3, ends=2, num_classes=2, head=name)
    embeddings = torch.zeros(0, 5, 3, requires_grad=True)
    nothing = torch.zeros(0, dtype=torch.int64)
    logits = head(embeddings, nothing, torch.zeros(2, 0, dtype=torch.int64))
    assert logits.shape == (0, 2)
    logits.sum().backward()
    assert all((p.grad == 0).all() for p in head.parameters())


def test_in_half_precision_the_product_is_that_of_float32():
    torch.manual_seed(0)
    head = EndpointClassifier(3, ends=2, num_classes=2, head="product")
    embeddings, step, index = draw(1, 2, 2, 5, 30)
    embeddings = embeddings.detach().float().requires_grad_()
    exact = head(embeddings, step, index)
    with torch.autocast("cpu", torch.bfloat16):
        rough = head(embeddings, step, index)
    rough.sum().backward()
    torch.testing.assert_close(rough.float(), exact, atol=0.05, rtol=0.05)
    assert embeddings.grad.isfinite().all()


def test_memory_kept_for_pairs_is_not_as_wide_as_their_embeddings():
    channels, pairs = 64, 5000
    head = EndpointClassifier(channels, ends=2, num_classes=2, head="product")
    embeddings = torch.randn(1, 50, channels, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.nbytes) or x, lambda x: x):
        head(embeddings, torch.zeros(pairs, dtype=torch.int64), torch.randint(50, (2, pairs)))
    assert sum(kept) < pairs * channels * 4


def test_options_are_checked():
    with pytest.raises(ValueError, match="choose from linear, product"):
        EndpointClassifier(3, ends=2, num_classes=2, head="dot")
    with pytest.raises(ValueError, match="it is for pairs"):
        EndpointClassifier(3, ends=1, num_classes=2, head="product")
