import gc
import weakref

import lightning.pytorch as pl
import pytest
import timm
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from fulgurite.callbacks.representative_interpretation import cut as cutting
from fulgurite.callbacks.representative_interpretation.cut import CutError, Splitter, candidates, split
from fulgurite.callbacks.representative_interpretation.untouched import untouched


def pictures(count=5, channels=1, side=12, seed=0):
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(seed))


class Functional(nn.Module):
    """Functional and in-place ReLU, one nn.ReLU and one pool for all, a batch size taken from the images."""

    def __init__(self, outputs=3):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3, padding=1)
        self.relu, self.pool, self.norm = nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.BatchNorm2d(8)
        self.register_buffer("mean", torch.tensor(0.3))
        self.scale = torch.tensor([2.0])  # no buffer
        self.last = nn.Linear(8, outputs)

    def forward(self, images, weights=None):
        count = images.shape[0]
        hidden = self.pool(self.relu(self.conv1((images - self.mean) * self.scale)))
        hidden = hidden + self.norm(self.conv2(hidden))
        hidden = self.pool(self.relu(hidden))
        if weights is not None:
            hidden = hidden * weights
        hidden = F.dropout(hidden, 0.5, self.training)
        hidden = F.leaky_relu_(self.last(self.scale * hidden.mean((2, 3)).view(count, -1)))
        return hidden - 0.5 * hidden.roll(1, 1)


class Branching(nn.Module):
    """Nothing that torch.fx could trace."""

    def __init__(self, branch_inside=False):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.MaxPool2d(2))
        self.second = nn.Sequential(nn.Conv2d(6, 8, 3), nn.ReLU(inplace=True))
        self.skip = nn.Conv2d(6, 8, 3)
        self.last = nn.Sequential(nn.Flatten(), nn.Linear(72, 16), nn.ReLU(), nn.Linear(16, 3))

    def forward(self, images):
        if images.abs().max() > 1e6:
            images = images / 2
        hidden = self.first(images)
        return self.last(self.second(hidden) + 0.1 * self.skip(hidden))


class Wrapped(pl.LightningModule):
    def __init__(self, net):
        super().__init__()
        self.net, self.splits = net, []

    def forward(self, images):
        return self.net(images)

    def validation_step(self, batch, _):
        with untouched(self):
            cut = split(self, candidates(self, batch[0])[-1], batch[0])
            maps, answers = cut.predict(batch[0])
            point = maps.double().requires_grad_()
            (gradient,) = torch.autograd.grad(cut.head(point * 1)[:, 0].sum(), point)
            assert gradient.any()
            torch.testing.assert_close(cut.head(maps), answers)
        self.splits.append(cut)


def made(build, seed=0, channels=1, side=12):
    """A network whose BatchNorm statistics are those of its activations."""
    torch.manual_seed(seed)
    net = build()
    with torch.no_grad():
        net.train()(pictures(16, channels, side, seed=1))
    return net.eval()


