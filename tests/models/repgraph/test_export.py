"""The layer as a graph: compiled in one piece, exported for one size and for any."""

import onnxruntime
import pytest
import torch
from torch.nn import functional

from fulgurite.models.repgraph.layer import RepGraph2d
from fulgurite.models.repgraph.scores import average_cells


def trained(layer):
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn(p.shape, generator=draw) * 0.2)
    return layer


def image(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def run_onnx(layer, example, others=(), **options):
    program = torch.onnx.export(layer, (example,), dynamo=True, verbose=False, **options)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    for x in (example, *others):
        found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
        torch.testing.assert_close(torch.from_numpy(found), layer(x).detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("tied", "cells"), [(True, 0), (False, 2)])
def test_the_layer_is_one_compiled_graph(tied, cells):
    layer = trained(RepGraph2d(8, num_nodes=3, global_nodes=cells, tied=tied, backend="bag"))
    x = image(2, 8, 6, 7).requires_grad_()
    wanted = [x, *layer.parameters()]
    expected = layer(x)
    gradients = torch.autograd.grad(expected.square().sum(), wanted)
    answer = torch.compile(layer, fullgraph=True, backend="aot_eager")(x)
    torch.testing.assert_close(answer, expected, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(torch.autograd.grad(answer.square().sum(), wanted), gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_onnx_of_one_size():
    run_onnx(trained(RepGraph2d(8, num_nodes=3)).eval(), image(2, 8, 6, 8))


@pytest.mark.slow
def test_onnx_of_any_size():
    side = torch.export.Dim("h", min=2, max=512), torch.export.Dim("w", min=2, max=512)
    run_onnx(
        trained(RepGraph2d(8, num_nodes=3, global_nodes=2)).eval(),
        image(2, 8, 6, 8),
        (image(1, 8, 10, 12), image(3, 8, 5, 9)),
        dynamic_shapes=({0: torch.export.Dim("b", min=1, max=64), 2: side[0], 3: side[1]},),
    )


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (6, 8), (7, 13)])
@pytest.mark.parametrize("side", [1, 2, 3])
def test_exported_averages_are_the_pooled_ones(size, side):
    x = image(2, 3, *size).double()
    torch.testing.assert_close(average_cells(x, side), functional.adaptive_avg_pool2d(x, side), rtol=0, atol=1e-6)
