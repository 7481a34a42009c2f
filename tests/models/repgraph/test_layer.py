"""RepGraph2d and its controls as layers: identity at start, modes, types, shapes, pictures, statistics."""

import itertools

import pytest
import torch

from fulgurite.models.repgraph.global_context import GlobalContext2d
from fulgurite.models.repgraph.layer import RepGraph2d
from fulgurite.models.repgraph.non_local import NonLocal2d
from fulgurite.models.repgraph.statistics import node_statistics

LAYERS = (RepGraph2d, NonLocal2d, GlobalContext2d)


def trained(layer, seed=0):
    """Weights as after a training."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn(p.shape, generator=draw) * 0.3)
    return layer


@pytest.mark.parametrize(
    ("layer", "variant", "tied", "norm"),
    list(itertools.product(LAYERS, ("bottleneck", "simple"), (True, False), ("batch", "group", "none"))),
)
def test_new_layers_are_the_identity_and_learn_at_the_end_first(layer, variant, tied, norm):
    built = layer(8, variant=variant, tied=tied, norm=norm, groups=2)
    x = torch.randn(2, 8, 5, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(built.eval()(x), x)
    (built(x) * x).sum().backward()
    moved = {name for name, p in built.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    last = max(int(name.split(".")[1]) for name, _ in built.named_parameters() if name.startswith("project"))
    assert moved == {f"project.{last}.weight", f"project.{last}.bias"}


@pytest.mark.parametrize(
    ("layer", "variant", "tied"), list(itertools.product(LAYERS, ("bottleneck", "simple"), (True, False)))
)
def test_every_parameter_has_a_gradient_after_a_step(layer, variant, tied):
    torch.manual_seed(0)
    built = layer(8, variant=variant, tied=tied)
    x = torch.randn(2, 8, 5, 6, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD(built.parameters(), lr=1.0)
    built(x).square().sum().backward()
    # What has none at once would stop training on several devices.
    assert all(p.grad is not None for p in built.parameters())
    optimizer.step()
    optimizer.zero_grad()
    built(x).pow(3).sum().backward()
    idle = {name for name, p in built.named_parameters() if p.grad.abs().max() < 1e-4}
    # A softmax does not see what is added to all its scores.
    unseen = {"score.bias"} | ({"key.0.bias"} if variant == "simple" and not tied and layer is NonLocal2d else set())
    assert idle <= unseen


def test_an_average_has_no_query():
    names = {name.split(".")[0] for name, _ in GlobalContext2d(8, tied=False).named_parameters()}
    assert names == {"key", "value", "project", "score"}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("shape", [(0, 8, 4, 4), (2, 8, 1, 5), (2, 8, 5, 1), (1, 8, 1, 1)])
def test_any_size(layer, shape):
    built = trained(layer(8)).eval()
    assert built(torch.randn(shape, generator=torch.Generator().manual_seed(0))).shape == shape


def test_moved_images_move_answers():
    """Away from borders, with the starting pattern in pixels."""
    built = trained(RepGraph2d(4, init="grid3", offset_kernel=1)).eval().double()
    torch.nn.init.normal_(built.offset.weight, std=0.1, generator=torch.Generator().manual_seed(1))
    x = torch.randn(1, 4, 24, 24, generator=torch.Generator().manual_seed(2), dtype=torch.double)
    places = built.places(built.embed(x))
    own = torch.cartesian_prod(torch.arange(24.0), torch.arange(24.0)).view(1, -1, 1, 1, 2)
    assert (places - own).abs().max() < 6  # else borders are not far
    moved = built(x.roll((3, 2), dims=(2, 3)))
    torch.testing.assert_close(moved[..., 10:16, 10:16], built(x)[..., 7:13, 8:14], rtol=0, atol=1e-10)


@pytest.mark.parametrize("layer", LAYERS)
def test_bfloat16_autocast_is_close(layer):
    built = trained(layer(32)).eval()
    x = torch.randn(2, 32, 9, 40, generator=torch.Generator().manual_seed(0))
    exact = built(x)
    with torch.autocast("cpu", torch.bfloat16):
        close = built(x)
    assert (close.float() - exact).abs().max() <= 2e-2 * exact.abs().max()
    torch.testing.assert_close(built(x.to(memory_format=torch.channels_last)), exact, rtol=1e-5, atol=1e-5)


def test_pixels_that_are_not_a_number_stay_so_and_harm_no_memory():
    built = trained(RepGraph2d(8)).eval()
    x = torch.zeros(1, 8, 6, 6)
    x[0, 0, 2, 2] = torch.nan
    answer = built(x)
    assert answer[0, :, 2, 2].isnan().all()
    assert answer.isfinite().any()


def test_deterministic_algorithms():
    built = trained(RepGraph2d(8, global_nodes=2))
    x = torch.randn(2, 8, 6, 7, generator=torch.Generator().manual_seed(0), requires_grad=True)
    torch.use_deterministic_algorithms(True)
    try:
        built(x).sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert x.grad.isfinite().all()
    assert built.last_backend == "bag"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 3, "inter_channels": 4}, "channels that the groups divide"),
        ({"variant": "wide"}, "choose from bottleneck, simple"),
        ({"init": "far"}, "choose from spread, grid3, zero"),
        ({"init": "grid3", "num_nodes": 4}, "a 3 × 3 grid has 9"),
        ({"offset_kernel": 2}, "an odd number"),
        ({"backend": "cuda"}, "choose from auto, bag"),
        ({"num_nodes": 0}, "at least 1"),
        ({"global_nodes": -1}, "0 or more"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        RepGraph2d(8, **options)


def test_maps_are_checked():
    with pytest.raises(ValueError, match=r"got a map of shape \(1, 4, 2, 2\); want \(B, 8, H, W\)"):
        RepGraph2d(8)(torch.zeros(1, 4, 2, 2))
    with pytest.raises(ValueError, match="got a list"):
        RepGraph2d(8)([torch.zeros(1, 8, 2, 2)])


def test_statistics_and_pictures_leave_the_layer_alone(tmp_path):
    built = RepGraph2d(8, init="spread")
    before = {name: value.clone() for name, value in built.state_dict().items()}
    found = node_statistics(built, torch.rand(2, 8, 32, 32))
    # The pattern's own distances, shortened at borders.
    assert 3 < found["reach_median"] < 12
    assert 0 < found["clamped_share"] < 1
    assert 0 <= found["entropy"] <= 1 + 1e-6
    path = built.visualize_nodes(torch.rand(8, 32, 32), tmp_path / "nodes.png", pixels=[(4, 5)])
    assert path.read_bytes()[:4] == b"\x89PNG"
    assert [p.name for p in tmp_path.iterdir()] == ["nodes.png"]
    assert built.training
    assert all(torch.equal(built.state_dict()[name], value) for name, value in before.items())
    with pytest.raises(ValueError, match=r"got pixel \(40, 5\)"):
        built.visualize_nodes(torch.rand(8, 32, 32), tmp_path / "nodes.png", pixels=[(40, 5)])