def check(net, name, images, **options):
    """G(ψ(x)) = F(x), in both precisions; gradients are those of the network; nothing of the caller's changes."""
    cut = split(net, name, images, **options)
    with torch.no_grad():
        answers = cut.logits(images)
    maps, same = cut.predict(images)
    kept = maps.clone()
    torch.testing.assert_close(same, answers, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(cut.features(images), maps)
    assert not maps.requires_grad
    assert maps.shape[1:] == cut.shape
    torch.testing.assert_close(cut.head(maps), answers, rtol=1e-4, atol=1e-4)
    exact = maps.to(cut.dtype).requires_grad_()
    out = cut.head(exact)
    assert out.dtype == cut.dtype
    torch.testing.assert_close(out.to(answers.dtype), answers, rtol=1e-4, atol=1e-4)
    (gradient,) = torch.autograd.grad(out.square().sum(), exact)
    assert gradient.abs().sum() > 0
    assert torch.equal(maps, kept)
    torch.testing.assert_close(cut.head(maps.repeat(2, 1, 1, 1)[1:]), answers.repeat(2, 1)[1:], rtol=1e-4, atol=1e-4)
    return cut


def test_functional_reused_and_in_place():
    net, images = made(Functional), pictures()
    assert candidates(net, images) == ("pool_0", "pool_1")
    for name in ("pool_0", "pool_1"):
        cut = check(net, name, images)
        assert (cut.method, cut.dtype, cut.piecewise_linear, cut.reason) == ("fx", torch.float64, True, "")
    assert split(net, "pool_0", images).shape == (8, 5, 5)
    assert torch.equal(net.scale, torch.tensor([2.0]))
    assert {tensor.dtype for tensor in net.state_dict().values()} == {torch.float32, torch.int64}


def test_gradient_of_the_head_is_the_gradient_of_the_network():
    net, images = made(Functional).double(), pictures().double()
    cut = split(net, "pool_0", images)
    maps = cut.features(images).requires_grad_()
    kept = []
    handle = net.pool.register_forward_hook(lambda _, __, out: kept.append(out))
    answers = net(images)
    handle.remove()
    (wanted,) = torch.autograd.grad(answers[:, 1].sum(), kept[0])
    (found,) = torch.autograd.grad(cut.head(maps)[:, 1].sum(), maps)
    assert torch.equal(found, wanted)


def test_a_module_that_runs_twice_must_say_which_run():
    with pytest.raises(CutError, match="'pool' is no cut: its module runs 2 times; name the run: 'pool_0', 'pool_1'"):
        split(made(Functional), "pool", pictures())


def test_a_skip_connection_that_crosses():
    with pytest.raises(CutError, match=r"'conv2' is no cut: a skip connection crosses it: .* from 'pool_0' is used"):
        split(made(Functional), "conv2", pictures())


@pytest.mark.parametrize(("name", "near"), [("pool_3", "pool_1"), ("conv22", "conv2")])
def test_a_cut_that_does_not_exist(name, near):
    with pytest.raises(CutError, match=f"no cut '{name}'; did you mean '{near}'.*; cuts that exist: pool_0, pool_1"):
        split(made(Functional), name, pictures())


def test_a_cut_without_image_shape():
    with pytest.raises(CutError, match=r"its output is \(B, 3\); expected feature maps \(B, K, H, W\)"):
        split(made(Functional), "last", pictures())


def test_untraceable_networks_are_replayed():
    net, images = made(Branching), pictures()
    assert candidates(net, images) == ("first.3",)
    cut = check(net, "first.3", images)
    assert (cut.method, cut.dtype, cut.piecewise_linear, cut.affine) == ("replay", torch.float64, True, False)
    with pytest.raises(CutError, match="something else from before it reaches the logits"):
        split(net, "second", images)
    with pytest.raises(CutError, match=r"cuts that exist: first\.3"):
        split(net, "third", images)
    assert not any(module._forward_hooks for module in net.modules())


def test_an_untraceable_module_inside_stays_whole():
    inner = Branching()
    net = made(lambda: nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.ReLU(), inner))
    assert candidates(net, pictures()) == ("1", "2.first.3")
    assert check(net, "1", pictures()).method == "fx"
    assert check(net, "2.first", pictures()).method == "replay"


def test_replay_with_sizes_of_the_images():
    class Sized(Branching):
        def forward(self, images):
            count = len(images)
            if images.sum() > 1e9:
                return images
            return self.last(self.first(images).view(count, -1))

    def build():
        net = Sized()
        net.last = nn.Linear(150, 3)
        return net

    assert check(made(build), "first", pictures()).method == "replay"


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(0, 1, 12, 12), r"shape \(0, 1, 12, 12\); expected a float tensor"),
        (torch.zeros(12), r"shape \(12,\)"),
        (torch.zeros(2, 1, 12, 12, dtype=torch.uint8), "images of uint8"),
        (torch.full((2, 1, 12, 12), torch.nan), r"NaN or infinity in images \[0, 1\]"),
        ([1.0], "images as list"),
    ],
)
def test_bad_images(images, message):
    for call in (lambda: candidates(Functional(), images), lambda: split(Functional(), "pool_0", images)):
        with pytest.raises(ValueError, match=message):
            call()


def test_weights_that_are_broken():
    net = Functional()
    net.last.bias.data[0] = torch.nan
    with pytest.raises(ValueError, match="logits that are not finite"):
        split(net, "pool_0", pictures())


def test_answers_that_depend_on_the_batch():
    class Centred(Functional):
        def forward(self, images):
            return super().forward(images - images.mean(0))

    with pytest.raises(ValueError, match="other logits for an image alone"):
        split(made(Centred), "pool_0", pictures())


def test_no_gradient_behind_the_cut():
    class Detached(Functional):
        def forward(self, images):
            return self.last(self.pool(self.conv1(images)).detach().mean((2, 3))[:, :1].expand(-1, 8))

    with pytest.raises(CutError, match="no gradient comes back"):
        split(made(Detached), "conv1", pictures())


@pytest.mark.parametrize("build", [Functional, Branching])
def test_weights_made_in_inference_mode(build):
    with torch.inference_mode():
        net = made(build)
        images = pictures()
    name = candidates(net, images)[0]
    cut = split(net, name, images)
    point = cut.features(images).requires_grad_()
    (gradient,) = torch.autograd.grad(cut.head(point)[:, 0].sum(), point)
    assert gradient.any()
    assert all(parameter.is_inference() and parameter.requires_grad for parameter in net.parameters())


