import numpy as np
import pytest
import torch

from fulgurite.plugins.dynamic_async.direct_solution import solve_directly
from fulgurite.plugins.dynamic_async.flat_parameters import FlatParameters
from fulgurite.plugins.dynamic_async.maps.anchored import AnchoredMap
from fulgurite.plugins.dynamic_async.maps.losses import SoftmaxLoss
from fulgurite.plugins.dynamic_async.training_map import TrainingMap


def problem(fits, topology):
    """The same shards as a module's, and as NumPy losses; with the way from the one's parameters to the other's."""
    module = fits.probe()
    rows = fits.data()
    batches = {i: rows[i :: fits.SHARDS] for i in range(fits.SHARDS)}
    losses = []
    for x, labels in batches.values():
        phi = module.double().body(x.double())
        phi = phi / phi.norm(dim=1, keepdim=True).clamp_min(1)
        features = torch.cat([phi, torch.ones(len(phi), 1)], dim=1).numpy()
        losses.append(SoftmaxLoss(features, labels.numpy(), fits.MU, classes=3))
    module.float()
    coupled = TrainingMap(FlatParameters(module).read(), shards=fits.SHARDS, coupling=fits.LAM, topology=topology)
    anchored = AnchoredMap(losses, fits.LAM, topology, tolerance=1e-13)

    def same(state):
        return np.concatenate([state[:-3].reshape(3, -1), state[-3:, None]], axis=1).reshape(-1)

    return module, batches, coupled, anchored, same


@pytest.mark.parametrize(
    ("topology", "absent"), [("complete", ()), ("complete", (1,)), ("star", ()), ("star", (0, 2)), ("star", (4,))]
)
def test_it_is_the_fixed_point_of_the_map_for_whoever_is_present(fits, topology, absent):
    module, batches, coupled, anchored, same = problem(fits, topology)
    present = np.array([i not in absent for i in range(coupled.num_participants)])
    found = solve_directly(module, batches, coupled, present, mu=fits.MU)
    assert found.error <= 1e-10
    assert sorted(found.states) == np.flatnonzero(present).tolist()
    states = {i: anchored.bottom(i) for i in range(anchored.num_participants)} | {
        i: same(state) for i, state in found.states.items()
    }
    for i in found.states:
        again = anchored.evaluate(i, 0, present, states)
        np.testing.assert_allclose(again, states[i], rtol=0, atol=1e-9)


def test_from_far_away_it_comes_to_the_same(fits):
    module, batches, coupled, _, _ = problem(fits, "complete")
    present = np.ones(fits.SHARDS, dtype=bool)
    near = solve_directly(module, batches, coupled, present, mu=fits.MU)
    far = {i: np.random.default_rng(i).normal(size=coupled.centre.size) * 30 for i in range(fits.SHARDS)}
    again = solve_directly(module, batches, coupled, present, mu=fits.MU, start=far)
    assert max(np.abs(near.states[i] - again.states[i]).max() for i in near.states) <= near.error + again.error
    assert solve_directly(module, batches, coupled, present, mu=fits.MU, start=near.states).steps == 0


def test_the_module_and_the_random_numbers_stay(fits):
    module, batches, coupled, _, _ = problem(fits, "complete")
    module.train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    updates = module.metrics["train_accuracy"].update_count
    state = torch.get_rng_state()
    solve_directly(module, batches, coupled, np.ones(fits.SHARDS, dtype=bool), mu=fits.MU)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert module.metrics["train_accuracy"].update_count == updates
    assert all(weight.grad is None for weight in module.parameters())
    assert module.network.weight.dtype == torch.float32


def test_nobody_present_is_an_error(fits):
    module, batches, coupled, _, _ = problem(fits, "star")
    with pytest.raises(ValueError, match="no shard is present"):
        solve_directly(module, batches, coupled, np.arange(5) == 4, mu=fits.MU)
