"""Every stack against loops over snapshots and vertices with dense matrices, over blocks and over ranks."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fulgurite.data.timeline import Timeline
from fulgurite.models.dynamic_gnn.baselines import GCNLayer, VertexLayer
from fulgurite.models.dynamic_gnn.network import (
    CDGCN,
    TGCN,
    TMGCN,
    WDGCN,
    DynamicNetwork,
    EvolveGCNH,
    EvolveGCNO,
    GConvGRU,
    NoGraph,
    StaticGCN,
)
from fulgurite.models.dynamic_gnn.recurrent_layers import WDGCNLayer
from fulgurite.plugins.snapshot_parallel.exchange import Exchange, GroupExchange
from fulgurite.plugins.snapshot_parallel.graphs import build
from fulgurite.plugins.snapshot_parallel.partitioning import partition
from fulgurite.plugins.snapshot_parallel.resident import Resident
from fulgurite.plugins.snapshot_parallel.shard import Shard

STEPS, NODES, WIDTH = 7, 8, 3


def timeline_of(seed=0, *, steps=STEPS, nodes=NODES, events=60, m_window=1, symmetrise=False, order=None, window=2):
    """Random events and features; ``order`` renames vertex v as order[v]."""
    draw = np.random.default_rng(seed)
    source, target = draw.integers(0, nodes, (2, events))
    time = draw.integers(0, steps, events)
    features = torch.from_numpy(draw.standard_normal((steps, nodes, WIDTH)))
    if order is not None:
        source, target = order[source], order[target]
        features = features[:, np.argsort(order)]
    return Timeline.from_events(
        source,
        target,
        time,
        num_nodes=nodes,
        num_snapshots=steps,
        features=features,
        window=window,
        m_window=m_window,
        symmetrise=symmetrise,
    )


def sigmoid(x):
    return torch.sigmoid(x)


def loop_lstm(rows, module):
    """(T, n, I) by torch's cell equations, a step and a vertex at a time."""
    h = c = torch.zeros(rows.shape[1], module.hidden_size, dtype=rows.dtype)
    states = []
    for row in rows:
        gates = row @ module.weight_ih_l0.T + h @ module.weight_hh_l0.T + module.bias_ih_l0 + module.bias_hh_l0
        i, f, g, o = gates.chunk(4, 1)
        c = sigmoid(f) * c + sigmoid(i) * g.tanh()
        h = sigmoid(o) * c.tanh()
        states.append(h)
    return torch.stack(states)


def loop_gru_cell(x, h, cell):
    gates_x, gates_h = x @ cell.weight_ih.T + cell.bias_ih, h @ cell.weight_hh.T + cell.bias_hh
    (xr, xz, xn), (hr, hz, hn) = gates_x.chunk(3, 1), gates_h.chunk(3, 1)
    r, z = sigmoid(xr + hr), sigmoid(xz + hz)
    return (1 - z) * (xn + r * hn).tanh() + z * h


def reference_wdgcn(network, adjacency, x, skip=False):
    for layer in network.layers:
        y = torch.stack([(a @ f @ layer.convolution.weight.T).relu() for a, f in zip(adjacency, x, strict=True)])
        x = loop_lstm(torch.cat([y, x], dim=2) if skip else y, layer.recurrence)
    return x


def reference_cdgcn(network, adjacency, x):
    return reference_wdgcn(network, adjacency, x, skip=True)


def reference_tgcn(network, adjacency, x):
    for layer in network.layers:
        h = torch.zeros(x.shape[1], layer.out_channels, dtype=x.dtype)
        states = []
        weights = zip(layer.convolution.weight.chunk(3), layer.convolution.bias.chunk(3), strict=True)
        weights = list(weights)
        for a, f in zip(adjacency, x, strict=True):
            cz, cr, ch = (a @ f @ w.T + b for w, b in weights)
            lz, lr, lh = layer.linear
            z = sigmoid(lz(torch.cat([cz, h], 1)))
            r = sigmoid(lr(torch.cat([cr, h], 1)))
            h = z * h + (1 - z) * lh(torch.cat([ch, r * h], 1)).tanh()
            states.append(h)
        x = torch.stack(states)
    return x


def m_product(x, window):
    return torch.stack([x[max(0, t - window + 1) : t + 1].sum(0) / min(t + 1, window) for t in range(len(x))])


