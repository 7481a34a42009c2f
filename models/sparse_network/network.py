"""SparseNetwork: any acyclic network as one trainable layer."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from typing_extensions import override

from fulgurite.models.sparse_network.choice.backends import BACKENDS, DTYPES, Backend, evaluate_by, matching
from fulgurite.models.sparse_network.choice.choice import Chooser, Trial, can_time
from fulgurite.models.sparse_network.choice.dense import DensePlan, plan_dense
from fulgurite.models.sparse_network.choice.explanation import Explanation, explain
from fulgurite.models.sparse_network.definition import Definition, Names, define
from fulgurite.models.sparse_network.edge_list import Duplicates
from fulgurite.models.sparse_network.rewirable import RewirableModule, Values, flat_values
from fulgurite.plugins.registry import nearest


class SparseNetwork(RewirableModule):
    r"""A network of nodes and edges, wired as you like but without cycles, that computes edge by edge and trains.

    Such networks come of pruning and of neuroevolution. A. Gajurel, S. J. Louis and F. C. Harris, *GPU Acceleration of
    Sparse Neural Networks*, `arXiv:2005.04347 <https://arxiv.org/abs/2005.04347>`__, evaluate them by groups of nodes
    that depend on one another's results only from group to group; here every batch tile runs through the whole
    network, forward and backward. For node v, in-edges e and their sources,

    .. math:: V_v = φ_v\bigl(b_v + r_v\, A_v\{w_e V_{\mathrm{src}(e)}\}\bigr)

    with an activation φ, an aggregation A (mostly the sum), a bias b and a response r (mostly 1).

    Parameters are flat: ``weight`` (E,) in edge order, so that ``weight[i]`` belongs to ``edges[i]``; ``bias`` and
    ``response`` (N − F,) by node, that of node F first. Optimizers, gradient clipping, EMA, DDP and autocast (which it
    computes through in the parameters' own type) treat them as any others. The topology is part of the ``state_dict``,
    and loading one of another topology changes the network's; Parameter objects stay.

    Args:
        edges: (E, 2) whole numbers, rows (source, target); array, list or tensor, in any order.
        num_inputs: F; nodes 0 … F − 1 are the inputs.
        outputs: (O,) node ids in output order; may name inputs, may repeat.
        num_nodes: N, inputs included; None: one more than the largest id that is mentioned. A node without in-edges
            gives φ(b).
        activation: one name of :data:`~fulgurite.models.sparse_network.activations.ACTIVATIONS` for all nodes, outputs
            included; N names by node; or ``{node: name}``, others being relu.
        aggregation: likewise of :data:`~fulgurite.models.sparse_network.aggregations.AGGREGATIONS`, others being sum.
        weight: (E,) as ``edges`` were given. None: Kaiming's uniform :math:`±\sqrt{6/\text{fan-in}}`, each node's own.
        bias: True: trainable, starting at 0; (N − F,) values to start at; False: none.
        response: (N − F,) values to start at, or True for ones; None: none, which is faster.
        duplicates: what to do with an edge that is given twice: ``"error"``, or ``"sum"`` to add up the weights.
        steps: for graphs with cycles: k synchronous updates of all nodes, from V = 0; outputs are read after the last.
            Weights are shared between updates.
        backend: ``"auto"`` estimates, and where it is close, times sparse against dense at the first batch of a size
            (see :meth:`explain`; results of the two differ by rounding, so pin one to repeat a run bit by bit).
            ``"cpu"`` and ``"triton"`` compute sparsely, ``"dense"`` by one matrix a level, where a NaN or an infinity
            reaches the whole level, ``"reference"`` slowly, one node at a time.
        generator: of the initial weights; None: torch's own.
        device: where to put the parameters; None: on torch's default device.
        dtype: float32 or float64; None: that of a ``weight`` tensor, or torch's default.

    Shape:
        (…, F) → (…, O).

    Raises:
        TopologyError: a ``ValueError``: ids out of range, a cycle (one is named), an edge into an input or given twice.
        ValueError: an unknown name or backend, values of a wrong shape, half precision.

    Example:
        >>> import torch
        >>> net = SparseNetwork(
        ...     [(0, 2), (1, 2), (0, 3), (2, 3)],
        ...     num_inputs=2,
        ...     outputs=[3],
        ...     activation={3: "identity"},
        ...     weight=[1.0, 2.0, 3.0, 4.0],
        ... )
        >>> net
        SparseNetwork(inputs=2, outputs=1, nodes=4, edges=4, depth=2, backend=auto)
        >>> net(torch.tensor([[1.0, -1.0], [1.0, 1.0]])).tolist()
        [[3.0], [15.0]]
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    response: nn.Parameter | None

    def __init__(
        self,
        edges: ArrayLike | Tensor,
        *,
        num_inputs: int,
        outputs: ArrayLike | Tensor,
        num_nodes: int | None = None,
        activation: Names = "relu",
        aggregation: Names = "sum",
        weight: Values | None = None,
        bias: bool | Values = True,
        response: bool | Values | None = None,
        duplicates: Duplicates = "error",
        steps: int | None = None,
        backend: Backend | str = "auto",
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        _check_backend(backend)
        definition, order = define(
            edges,
            num_inputs=num_inputs,
            outputs=outputs,
            num_nodes=num_nodes,
            activation=activation,
            aggregation=aggregation,
            duplicates=duplicates,
            steps=steps,
        )
        if dtype is None:
            floating = isinstance(weight, Tensor) and weight.is_floating_point()
            dtype = weight.dtype if floating and isinstance(weight, Tensor) else torch.get_default_dtype()
        if dtype not in DTYPES:
            raise ValueError(f"got dtype {dtype}; SparseNetwork computes in float32 and float64")
        if weight is None:
            values = _kaiming(definition, generator, dtype)
        else:
            given = flat_values(weight, "weight", len(order), dtype, "one for each edge as given")
            values = given.new_zeros(len(definition.edges)).index_add_(0, order, given)
        super().__init__(
            definition,
            values,
            _by_node("bias", bias, 0.0, definition, dtype),
            _by_node("response", response, 1.0, definition, dtype),
        )
        self._backend = str(backend)
        self._settle()
        target = torch.get_default_device() if device is None else torch.device(device)
        if target.type != "cpu":
            self.to(target)

    @override
    def _settle(self) -> None:
        topology = self._definition.topology
        before: Chooser | None = self.__dict__.get("_chooser")
        self._chooser: Chooser | None = None
        self._plan: DensePlan | None = None
        self._pinned: str | None = self._backend
        if self._backend == "auto":
            self._chooser = Chooser(topology, self.weight.dtype)
            if before is not None:
                self._chooser.follow(before)
            self._plan = self._chooser.plan
            candidates = self._chooser.candidates
            self._pinned = candidates[0] if len(candidates) == 1 else None
        elif self._backend == "dense":
            self._plan = plan_dense(topology)

    @property
    def backend(self) -> str:
        """What was asked for; assign to change it."""
        return self._backend

    @backend.setter
    def backend(self, backend: str) -> None:
        _check_backend(backend)
        before, self._backend = self._backend, backend
        try:
            self._settle()
        except ValueError:
            self._backend = before
            self._settle()
            raise

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Evaluate the network.

        Args:
            x: (…, F), of the parameters' type and device (under autocast, of any floating type). May be empty.

        Returns:
            (…, O).

        Raises:
            TypeError: something else than a tensor.
            ValueError: another shape, type or device.
        """
        flat = self._flat(x)
        backend = self._pinned
        if backend is None:
            assert self._chooser is not None
            backend = self._choose(flat, self._chooser)
        parameters = self._definition.spread(self.weight, self.bias, self.response)
        y = evaluate_by(backend, self._definition.topology, self._plan, flat, *parameters)
        return y if x.dim() == 2 else y.reshape(*x.shape[:-1], self.num_outputs)

    def explain(self, batch_size: int, *, timed: bool = False) -> Explanation:
        """Tell which backend is chosen for a batch size, and why; print the result, or read its fields.

        Args:
            batch_size: B.
            timed: also time each backend, on random inputs; ``auto`` then decides by what was found.

        Example:
            >>> net = SparseNetwork([(0, 1)], num_inputs=1, outputs=[1])
            >>> print(net.explain(64))  # doctest: +ELLIPSIS
            SparseNetwork: 1 inputs, 1 outputs, 2 nodes, 1 edges in 1 levels, 1 to 1 wide; density 100 %
            batch of 64 on cpu, float32, ...
            inference runs on cpu: no dense: fewer than 64 edges a level
            training runs on cpu: no dense: fewer than 64 edges a level
        """
        if isinstance(batch_size, bool) or not isinstance(batch_size, int | np.integer) or batch_size < 1:
            raise ValueError(f"batch_size is {batch_size!r}; expected a number of samples, 1 or more")
        trials = None
        if timed:
            generator = torch.Generator("cpu").manual_seed(0)
            x = torch.rand(int(batch_size), self.num_inputs, generator=generator, device="cpu").to(self.weight)
            trials = {training: self._trial(x, training) for training in (False, True)}
        return explain(
            self.topology,
            self._chooser or Chooser(self.topology, self.weight.dtype, self._plan),
            setting=self._backend,
            dtype=self.weight.dtype,
            batch_size=int(batch_size),
            trials=trials,
        )

    @classmethod
    def from_sequential(cls, module: nn.Module, **options: Any) -> "SparseNetwork":
        """Convert a pruned module; see :func:`fulgurite.models.sparse_network.convert.sequential.from_sequential`."""
        from fulgurite.models.sparse_network.convert.sequential import from_sequential

        return from_sequential(module, **options)

    @classmethod
    def from_genome(cls, genome: Any, config: Any, **options: Any) -> "SparseNetwork":
        """Convert neat-python's genome; see :func:`fulgurite.models.sparse_network.convert.genome.from_genome`."""
        from fulgurite.models.sparse_network.convert.genome import from_genome

        return from_genome(genome, config, **options)

    @classmethod
    def from_networkx(cls, graph: Any, **options: Any) -> "SparseNetwork":
        """Convert a directed graph; see :func:`fulgurite.models.sparse_network.convert.graphs.from_networkx`."""
        from fulgurite.models.sparse_network.convert.graphs import from_networkx

        return from_networkx(graph, **options)

    @classmethod
    def from_csr(cls, matrices: Sequence[Any], **options: Any) -> "SparseNetwork":
        """Convert a list of sparse matrices; see :func:`fulgurite.models.sparse_network.convert.graphs.from_csr`."""
        from fulgurite.models.sparse_network.convert.graphs import from_csr

        return from_csr(matrices, **options)

    def to_networkx(self) -> Any:
        """Give a ``networkx.DiGraph``; see :func:`fulgurite.models.sparse_network.convert.graphs.to_networkx`."""
        from fulgurite.models.sparse_network.convert.graphs import to_networkx

        return to_networkx(self)

    def to_onnx(self, path: str | os.PathLike[str]) -> None:
        """Write an ONNX file; see :func:`fulgurite.models.sparse_network.convert.onnx_export.to_onnx`."""
        from fulgurite.models.sparse_network.convert.onnx_export import to_onnx

        to_onnx(self, path)

    @override
    def extra_repr(self) -> str:
        steps = "" if self.steps is None else f", steps={self.steps}"
        return (
            f"inputs={self.num_inputs}, outputs={self.num_outputs}, nodes={self.num_nodes}, edges={self.num_edges}, "
            f"depth={self.depth}{steps}, backend={self._backend}"
        )

    def _flat(self, x: Tensor) -> Tensor:
        """Check x, and give it as (B, F)."""
        if not isinstance(x, Tensor):
            raise TypeError(f"x is a {type(x).__name__}; pass a tensor of shape (…, {self.num_inputs})")
        if x.dim() == 0 or x.shape[-1] != self.num_inputs:
            raise ValueError(
                f"x has shape {tuple(x.shape)}, expected (…, {self.num_inputs}): a number for each input node"
            )
        x = matching(x, self.weight, self._backend)
        return x if x.dim() == 2 else x.reshape(-1, self.num_inputs)

    def _choose(self, x: Tensor, chooser: Chooser) -> str:
        training = torch.is_grad_enabled() and any(
            tensor is not None and tensor.requires_grad for tensor in (x, self.weight, self.bias, self.response)
        )
        if torch.compiler.is_compiling():
            table = chooser.untimed[training]
            if not torch.compiler.is_exporting():  # an exported program has one way for all batches
                for limit, backend in table[:-1]:
                    if x.shape[0] <= limit:
                        return backend
            return table[-1][1]
        decision = chooser.known(len(x), training=training)
        if decision is None:
            trial = self._trial(x, training) if can_time(x) else None
            decision = chooser.decide(len(x), training=training, trial=trial)
        return decision.backend

    def _trial(self, x: Tensor, training: bool) -> Trial:
        """Gives functions that run the network on the first samples of x, to be timed."""
        x, needs_x = x.detach(), x.requires_grad
        definition, plan = self._definition, self._plan
        originals = (self.weight, self.bias, self.response)

        def trial(backend: str, samples: int) -> Callable[[], object]:
            def run() -> None:
                part = x[:samples].requires_grad_(needs_x and training)
                leaves = [
                    None if tensor is None else tensor.detach().requires_grad_(tensor.requires_grad and training)
                    for tensor in originals
                ]
                weight, bias, response = leaves
                assert weight is not None
                with torch.set_grad_enabled(training):
                    y = evaluate_by(
                        backend, definition.topology, plan, part, *definition.spread(weight, bias, response)
                    )
                if y.requires_grad:
                    wanted = [leaf for leaf in (part, *leaves) if leaf is not None and leaf.requires_grad]
                    torch.autograd.grad(y, wanted, torch.ones_like(y), allow_unused=True)

            return run

        return trial


def _check_backend(backend: object) -> None:
    if backend not in BACKENDS:
        hint = nearest(str(backend), BACKENDS)
        raise ValueError(f"no backend {backend!r}{hint}")


def _kaiming(definition: Definition, generator: torch.Generator | None, dtype: torch.dtype) -> Tensor:
    """Kaiming's uniform weights by each target's own fan-in."""
    targets = definition.edges[:, 1]
    fan_in = torch.bincount(targets, minlength=definition.num_nodes)[targets]
    drawn = torch.rand(len(targets), generator=generator, dtype=dtype, device="cpu")
    return (2 * drawn - 1) * torch.sqrt(6 / fan_in.to(dtype))


def _by_node(
    name: str, start: bool | Values | None, default: float, like: Definition, dtype: torch.dtype
) -> Tensor | None:
    if start is None or start is False:
        return None
    first, count = like.num_inputs, like.num_nodes - like.num_inputs
    if start is True:
        return torch.full((count,), default, dtype=dtype, device="cpu")
    return flat_values(start, name, count, dtype, f"one for each node from {first} on, inputs having none")
