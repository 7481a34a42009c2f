import copy
import pickle

import pytest
import torch

from fulgurite.models.implicit_gnn import Asynchronous, ImplicitGNN, Synchronous


def network_and_input(make_edges, **options):
    torch.manual_seed(0)
    network = ImplicitGNN(3, 4, hidden_channels=6, **options)
    return network, torch.randn(20, 3), make_edges(20, 30, 3, undirected=True)


@pytest.mark.parametrize("block", ["ignn", "nemon"])
@pytest.mark.parametrize("constraint", ["projection", "parametrisation"])
@pytest.mark.parametrize("normalisation", ["mean", "symmetric"])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_a_prediction_is_what_the_logits_say(make_edges, block, constraint, normalisation, activation):
    network, features, edges = network_and_input(
        make_edges, block=block, constraint=constraint, normalisation=normalisation, activation=activation
    )
    found = network.predict(features, edges)
    assert found.logits.shape == (20, 4)
    assert found.state_error < 1e-4
    torch.testing.assert_close(found.logits.float(), network(features, edges), rtol=0, atol=1e-4)


def test_logits_are_within_their_error_and_decided_classes_never_change(make_edges):
    network, features, edges = network_and_input(make_edges)
    equation = network.equation(features, edges).double()
    exact = Synchronous(1e-14).solve(equation)
    truth = network.judge(equation, exact)
    undecided = 0
    for number in range(40):
        random = torch.Generator().manual_seed(number)
        spread = 10.0 ** -(number % 8)
        state = exact + spread * torch.randn(exact.shape, dtype=torch.float64, generator=random)
        found = network.judge(equation, state)
        assert ((found.logits - truth.logits).abs().amax(dim=1) <= found.logit_error + 1e-12).all()
        same = found.logits.argmax(dim=1) == truth.logits.argmax(dim=1)
        assert same[found.decided].all()
        undecided += int((~found.decided).sum())
    assert truth.decided.all()
    assert undecided > 0


@pytest.mark.parametrize("constraint", ["projection", "parametrisation"])
def test_the_map_is_certified_by_its_own_test(make_edges, constraint):
    from fulgurite.plugins.dynamic_async.model.certification import certify

    network, features, edges = network_and_input(make_edges, constraint=constraint, kappa=0.7)
    certificate = certify(network.map(features, edges, parts=5))
    assert certificate.verdict == "certified"
    assert certificate.gamma == pytest.approx(network.equation(features, edges).factor, rel=1e-9)


def test_a_graph_is_built_once_and_again_when_it_changes(make_edges):
    network, _, edges = network_and_input(make_edges)
    first = network.graph(edges, 20)
    assert network.graph(edges, 20) is first
    edges[0, 0] = (edges[0, 0] + 1) % 20
    assert network.graph(edges, 20) is not first
    assert network.graph(edges.clone(), 20) is not first


def test_copies_and_state_dicts_give_the_same(make_edges):
    network, features, edges = network_and_input(make_edges)
    before = network(features, edges)
    other = ImplicitGNN(3, 4, hidden_channels=6)
    other.load_state_dict(network.state_dict())
    for same in (copy.deepcopy(network), pickle.loads(pickle.dumps(network)), other):
        assert torch.equal(same(features, edges), before)


@pytest.mark.parametrize(
    ("options", "named"), [({"block": "mondeq"}, "'mondeq'"), ({"solver": "quantum"}, "'quantum'")]
)
def test_unknown_names_are_refused(options, named):
    with pytest.raises(ValueError, match=named):
        ImplicitGNN(3, 2, **options)


def test_features_of_another_width_are_refused(make_edges):
    network, _, edges = network_and_input(make_edges)
    with pytest.raises(ValueError, match=r"\(20, 5\)"):
        network(torch.ones(20, 5), edges)


def test_a_network_trains_with_both_passes_solved_asynchronously(make_edges):
    losses = {}
    for solver in (Synchronous(1e-9), Asynchronous(parts=4, tolerance=1e-9)):
        network, features, edges = network_and_input(make_edges, solver=solver)
        optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
        losses[type(solver)] = []
        for _ in range(4):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(network(features, edges), torch.arange(20) % 4)
            loss.backward()
            optimizer.step()
            losses[type(solver)].append(loss.item())
    torch.testing.assert_close(*map(torch.tensor, losses.values()), rtol=1e-4, atol=1e-5)