def reference_tmgcn(network, adjacency, x):
    """``adjacency`` and ``x`` are plain: mixed here."""
    for layer in network.layers:
        mixed = m_product(adjacency, layer.window)
        if layer is network.layers[0] or layer.mix_input:
            x = m_product(x, layer.window)
        x = torch.stack([a @ f @ layer.convolution.weight.T for a, f in zip(mixed, x, strict=True)])
        x = nn.functional.selu(x) if layer is not network.layers[-1] else x
        if layer.mix_output:
            x = m_product(x, layer.window)
    return x


def reference_evolve_o(network, adjacency, x):
    for layer in network.layers:
        h = c = layer.initial_weight.T
        rows = []
        for a, f in zip(adjacency, x, strict=True):
            cell = layer.recurrence
            if layer.cell == "gru":
                h = loop_gru_cell(h, h, cell)
            else:
                i, g, n, o = (h @ cell.weight_ih.T + h @ cell.weight_hh.T + cell.bias_ih + cell.bias_hh).chunk(4, 1)
                c = sigmoid(g) * c + sigmoid(i) * n.tanh()
                h = sigmoid(o) * c.tanh()
            rows.append(a @ f @ h.T if layer is network.layers[-1] else (a @ f @ h.T).relu())
        x = torch.stack(rows)
    return x


def reference_evolve_h(network, adjacency, x):
    for layer in network.layers:
        w = layer.initial_weight.T
        rows = []
        for a, f in zip(adjacency, x, strict=True):
            s = f @ layer.score / layer.score.norm()
            best = sorted(range(len(s)), key=lambda v, s=s: (-s[v].item(), v))[: layer.out_channels]
            w = loop_gru_cell(f[best] * s[best, None].tanh(), w, layer.recurrence)
            rows.append(a @ f @ w.T if layer is network.layers[-1] else (a @ f @ w.T).relu())
        x = torch.stack(rows)
    return x


def chebyshev(laplacian, x, linear, order):
    terms = [x, laplacian @ x]
    while len(terms) < order:
        terms.append(2 * laplacian @ terms[-1] - terms[-2])
    return sum(term @ w.T for term, w in zip(terms, linear.weight.chunk(order, 1), strict=False))


def reference_gconv_gru(network, adjacency, x):
    for layer in network.layers:
        h = torch.zeros(x.shape[1], layer.out_channels, dtype=x.dtype)
        states = []
        for a, f in zip(adjacency, x, strict=True):
            given = (chebyshev(-a, f, layer.of_input, layer.order) + layer.of_input.bias).chunk(3, 1)
            hz, hr = chebyshev(-a, h, layer.of_gates, layer.order).chunk(2, 1)
            z, r = sigmoid(given[0] + hz), sigmoid(given[1] + hr)
            candidate = (given[2] + chebyshev(-a, r * h, layer.of_candidate, layer.order)).tanh()
            h = z * h + (1 - z) * candidate
            states.append(h)
        x = torch.stack(states)
    return x


def reference_static(network, adjacency, x):
    for layer in network.layers:
        x = torch.stack([a @ f @ layer.convolution.weight.T for a, f in zip(adjacency, x, strict=True)])
        x = x + layer.convolution.bias
        x = x.relu() if layer is not network.layers[-1] else x
    return x


def reference_no_graph(network, adjacency, x):
    first, last = network.layers
    return last.linear(first.linear(x).relu())


def reference_no_graph_memory(network, adjacency, x):
    for layer in network.layers:
        x = loop_lstm(x, layer.recurrence)
    return x