def test_heads_that_compute_in_float32():
    class Narrow(Functional):
        def forward(self, images):
            return super().forward(images).float()

    cut = split(made(Narrow), "pool_0", pictures())
    assert cut.dtype == torch.float32
    assert cut.reason_float32 == "to_copy computes in float32"


def test_global_average_pooling_is_affine():
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)]
    net, images = made(lambda: nn.Sequential(*layers)), pictures()
    assert candidates(net, images) == ("2",)
    assert split(net, "2", images).affine
    assert not split(net, "1", images).affine


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**31), depth=st.integers(1, 4), smooth=st.booleans(), dropout=st.booleans())
def test_drawn_networks(seed, depth, smooth, dropout):
    def build():
        layers, channels = [], 1
        for _ in range(depth):
            width = int(torch.randint(2, 9, ()))
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width)]
            layers += [nn.SiLU() if smooth else nn.ReLU(inplace=True)] + [nn.Dropout2d(0.3)] * dropout
            channels = width
        return nn.Sequential(
            *layers, nn.MaxPool2d(4), nn.Flatten(), nn.Linear(9 * channels, 6), nn.ReLU(), nn.Linear(6, 2)
        )

    net = made(build, seed)
    found = candidates(net, pictures(seed=seed))
    block = 3 + dropout
    assert found == (*(str(block * index + 2) for index in range(depth - 1)), str(block * depth))
    cuts = [check(net, name, pictures(seed=seed)) for name in found]
    assert [cut.piecewise_linear for cut in cuts] == [not smooth] * (depth - 1) + [True]


def test_fingerprints_tell_weights_and_cuts_apart():
    net, images = made(Functional), pictures()
    first = split(net, "pool_0", images).fingerprint()
    assert first == split(net, "pool_0", images[:2]).fingerprint() == split(net.train(), "pool_0", images).fingerprint()
    assert first != split(net, "pool_1", images).fingerprint()
    net.norm.running_mean[0] += 1e-3
    assert first != split(net, "pool_0", images).fingerprint()


@pytest.mark.parametrize("build", [Functional, Branching])
def test_the_network_and_the_callers_tensors_stay(build):
    net, images = made(build).train(), pictures()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    kept, state = images.clone(), torch.get_rng_state()
    cut = split(net, candidates(net, images)[0], images)
    cut.head(cut.predict(images)[0])
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(images, kept)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())
    assert all(module.training and not module._forward_hooks for module in net.modules())


@pytest.mark.parametrize("build", [Functional, Branching])
@pytest.mark.parametrize("before", [False, True])
def test_what_the_network_keeps_for_itself_stays(build, before):
    """No stand-in of the trace, no activation of ours, no count of our runs."""

    class Keeping(build):
        count = 0

        def forward(self, images):
            if isinstance(self.count, int) and self.count and not isinstance(self.last_seen, torch.Tensor):
                raise TypeError(f"kept {type(self.last_seen).__name__}")
            self.last_seen = images * 2
            self.count = self.count + 1
            return super().forward(self.last_seen / 2)

    net, images = made(Keeping), pictures()
    if not before:
        del net.last_seen
        net.count = 0
    kept, count = getattr(net, "last_seen", None), net.count
    cut = split(net, candidates(net, images)[0], images)
    cut.head(cut.predict(images)[0])
    assert getattr(net, "last_seen", None) is kept
    assert net.count == count


@pytest.mark.parametrize("build", [Functional, Branching])
def test_networks_that_write_into_their_images(build):
    class Writing(build):
        def forward(self, images):
            return super().forward(images.sub_(0.5))

    net, images = made(Writing), pictures()
    kept = images.clone()
    check(net, candidates(net, images)[0], images)
    assert torch.equal(images, kept)


@pytest.mark.parametrize("build", [Functional, Branching])
def test_no_cycle_holds_what_was_computed(build):
    net, images = made(build), pictures()
    name = candidates(net, images)[0]
    gc.collect()
    gc.disable()
    try:
        cut = split(net, name, images)
        maps, _ = cut.predict(images)
        gone = [weakref.ref(cut), weakref.ref(cut._parts), weakref.ref(maps)]
        gone += [weakref.ref(weight) for weight in cut._parts._weights[torch.float64].values()]
        del cut, maps
        assert [reference() for reference in gone] == [None] * len(gone)
    finally:
        gc.enable()


