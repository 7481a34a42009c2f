"""Block checkpointing against the plain run: losses, gradients, what is sent and what is kept."""

import copy

import pytest
import torch
from torch import nn

from fulgurite.plugins.snapshot_parallel.blocks import checkpointed
from fulgurite.plugins.snapshot_parallel.exchange import Exchange, GroupExchange
from fulgurite.plugins.snapshot_parallel.partitioning import partition
from fulgurite.plugins.snapshot_parallel.shard import Block, Shard

STEPS, NODES = 7, 5


class TwoLayers(nn.Module):
    """Two layers of a dense map and an LSTM along every vertex; and the frame before, by halo."""

    coupling = "recurrent"

    def __init__(self, dropout=0.0):
        super().__init__()
        self.dense = nn.ModuleList([nn.Linear(3, 4), nn.Linear(5, 4)])
        self.recurrent = nn.ModuleList([nn.LSTM(4, 5), nn.LSTM(4, 2)])
        self.past = nn.Parameter(torch.tensor(0.5))
        self.unused = nn.Linear(1, 1)
        self.dropout = nn.Dropout(dropout)

    def initial_carry(self, block):
        start, stop = block.split.vertices[block.rank]
        like = block.features
        states = [like.new_zeros(1, stop - start, width) for width in (5, 5, 2, 2)]
        # The input's past frames need no gradient, the output's do, and the count cannot have one.
        return (
            *states,
            like.new_zeros(0, *like.shape[1:]),
            like.new_zeros(0, block.num_nodes, 2),
            torch.zeros((), dtype=torch.int64),
        )

    def forward(self, block, carry):
        exchange, split = block.exchange, block.split
        *states, inputs, outputs, count = carry
        before, inputs = exchange.halo(block.features, split, width=1, carried=inputs)
        x = block.features + self.past * self.shifted(before, block)
        for layer in range(2):
            y = exchange.to_vertices(torch.tanh(self.dense[layer](x)), split)
            cell = self.recurrent[layer]
            if y.shape[1]:
                y, states[2 * layer : 2 * layer + 2] = cell(y, tuple(states[2 * layer : 2 * layer + 2]))
            else:  # nn.LSTM refuses no vertices; whatever is returned still depends on y
                y = y.new_zeros(*y.shape[:2], cell.hidden_size) + 0 * y.sum()
            x = exchange.to_snapshots(y, split)
        x = self.dropout(x)
        before, outputs = exchange.halo(x, split, width=1, carried=outputs)
        return x + self.past * self.shifted(before, block), (*states, inputs, outputs, count + 1)

    @staticmethod
    def shifted(extended, block):
        """The frame before each own one; zeros before the first of all."""
        first = extended.new_zeros(int(block.start == 0 and block.stop > 0), *extended.shape[1:])
        return torch.cat([first, extended])[: block.stop - block.start]


class Source:
    """Given features, and how often they were asked for."""

    device = torch.device("cpu")

    def __init__(self, features):
        self.whole, self.asked = features, 0

    def features(self, start, stop):
        self.asked += 1
        return self.whole[start:stop]