# name: (constructor, reference, M-product's window)
CASES = {
    "WDGCN": (lambda: WDGCN(WIDTH, (5, 4)), reference_wdgcn, 1),
    "CDGCN": (lambda: CDGCN(WIDTH, (5, 4)), reference_cdgcn, 1),
    "TGCN": (lambda: TGCN(WIDTH, (5, 4)), reference_tgcn, 1),
    "TGCN narrowing": (lambda: TGCN(WIDTH, (5, 1)), reference_tgcn, 1),
    "TMGCN": (lambda: TMGCN(WIDTH, (5, 4), window=3), reference_tmgcn, 3),
    "TMGCN long": (lambda: TMGCN(WIDTH, (5, 4), window=20), reference_tmgcn, 20),
    "TMGCN output": (lambda: TMGCN(WIDTH, (5, 4), window=3, mix_output=True), reference_tmgcn, 3),
    "TMGCN unmixed": (lambda: TMGCN(WIDTH, (5, 4), window=3, mix_hidden=False), reference_tmgcn, 3),
    "EvolveGCNO": (lambda: EvolveGCNO(WIDTH, (5, 4)), reference_evolve_o, 1),
    "EvolveGCNO gru": (lambda: EvolveGCNO(WIDTH, (5, 4), cell="gru"), reference_evolve_o, 1),
    "EvolveGCNH": (lambda: EvolveGCNH(WIDTH, (5, 4)), reference_evolve_h, 1),
    "GConvGRU": (lambda: GConvGRU(WIDTH, (5, 4)), reference_gconv_gru, 1),
    "GConvGRU order 1": (lambda: GConvGRU(WIDTH, (5, 4), order=1), reference_gconv_gru, 1),
    "GConvGRU order 3": (lambda: GConvGRU(WIDTH, (5, 4), order=3), reference_gconv_gru, 1),
    "GConvGRU edges": (lambda: GConvGRU(WIDTH, (5, 4), backend="edges"), reference_gconv_gru, 1),
    "StaticGCN": (lambda: StaticGCN(WIDTH, (5, 4)), reference_static, 1),
    "NoGraph": (lambda: NoGraph(WIDTH, (5, 4)), reference_no_graph, 1),
    "NoGraph memory": (lambda: NoGraph(WIDTH, (5, 4), memory=True), reference_no_graph_memory, 1),
}
SPLITTABLE = [name for name in CASES if not name.startswith("GConvGRU")]


def network_of(name, seed=0):
    torch.manual_seed(seed)
    network = CASES[name][0]().double()
    for parameter in network.parameters():  # zero biases would hide themselves
        nn.init.uniform_(parameter, -0.7, 0.7)
    return network


def shard_of(timeline, *, blocks=1, exchange=None, collectives="none"):
    exchange = exchange or Exchange()
    cut = partition([1] * timeline.num_snapshots, timeline.num_nodes, exchange.size, blocks)
    return Shard.build(timeline, cut, exchange, source=Resident(timeline), collectives=collectives)


def weights(steps=STEPS, nodes=NODES, channels=4):
    generator = torch.Generator().manual_seed(9)
    return torch.randn(steps, nodes, channels, generator=generator, dtype=torch.float64)


def gradients(network, loss):
    found = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True, materialize_grads=True)
    return torch.cat([gradient.flatten() for gradient in found])