def test_only_the_part_behind_the_cut_runs():
    net, images = made(Functional), pictures()
    cut = split(net, "pool_1", images)
    maps = cut.features(images)
    ran = []
    handles = [child.register_forward_hook(lambda module, *_: ran.append(module)) for child in net.children()]
    cut.head(maps)
    assert ran == [net.last]
    ran.clear()
    cut.features(images)
    assert net.last not in ran
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("build", [Functional, Branching])
def test_cuts_of_wrapped_networks(build):
    net, images = made(build), pictures()
    name = candidates(net, images)[0]
    for wrapped, prefix in ((nn.DataParallel(net), "module."), (torch.compile(net), "_orig_mod.")):
        assert candidates(wrapped, images) == candidates(net, images)
        assert split(wrapped, name, images).name == split(wrapped, prefix + name, images).name == name


@pytest.mark.parametrize("build", [Functional, Branching])
def test_several_cuts_of_a_network_that_is_traced_once(build, monkeypatch):
    net, images = made(build), pictures()
    names = candidates(net, images)
    wanted = [split(net, name, images) for name in names]
    traces = []
    trace = cutting.trace
    monkeypatch.setattr(cutting, "trace", lambda *arguments: traces.append(0) or trace(*arguments))
    splitter = Splitter(net, images)
    assert splitter.model is net
    assert splitter.candidates() == names
    with pytest.raises(CutError, match="no cut 'nowhere'"):
        splitter.split("nowhere")
    for name, other in zip(names, wanted, strict=True):
        cut = splitter.split(name)
        assert repr(cut) == repr(other)
        assert cut.fingerprint() == other.fingerprint()
        assert torch.equal(cut.features(images), other.features(images))
        assert torch.equal(cut.logits(images), other.logits(images))
    assert len(traces) == 1


def test_hooks_of_others_see_tensors_and_keep_working():
    net, images = made(Functional), pictures()
    seen = []
    net.register_forward_hook(lambda _, __, out: seen.append(type(out)))
    net.conv1.register_forward_pre_hook(lambda _, inputs: (2 * inputs[0],))
    name = candidates(net, images)[0]
    cut = check(net, name, images)
    assert cut.method == "replay"
    assert set(seen) == {torch.Tensor}


@pytest.mark.parametrize("build", [Functional, Branching])
@pytest.mark.parametrize("inside", [False, True])
def test_lightning_modules_in_validation(build, inside):
    module = Wrapped(made(build))
    loader = DataLoader(TensorDataset(pictures(6)), batch_size=3)
    options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = pl.Trainer(inference_mode=inside, **options)
    trainer.validate(module, loader, verbose=False)
    assert [cut.name for cut in module.splits] == ["net.pool_1" if build is Functional else "net.first.3"] * 2


def test_the_pretrained_rnet(rnet, faces):
    images, labels = faces
    with torch.no_grad():
        assert (rnet(images).argmax(1) == labels).all()
    assert candidates(rnet, images) == ("pool1", "pool2", "prelu3")
    for name in ("pool1", "pool2", "prelu3"):
        cut = check(rnet, name, images[::29])
        assert (cut.method, cut.piecewise_linear, cut.affine) == ("fx", True, False)


TORCHVISION = {
    "resnet18": ("layer4.0", "", True),
    "squeezenet1_1": ("features.12", "", True),
    "mobilenet_v2": ("features.17", "", True),
    "efficientnet_b0": ("features.3.0", "silu is not piecewise linear", False),
    "googlenet": ("inception4d", "", True),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_networks(name):
    place, reason, linear = TORCHVISION[name]
    options = {"init_weights": False} if name == "googlenet" else {}
    net = made(lambda: getattr(torchvision.models, name)(num_classes=5, **options), channels=3, side=64)
    images = pictures(2, 3, 64)
    assert place in candidates(net, images)
    cut = check(net, place, images)
    assert (cut.method, cut.reason, cut.piecewise_linear) == ("fx", reason, linear)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "linear"), [("test_resnet", True), ("test_efficientnet", False), ("test_vit", False)])
def test_timm_networks(name, linear):
    side = 160 if name == "test_vit" else 64
    net = made(lambda: timm.create_model(name, num_classes=5), channels=3, side=side)
    images = pictures(2, 3, side)
    found = candidates(net, images)
    cut = check(net, found[len(found) // 2], images)
    assert cut.piecewise_linear == linear


def test_vgg():
    net = made(lambda: torchvision.models.vgg11(num_classes=5), channels=3, side=32)
    net.classifier = nn.Sequential(nn.Flatten(), nn.Linear(512 * 49, 3))
    found = candidates(net, pictures(2, 3, 64))
    assert found == tuple(f"features.{index}" for index in (2, 5, 7, 10, 12, 15, 17, 20))