def numbers(seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(STEPS, NODES, 3, dtype=torch.float64, generator=generator)
    weight = torch.randn(STEPS, NODES, 2, dtype=torch.float64, generator=generator)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return x, weight, TwoLayers().double()


def shard_of(exchange, blocks, collectives, source):
    part = partition([1] * STEPS, NODES, exchange.size, blocks)
    parts = tuple(Block(part, i, exchange, source=source) for i in range(blocks))
    return Shard(None, part, exchange, parts, None, torch.tensor(part.owned(exchange.rank)), collectives)


def trained(blocks, collectives, scored=range(STEPS)):
    """Loss, gradients and traffic of one rank; only some snapshots have loss terms."""
    exchange = GroupExchange()
    x, weight, network = numbers()
    shard = shard_of(exchange, blocks, collectives, Source(x))
    embeddings = shard.run(network)
    loss = shard.anchor(embeddings)
    for place, step in enumerate(shard.times.tolist()):
        if step in scored:
            loss = loss + (embeddings[place] * weight[step]).sum()
    loss.backward()
    return loss.item(), [p.grad for p in network.parameters()], exchange.traffic


RUNS = [(1, "none"), (3, "none"), (1, "resend"), (3, "save"), (3, "resend"), (7, "save")]


def every_run(scored, runs):
    return {run: trained(*run, scored) for run in runs}


def summed(found, run):
    losses = sum(rank[run][0] for rank in found)
    gradients = [
        sum((g for g in grads if g is not None), torch.zeros(()))
        for grads in zip(*(r[run][1] for r in found), strict=True)
    ]
    return losses, gradients


@pytest.mark.distributed
@pytest.mark.parametrize("scored", [range(STEPS), (0,), (6,), (2, 3)], ids=["all", "first", "last", "middle"])
def test_blocks_and_ranks_change_neither_loss_nor_gradients(run_ranks, scored):
    # With few scored snapshots most ranks have no loss term, and whole blocks have none on any rank (traps 1 and 2);
    # seven blocks of one snapshot leave every rank but the first without snapshots.
    loss, gradients = summed(run_ranks(every_run, 1, scored, RUNS[:1]), (1, "none"))
    for ranks in (2, 3, 4):
        found = run_ranks(every_run, ranks, scored, RUNS if len(scored) == STEPS else RUNS[-3:])
        for run in found[0]:
            other_loss, others = summed(found, run)
            assert abs(loss - other_loss) <= 1e-12, (ranks, run)
            for gradient, other in zip(gradients, others, strict=True):
                assert torch.allclose(gradient, other, rtol=0, atol=1e-12), (ranks, run)


@pytest.mark.distributed
def test_save_never_sends_again_and_resend_makes_three_passes(run_ranks):
    runs = [(blocks, mode) for blocks in (1, 3) for mode in ("none", "save", "resend")]
    for rank, found in enumerate(run_ranks(every_run, 3, range(STEPS), runs)):
        for blocks in (1, 3):
            plain, save, resend = (found[blocks, mode][2] for mode in ("none", "save", "resend"))
            # Not a call and not a byte more than without checkpoints, also where features need no gradient.
            assert save == plain
            part = partition([1] * STEPS, NODES, 3, blocks)
            moved = {"to_vertices": (4 + 4), "to_snapshots": (5 + 2)}
            for kind, features in moved.items():
                sent = [getattr(split, f"bytes_to_{kind[3:]}")(rank, features, 8) for split in part.blocks]
                assert plain.bytes[kind] == sum(sent)
                assert resend.bytes[kind] == 2 * sum(sent)
                assert resend.bytes[f"{kind}/backward"] == plain.bytes[f"{kind}/backward"]
                assert plain.calls[kind] == 2 * blocks
                assert resend.calls[kind] == 4 * blocks
            # Of the two halos only the second needs a gradient; the first one's goes nowhere.
            assert (plain.calls["halo"], plain.calls["halo/backward"]) == (2 * blocks, blocks)
            assert resend.bytes["halo"] == 2 * plain.bytes["halo"]
            assert resend.bytes["halo/backward"] == plain.bytes["halo/backward"]


def negative_control(loss_terms_everywhere):
    exchange = GroupExchange()
    x, _, network = numbers()
    shard = shard_of(exchange, 1, "none", Source(x))
    embeddings = shard.run(network)
    if exchange.rank == 0 or loss_terms_everywhere:
        embeddings.sum().backward()
    return True


@pytest.mark.distributed
def test_without_the_anchor_a_rank_without_loss_keeps_the_others_waiting(run_ranks):
    assert run_ranks(negative_control, 2, True) == [True, True]
    found = run_ranks(negative_control, 2, False, group_timeout=1, errors="return")
    assert isinstance(found[0], RuntimeError)


def single(blocks, collectives, network, x):
    source = Source(x)
    shard = shard_of(Exchange(), blocks, collectives, source)
    return shard.run(network), source


def test_backward_reads_a_block_again_and_holds_none():
    x, _, network = numbers()
    embeddings, source = single(3, "resend", network, x)
    assert source.asked == 3 + 1  # and once for the initial carry
    embeddings.sum().backward()
    assert source.asked == 6 + 1


def saved_bytes(blocks, collectives):
    x, _, network = numbers()
    kept = {}

    def note(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    big = x.repeat(12, 1, 1)
    part = partition([1] * len(big), NODES, 1, blocks)
    exchange = Exchange()
    parts = tuple(Block(part, i, exchange, source=Source(big)) for i in range(blocks))
    shard = Shard(None, part, exchange, parts, None, torch.arange(len(big)), collectives)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        embeddings = shard.run(network)
        after_forward = sum(kept.values())
    # What the re-run of the first block keeps.
    again = [0]

    def add(tensor):
        again[0] += tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(add, lambda tensor: tensor):
        network(shard.blocks[0], network.initial_carry(shard.blocks[0]))
    del embeddings
    return after_forward, again[0]


def test_blocks_keep_less():
    plain, _ = saved_bytes(1, "none")
    found = {blocks: saved_bytes(blocks, "resend") for blocks in (2, 6, 12)}
    carry = (5 + 5 + 2 + 2 + 3 + 2) * NODES * 8 + 8
    parameters = sum(p.nbytes for p in TwoLayers().double().parameters())
    for blocks, (kept, _) in found.items():
        assert kept <= blocks * carry + parameters
        assert kept < plain / 2
    # Twice as many blocks halve what a block's re-run keeps beside the parameters.
    assert found[2][1] > 2.5 * found[6][1] > 1.5 * 2.5 * found[12][1]


def test_hooks_see_one_gradient_and_clipping_by_hook_is_applied_once():
    x, weight, network = numbers()
    seen = []
    for blocks, mode in ((1, "none"), (1, "save"), (3, "resend")):
        copied = copy.deepcopy(network)
        calls = []
        copied.past.register_hook(lambda gradient, calls=calls: calls.append(1) or gradient * 10)
        embeddings, _ = single(blocks, mode, copied, x)
        (embeddings * weight).sum().backward()
        seen.append((copied.past.grad.item(), len(calls)))
    assert seen[0][1] == seen[1][1] == seen[2][1] == 1
    assert [value for value, _ in seen] == pytest.approx([seen[0][0]] * 3, rel=1e-12)


def test_autograd_grad_gives_the_same_and_leaves_grad_alone():
    x, weight, network = numbers()
    named = dict(network.named_parameters())
    asked = [named["past"], named["dense.0.weight"]]
    expected = torch.autograd.grad((single(1, "none", network, x)[0] * weight).sum(), asked)
    found = torch.autograd.grad((single(3, "save", network, x)[0] * weight).sum(), asked)
    for one, other in zip(expected, found, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-12)
    assert all(p.grad is None for p in network.parameters())


def test_an_unused_parameter_gets_no_gradient():
    x, _, network = numbers()
    single(2, "save", network, x)[0].sum().backward()
    assert network.unused.weight.grad is None


def test_features_that_ask_get_their_gradient():
    x, weight, network = numbers()
    part = partition([1] * STEPS, NODES, 1)
    gradients = []
    for mode in (None, "save", "resend"):
        given = x.clone().requires_grad_()
        block = Block(part, 0, Exchange(), features=given)
        carry = network.initial_carry(block)
        out, _ = network(block, carry) if mode is None else checkpointed(network, block, carry, collectives=mode)
        (out * weight).sum().backward()
        gradients.append(given.grad)
    assert gradients[0].abs().sum() > 0
    assert torch.allclose(gradients[0], gradients[1], rtol=0, atol=1e-12)
    assert torch.equal(gradients[1], gradients[2])


def test_the_carry_needs_a_gradient_only_where_it_does_without_checkpoints():
    x, _, network = numbers()
    block = Block(partition([1] * STEPS, NODES, 1, 2), 0, Exchange(), source=Source(x))
    carry = network.initial_carry(block)
    plain = [tensor.requires_grad for tensor in network(block, carry)[1]]
    for mode in ("save", "resend"):
        assert [t.requires_grad for t in checkpointed(network, block, carry, collectives=mode)[1]] == plain
    assert plain == [True] * 4 + [False, True, False]


def test_a_small_carry_does_not_keep_what_it_was_cut_from():
    x, _, network = numbers()
    block = Block(partition([1] * STEPS, NODES, 1), 0, Exchange(), source=Source(x))
    _, carry = checkpointed(network, block, network.initial_carry(block), collectives="save")
    assert all(tensor.untyped_storage().nbytes() <= 2 * tensor.nbytes for tensor in carry if tensor.dim())


def test_dropout_draws_the_same_again_and_the_generator_goes_on_as_if_once():
    x, weight, _ = numbers()
    torch.manual_seed(1)
    network = TwoLayers(dropout=0.5).double()
    results = []
    for mode in ("none", "save", "resend"):
        torch.manual_seed(7)
        copied = copy.deepcopy(network)
        (single(3, mode, copied, x)[0] * weight).sum().backward()
        results.append(([p.grad for p in copied.parameters() if p.grad is not None], torch.rand(1)))
    for gradients, drawn in results[1:]:
        assert torch.equal(drawn, results[0][1])
        for one, other in zip(gradients, results[0][0], strict=True):
            assert torch.allclose(one, other, rtol=0, atol=1e-12)


def test_the_re_run_is_in_the_precision_of_the_forward_pass():
    x, weight, network = numbers()
    network, x = network.float(), x.float()
    results = []
    for mode in ("none", "resend"):
        copied = copy.deepcopy(network)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            embeddings, _ = single(2, mode, copied, x)
        (embeddings * weight.float()).sum().backward()
        results.append([p.grad for p in copied.parameters() if p.grad is not None])
    for one, other in zip(*results, strict=True):
        assert torch.allclose(one, other, rtol=1e-2, atol=1e-2)
    exact = copy.deepcopy(network)
    (single(2, "none", exact, x)[0] * weight.float()).sum().backward()
    assert not torch.equal(exact.dense[0].weight.grad, results[1][0])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_the_network_just_runs(mode):
    x, _, network = numbers()
    expected = single(1, "none", network, x)[0]
    with mode():
        found, source = single(3, "save", network, x)
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)
    assert not found.requires_grad
    assert source.asked == 4


def test_a_parameter_changed_before_backward_is_an_error():
    x, _, network = numbers()
    embeddings, _ = single(2, "save", network, x)
    with torch.no_grad():
        network.past.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        embeddings.sum().backward()


def test_a_network_without_parameters_passes_gradients_through():
    class Through(nn.Module):
        def forward(self, block, carry):
            return 2 * block.features, carry

    part = partition([1, 1], 1, 1)
    given = torch.ones(2, 1, 1, requires_grad=True)
    out, carry = checkpointed(Through(), Block(part, 0, Exchange(), features=given), (), collectives="save")
    out.sum().backward()
    assert carry == ()
    assert given.grad.flatten().tolist() == [2.0, 2.0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_the_gpu_dropout_draws_the_same_again():
    x, weight, _ = (part.cuda() for part in numbers())
    torch.manual_seed(1)
    network = TwoLayers(dropout=0.5).double().cuda()
    results = []
    for mode in ("none", "save"):
        torch.manual_seed(7)
        copied = copy.deepcopy(network)
        (single(3, mode, copied, x)[0] * weight).sum().backward()
        results.append(([p.grad for p in copied.parameters() if p.grad is not None], torch.rand(1, device="cuda")))
    assert torch.equal(results[0][1], results[1][1])
    for one, other in zip(results[0][0], results[1][0], strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-10)