def close(got, expected):
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("symmetrise", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_loops(name, symmetrise):
    network, reference, m_window = network_of(name), *CASES[name][1:]
    plain = timeline_of(symmetrise=symmetrise)
    expected = reference(network, build(plain, 0, STEPS).dense(), plain.features)
    got = Shard.whole(timeline_of(symmetrise=symmetrise, m_window=m_window)).run(network)
    close(got, expected)
    scale = weights(channels=network.out_channels)
    expected, got = (gradients(network, (out * scale).sum()) for out in (expected, got))
    assert expected.abs().max() > 1e-3
    close(got, expected)


@pytest.mark.parametrize("collectives", ["none", "resend"])
@pytest.mark.parametrize("blocks", [2, 3, STEPS])
@pytest.mark.parametrize("name", CASES)
def test_blocks_change_nothing(name, blocks, collectives):
    network, timeline = network_of(name), timeline_of(m_window=CASES[name][2])
    whole, cut = shard_of(timeline), shard_of(timeline, blocks=blocks, collectives=collectives)
    scale = weights(channels=network.out_channels)
    expected, got = whole.run(network), cut.run(network)
    close(got, expected)
    close(gradients(network, (got * scale).sum()), gradients(network, (expected * scale).sum()))


@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize("name", CASES)
def test_under_autocast_they_are_nearly_the_same(name, blocks):
    network = network_of(name).float()
    timeline = timeline_of(m_window=CASES[name][2])
    timeline = timeline.replace(features=timeline.features.float())
    shard = shard_of(timeline, blocks=blocks, collectives="none" if blocks == 1 else "resend")
    expected = shard.run(network)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = shard.run(network)
    scale = weights(channels=network.out_channels).float()
    expected_gradient = gradients(network, (expected * scale).sum())
    gradient = gradients(network, (got.float() * scale).sum())
    torch.testing.assert_close(got.float(), expected, rtol=0, atol=0.05 * float(expected.detach().abs().max()))
    assert torch.nn.functional.cosine_similarity(gradient, expected_gradient, dim=0) > 0.98


def run_shard(name, timeline, blocks, collectives, halo_mode):
    """On a rank: own steps, embeddings, the gradients summed over ranks."""
    network = network_of(name)
    shard = shard_of(timeline, blocks=blocks, exchange=GroupExchange(halo_mode=halo_mode), collectives=collectives)
    out = shard.run(network)
    scale = weights(channels=network.out_channels, nodes=timeline.num_nodes)[shard.times]
    total = gradients(network, (out * scale).sum() + shard.anchor(out))
    dist.all_reduce(total)
    return shard.times.tolist(), out.detach(), total


@pytest.mark.distributed
@pytest.mark.parametrize(("ranks", "blocks", "nodes"), [(2, 1, NODES), (3, 3, NODES), (3, 2, NODES)])
@pytest.mark.parametrize("name", SPLITTABLE)
def test_ranks_change_nothing(name, ranks, blocks, nodes, run_ranks):
    # Seven snapshots in three blocks on three ranks: some rank owns none of a block.
    network, timeline = network_of(name), timeline_of(m_window=CASES[name][2], nodes=nodes)
    expected = shard_of(timeline).run(network)
    total = gradients(network, (expected * weights(channels=network.out_channels, nodes=nodes)).sum())
    for halo_mode in ("never", "always") if name.startswith("TMGCN") else ("auto",):
        collectives = "save" if blocks == 3 else "none"
        found = run_ranks(run_shard, ranks, name, timeline, blocks, collectives, halo_mode)
        assert sorted(step for steps, _, _ in found for step in steps) == list(range(STEPS))
        for steps, out, gradient in found:
            close(out, expected[steps])
            close(gradient, total)


@pytest.mark.distributed
@pytest.mark.parametrize("name", [name for name in SPLITTABLE if "EvolveGCNH" not in name])
def test_more_ranks_than_vertices(name, run_ranks):
    network, timeline = network_of(name), timeline_of(m_window=CASES[name][2], nodes=2)
    expected = shard_of(timeline).run(network)
    total = gradients(network, (expected * weights(channels=network.out_channels, nodes=2)).sum())
    for steps, out, gradient in run_ranks(run_shard, 3, name, timeline, 1, "none", "auto"):
        close(out, expected[steps])
        close(gradient, total)


@given(seed=st.integers(0, 10_000), name=st.sampled_from(list(CASES)), symmetrise=st.booleans())
@settings(deadline=None, max_examples=40)
def test_names_of_vertices_do_not_matter(seed, name, symmetrise):
    order = np.random.default_rng(seed + 1).permutation(NODES)
    options = {"m_window": CASES[name][2], "symmetrise": symmetrise}
    network = network_of(name, seed)
    with torch.no_grad():
        plain = Shard.whole(timeline_of(seed, **options)).run(network)
        renamed = Shard.whole(timeline_of(seed, order=order, **options)).run(network)
    close(renamed[:, torch.from_numpy(order)], plain)


class Whole(nn.Module):
    """A network with its first carry, which may hold parameters."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, block):
        return self.network(block, self.network.initial_carry(block))[0]


@pytest.mark.parametrize("name", CASES)
def test_gradcheck(name):
    whole = Whole(network_of(name))
    block = shard_of(timeline_of(steps=3, nodes=5, events=12, m_window=CASES[name][2])).blocks[0]
    names = [key for key, _ in whole.named_parameters()]

    def function(*parameters):
        return torch.func.functional_call(whole, dict(zip(names, parameters, strict=True)), (block,))

    assert torch.autograd.gradcheck(function, list(whole.parameters()), fast_mode=True)


@pytest.mark.parametrize("name", CASES)
def test_a_second_backward_pass_needs_no_kept_graph(name):
    network, shard = network_of(name), shard_of(timeline_of(m_window=CASES[name][2]))
    shard.run(network).sum().backward()
    first = [parameter.grad.clone() for parameter in network.parameters()]
    shard.run(network).sum().backward()
    for parameter, gradient in zip(network.parameters(), first, strict=True):
        close(parameter.grad, 2 * gradient)


@pytest.mark.parametrize("name", CASES)
def test_features_may_need_a_gradient(name):
    """As learned embeddings do; the sums of neighbours are then not kept."""
    network, timeline = network_of(name), timeline_of(m_window=CASES[name][2])
    block = shard_of(timeline).blocks[0]
    x = block.features.clone().requires_grad_()
    given = block.with_features(x)
    out, _ = network(given, network.initial_carry(given))
    close(out, Shard.whole(timeline).run(network))
    scale = weights(channels=network.out_channels)
    (gradient,) = torch.autograd.grad((out * scale).sum(), x)
    step = torch.zeros_like(x)
    step[1, 2, 0] = step[3, 0, 1] = 1e-6
    with torch.no_grad():
        ends = [network(b, network.initial_carry(b))[0] for b in (block.with_features(x + s * step) for s in (1, -1))]
    along = ((ends[0] - ends[1]) * scale).sum() / 2e-6
    torch.testing.assert_close((gradient * step / 1e-6).sum(), along, rtol=1e-6, atol=1e-6)


# The timeline of a TM-GCN mixes features itself.
@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("TMGCN")])
def test_coupling_is_what_a_step_sees(name):
    """Features of a step are changed: with no or weight coupling only later weights may tell, never earlier steps."""
    network, timeline = network_of(name), timeline_of()
    block = shard_of(timeline).blocks[0]
    x = block.features.clone()
    x[3] += 0.5
    with torch.no_grad():
        plain, changed = (network(b, network.initial_carry(b))[0] for b in (block, block.with_features(x)))
    differs = (plain != changed).flatten(1).any(1)
    assert not differs[:3].any()
    assert differs[3]
    later = network.coupling in ("recurrent", "graph") or name == "EvolveGCNH"
    assert differs[4:].any() == later


def test_half_precision_trains():
    network = WDGCN(WIDTH, (5, 4))
    shard = shard_of(timeline_of())
    expected = shard.run(network)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = shard.run(network)
    got.float().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())
    torch.testing.assert_close(got.float(), expected, rtol=0.05, atol=0.05)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="got no layers"):
        WDGCN(2, ())
    with pytest.raises(ValueError, match="got out_channels=0; expected 1 or more"):
        TMGCN(2, (6, 0))
    with pytest.raises(ValueError, match="got a layer of 6 output channels before one of 5"):
        DynamicNetwork([GCNLayer(2, 6), WDGCNLayer(5, 4)])
    with pytest.raises(ValueError, match="got backend='dense'"):
        StaticGCN(2, backend="dense")
    with pytest.raises(ValueError, match="got order=0"):
        GConvGRU(2, order=0)
    with pytest.raises(ValueError, match="got window=0"):
        TMGCN(2, window=0)
    with pytest.raises(ValueError, match="got cell='rnn'; choose from lstm, gru"):
        EvolveGCNO(2, cell="rnn")
    shard = shard_of(timeline_of())
    with pytest.raises(
        ValueError, match="got 3 features a vertex for WDGCNLayer of in_channels=2; give it in_channels=3"
    ):
        shard.run(WDGCN(2).double())
    with pytest.raises(ValueError, match="give the timeline m_window=20"):
        shard.run(TMGCN(WIDTH).double())
    with pytest.raises(ValueError, match="give it at most 8 channels"):
        shard.run(EvolveGCNH(WIDTH, (9,)).double())
    with pytest.raises(ValueError, match=r"got 0 tensors of carry; expected 4"):
        WDGCN(WIDTH).double()(shard.blocks[0], ())


def test_layers_may_be_mixed():
    network = DynamicNetwork([VertexLayer(WIDTH, 4), WDGCNLayer(4, 2)]).double()
    assert network.coupling == "recurrent"
    assert "3 → 2, coupling=recurrent" in repr(network)
    assert shard_of(timeline_of()).run(network).shape == (STEPS, NODES, 2)


@pytest.mark.parametrize("name", CASES)
def test_print_tells_the_layers(name):
    network = network_of(name)
    assert f"{network.layers[0]!r}".startswith(f"{type(network.layers[0]).__name__}(")
    assert f"{WIDTH} → {network.out_channels}, coupling={network.coupling}" in repr(network)
