"""Implicit graph networks as dynamic iterations: participants are parts of the node set."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array, diags_array

from fulgurite.plugins.compiled import compiled
from fulgurite.plugins.dynamic_async.maps.graph_rows import (
    even_weights,
    greatest_inputs,
    measures,
    metzler_weights,
    part_rows,
    row_sums,
)
from fulgurite.plugins.dynamic_async.model.bounds import gap
from fulgurite.plugins.dynamic_async.model.dynamic_map import Array, Box, DynamicMap, Participants
from fulgurite.plugins.dynamic_async.model.errors import MapError

Activation = Literal["relu", "tanh", "sigmoid", "identity"]
Normalisation = Literal["given", "row", "symmetric"]
_SLOPES = {"relu": 1.0, "tanh": 1.0, "sigmoid": 0.25, "identity": 1.0}
_KEPT_VIEWS = 16
_LARGE = 100_000  # entries from which weights of 1 are kept, if they contract, without looking for better ones


@compiled()
def aggregate(indptr: Array, indices: Array, values: Array, inputs: Array, weight: Array, bias: Array) -> Array:
    """(A X) Wᵀ + B in one fixed order of summation, so that it is the same to the bit wherever it runs."""
    rows, channels = bias.shape
    out = bias.copy()
    gathered = np.empty(inputs.shape[1], inputs.dtype)
    for v in range(rows):
        gathered[:] = 0
        for k in range(indptr[v], indptr[v + 1]):
            for c in range(inputs.shape[1]):
                gathered[c] += values[k] * inputs[indices[k], c]
        for c in range(inputs.shape[1]):
            for d in range(channels):
                out[v, d] += weight[c, d] * gathered[c]
    return out


@dataclass(frozen=True)
class _Edges:
    """A of one view, and its rows for each part, over the nodes of the parts that it reads."""

    matrix: csr_array
    rows: tuple[tuple[NDArray[np.int64], NDArray[np.int64], Array], ...]
    step: float


class ImplicitGraphMap(DynamicMap):
    """X = φ(A X Wᵀ + B) over the nodes of a graph, cut into parts; φ acts on each entry, monotone and 1-Lipschitz.

    IGNN (Gu et al., https://arxiv.org/abs/2009.06211) iterates it as it stands and contracts if λ(|A|)·λ(|W|) < 1.
    NEMON (Jafarpour et al., NeurIPS 2021) iterates (1 − α)X + αφ(A X Wᵀ + B), α = 1/(1 − min(0, minᵢ Kᵢᵢ)) with
    K = A ⊗ W, and contracts by 1 − α(1 − max(μ, 0)) where μ = maxᵢ (Kᵢᵢ + Σ|Kᵢⱼ|) < 1; both in a weighted maximum
    norm: the distance of two states of a part is the greatest |difference|/s_vk over its nodes v and channels k.
    The nodes of a part that is absent count as 0.

    Args:
        adjacency: A, (N, N) sparse, entry (v, u) the weight by which node v reads node u; or several, one an epoch.
        weight: W, (d, d).
        bias: B, (N, d), the inputs' share.
        parts: the nodes of each participant, disjoint and together all of them; or how many parts, cut in order.
        activation: φ.
        normalisation: ``"given"``: A as it is; ``"row"``: rows divided by their sum over the nodes present;
            ``"symmetric"``: divided by the square roots of both nodes' degrees among those present.
        iteration: ``"ignn"`` or ``"nemon"``.
        scale: (N, d) s > 0, or (N, 1) or (1, d); by default 1 where that is as good as any, √degree of a node for the
            symmetric normalisation, else from the Perron vectors of |A| and |W|.
        gain: (N, d) in [0, 1] that multiplies what φ gives; the adjoint's.
        dtype: of the states.

    Attributes:
        parts: the nodes of each participant.

    Shape:
        - a participant's state: (nodes of the part, d).

    Raises:
        MapError: shapes that do not fit, parts that overlap or leave nodes out, a number that is not finite.

    Example:
        >>> ring = csr_array(np.roll(np.eye(4), 1, axis=1))
        >>> model = ImplicitGraphMap(ring, [[0.5]], np.ones((4, 1)), parts=2, activation="identity")
        >>> blocks = [model.initial(i) for i in range(2)]
        >>> for _ in range(60):
        ...     blocks = [model.evaluate(i, 0, np.ones(2, bool), dict(enumerate(blocks))) for i in range(2)]
        >>> model.assemble(blocks).round(6).ravel().tolist()
        [2.0, 2.0, 2.0, 2.0]
    """

    def __init__(
        self,
        adjacency: Any,
        weight: ArrayLike,
        bias: ArrayLike,
        parts: Sequence[ArrayLike] | int,
        *,
        activation: Activation = "relu",
        normalisation: Normalisation = "given",
        iteration: Literal["ignn", "nemon"] = "ignn",
        scale: ArrayLike | None = None,
        gain: ArrayLike | None = None,
        dtype: Any = np.float64,
    ) -> None:
        self.dtype = np.dtype(dtype)
        self.bias = np.ascontiguousarray(bias, dtype=self.dtype)
        self.weight = np.ascontiguousarray(weight, dtype=self.dtype)
        given = list(adjacency) if isinstance(adjacency, (list, tuple)) else [adjacency]
        self.adjacencies = tuple(csr_array(matrix, dtype=np.float64) for matrix in given)
        self.activation, self.normalisation, self.iteration = activation, normalisation, iteration
        self.gain = None if gain is None else np.ascontiguousarray(gain, dtype=self.dtype)
        self._check()
        self.parts = _checked_parts(parts, len(self.bias))
        self.num_participants, self.num_epochs = len(self.parts), len(self.adjacencies)
        self.leaving = {"given": "restricts", "row": "shrinks" if iteration == "ignn" else "unknown"}.get(
            normalisation, "unknown"
        )
        self.lands_inside = activation in ("tanh", "sigmoid") and self.gain is None
        self._part_of = np.empty(len(self.bias), dtype=np.int64)
        for i, nodes in enumerate(self.parts):
            self._part_of[nodes] = i
        self._neighbours = self._find_neighbours()
        self._kept: OrderedDict[tuple[int, bytes], _Edges] = OrderedDict()
        self._left_scales: dict[tuple[int, bytes], NDArray[np.float64]] = {}
        self._wide = self.weight.astype(np.float64)
        self.scale = self._natural_scale() if scale is None else self._checked_scale(scale)
        self._scales = tuple(self.scale[nodes] for nodes in self.parts)

    def bottom(self, i: int) -> Array:
        """0 for each node."""
        return np.zeros((len(self.parts[i]), self.bias.shape[1]), dtype=self.dtype)

    def neighbours(self, i: int) -> NDArray[np.int64]:
        """Parts with a node that one of i's reads in some epoch; i itself for NEMON."""
        return self._neighbours[i]

    def evaluate(self, i: int, epoch: int, participants: Participants, inputs: Mapping[int, Array]) -> Array:
        """The part's rows of φ(A X Wᵀ + B), averaged with its old state for NEMON."""
        edges = self._edges(epoch, participants)
        read = [inputs[j] for j in self._neighbours[i].tolist()]
        stacked = np.concatenate(read) if read else np.zeros((0, self.bias.shape[1]), dtype=self.dtype)
        indptr, indices, values = edges.rows[i]
        nodes = self.parts[i]
        summed = aggregate(indptr, indices, values, stacked, np.ascontiguousarray(self.weight.T), self.bias[nodes])
        fresh = self._activate(summed, self._gain_of(i))
        if self.iteration == "ignn":
            return fresh
        step = self.dtype.type(edges.step)
        mixed: Array = (1 - step) * inputs[i] + step * fresh
        return mixed

    def distance(self, i: int, x: Array, y: Array) -> float:
        """Max |xᵥₖ − yᵥₖ|/sᵥₖ over the part."""
        gone = np.abs(np.asarray(x, dtype=np.float64) - y) / self._scales[i]
        return float(np.max(gone, initial=0.0))

    @cached_property
    def _box(self) -> Box | None:
        size = self.num_participants
        centre = tuple(self.bottom(i) for i in range(size))
        if self.lands_inside:  # values in [−1, 1]; X is a ball of the distance that holds them
            return Box(centre, np.array([_raised(1.0 / scale.min(initial=1.0)) for scale in self._scales]))
        everybody = np.ones(size, dtype=np.bool_)
        gamma = max(float(self.factors(e, everybody, np.ones(size)).max()) for e in range(self.num_epochs))
        if gamma >= 1.0:
            return None
        # Whatever the view, F(0) is φ(B), entry by entry; NEMON moves a part α of the way.
        start = [self._activate(self.bias[nodes], self._gain_of(i)) for i, nodes in enumerate(self.parts)]
        moved = max(self.distance(i, value, centre[i]) for i, value in enumerate(start))
        lost = max(self._rounding(i, 2.0 * moved / gap(gamma)) for i in range(size))
        radius = (moved + 2.0 * lost) / gap(gamma) * (1.0 + 1e-6)
        return Box(centre, np.full(size, radius or 1.0))

    @property
    def domain(self) -> Box | None:
        """A ball around 0: of all that a bounded φ can give, or that the contraction keeps; None if it does not."""
        return self._box

    def lipschitz(self, epoch: int, participants: Participants) -> csr_array:
        """Between parts, by each pair's greatest row sum; ``factors`` takes whole rows and says more."""
        edges = self._edges(epoch, participants)
        slope = edges.step * _SLOPES[self.activation] * (1.0 + 2.0**-50)
        found = slope * part_rows(edges.matrix, self._wide, self.scale, self._part_of, self.num_participants)
        if self.iteration == "nemon":  # what a negative diagonal takes off is given up here
            found[np.diag_indices(self.num_participants)] += np.nextafter(1.0 - edges.step, np.inf)
            found *= 1.0 + 2.0**-50
        return csr_array(found * np.outer(participants, participants))

    def factors(self, epoch: int, participants: Participants, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """The greatest row of each part: that of |A| ⊗ |W| for IGNN, 1 − α(1 − max(μ, 0)) for NEMON."""
        edges = self._edges(epoch, participants)
        scale = self.scale * weights[self._part_of][:, None]
        if self.iteration == "ignn" and self.normalisation == "row":  # the same whoever is left of a row
            given = self.adjacencies[min(epoch, self.num_epochs - 1)]
            rows = greatest_inputs(given, self._wide, scale)
            lost = (int(np.diff(given.indptr).max(initial=0)) + 8) * float(np.finfo(self.dtype).eps)
            rows = rows * (_SLOPES[self.activation] * (1.0 + lost))
        elif self.iteration == "ignn":
            rows = row_sums(edges.matrix, self._wide, scale) * _SLOPES[self.activation]
        else:
            rows = np.maximum(measures(edges.matrix, self._wide, scale), 0.0) * _SLOPES[self.activation]
            rows = (1.0 - edges.step * (1.0 - rows)) * (1.0 + 2.0**-50)
        found = np.zeros(self.num_participants)
        np.maximum.at(found, self._part_of, rows.max(axis=1, initial=0.0))
        return np.where(participants, found, 0.0)

    def rounding(self, i: int) -> float:
        """What the sums over neighbours and channels may lose on X."""
        return 0.0 if self.domain is None else self._rounding(i, float(self.domain.radius.max()))

    def _rounding(self, i: int, reach: float) -> float:
        if not len(self.parts[i]):
            return 0.0
        degree = max(int(np.diff(matrix.indptr)[self.parts[i]].max(initial=0)) for matrix in self.adjacencies)
        bias = self.distance(i, np.asarray(self.bias[self.parts[i]]), self.bottom(i))
        total = self._greatest_row * reach + bias + reach + 1.0
        return (degree + len(self.weight) + 8) * 2.0 * float(np.finfo(self.dtype).eps) * total

    @cached_property
    def _greatest_row(self) -> float:
        everybody = np.ones(self.num_participants, dtype=np.bool_)
        rows = [row_sums(self._edges(e, everybody).matrix, self._wide, self.scale) for e in range(self.num_epochs)]
        return float(max(sums.max(initial=0.0) for sums in rows))

    def fingerprint(self) -> bytes:
        """Of the graphs, the weights, the bias and the parts."""
        graphs = [array for matrix in self.adjacencies for array in (matrix.indptr, matrix.indices, matrix.data)]
        kind = np.frombuffer(f"{self.activation}:{self.normalisation}:{self.iteration}".encode(), dtype=np.uint8)
        gain = [] if self.gain is None else [self.gain]
        return self.digest(kind, *graphs, self.weight, self.bias, self._part_of, *gain)

    def assemble(self, blocks: Sequence[Array]) -> Array:
        """(N, d) The nodes' states from the parts' blocks."""
        whole = np.empty(self.bias.shape, dtype=self.dtype)
        for nodes, block in zip(self.parts, blocks, strict=True):
            whole[nodes] = block
        return whole

    def split(self, states: Array) -> list[Array]:
        """The parts' blocks of (N, d) node states."""
        return [np.ascontiguousarray(states[nodes], dtype=self.dtype) for nodes in self.parts]

    def node_errors(self, bound: float) -> NDArray[np.float64]:
        """(N, d) What a bound on ‖x − x*‖_w says of each entry: |xᵥₖ − x*ᵥₖ| ≤ bound·sᵥₖ, for certificate weights 1."""
        return bound * self.scale

    def adjoint(
        self, states: Array, gradient: Array, *, epoch: int = 0, participants: Participants | None = None
    ) -> ImplicitGraphMap:
        """The backward pass as such a map: V = S ∘ (Aᵀ V W + G), with V = ∂L/∂Z of Z = A X Wᵀ + B.

        From its fixed point ∂L/∂B = V, ∂L/∂W = Vᵀ(A X) and ∂L/∂A = V W Xᵀ. It contracts as the forward map does, with
        the left vectors of |A| and |W| for weights, and its participants are the same parts.

        Args:
            states: (N, d) the solution X.
            gradient: (N, d) G = ∂L/∂X of what comes after.
            epoch: e of the view that X solves.
            participants: p of that view; everybody by default. Rows of G outside it should be 0.
        """
        mask = np.ones(self.num_participants, dtype=np.bool_) if participants is None else participants
        edges = self._edges(epoch, mask)
        present = mask[self._part_of][:, None]
        slope = self._slope(self.preactivation(states, epoch=epoch, participants=mask)) * present
        view = (min(epoch, self.num_epochs - 1), mask.tobytes())
        made = ImplicitGraphMap(
            csr_array(edges.matrix.T),
            self.weight.T,
            gradient,
            self.parts,
            activation="identity",
            iteration=self.iteration,
            scale=self._left_scales.get(view),
            gain=slope if self.gain is None else slope * self.gain,
            dtype=self.dtype,
        )
        self._left_scales = {view: made.scale}  # of A and W alone, and the dearest part of a backward pass
        return made

    def aggregated(self, states: Array, *, epoch: int = 0, participants: Participants | None = None) -> Array:
        """(N, d) A X of a view; absent nodes read as 0."""
        mask = np.ones(self.num_participants, dtype=np.bool_) if participants is None else participants
        return np.asarray(self._edges(epoch, mask).matrix @ np.asarray(states, dtype=np.float64)).astype(self.dtype)

    def preactivation(self, states: Array, *, epoch: int = 0, participants: Participants | None = None) -> Array:
        """(N, d) Z = A X Wᵀ + B of a view."""
        gathered = self.aggregated(states, epoch=epoch, participants=participants)
        return np.asarray(gathered @ self.weight.T + self.bias)

    def at_epoch(self, epoch: int) -> ImplicitGraphMap:
        """The map of one epoch alone, with that epoch's own weights: to be certified where no one norm serves all."""
        return ImplicitGraphMap(
            self.adjacencies[min(epoch, self.num_epochs - 1)],
            self.weight,
            self.bias,
            self.parts,
            activation=self.activation,
            normalisation=self.normalisation,
            iteration=self.iteration,
            gain=self.gain,
            dtype=self.dtype,
        )

    def _check(self) -> None:
        nodes, channels = self.bias.shape if self.bias.ndim == 2 else (-1, -1)
        if self.weight.shape != (channels, channels):
            raise MapError(
                f"a weight of shape {self.weight.shape} and a bias of shape {self.bias.shape} were given; "
                "(d, d) and (nodes, d) are due"
            )
        if self.activation not in _SLOPES:
            raise MapError(f"activation {self.activation!r} is not one of {', '.join(_SLOPES)}")
        if self.normalisation not in ("given", "row", "symmetric") or self.iteration not in ("ignn", "nemon"):
            raise MapError(f"unknown normalisation {self.normalisation!r} or iteration {self.iteration!r}")
        if not self.adjacencies:
            raise MapError("no adjacency was given; one is due for each epoch")
        for matrix in self.adjacencies:
            if matrix.shape != (nodes, nodes):
                raise MapError(f"an adjacency has shape {matrix.shape}; the bias has {nodes} nodes")
            matrix.sum_duplicates()
            if self.normalisation != "given" and (matrix.data < 0).any():
                raise MapError("a normalised adjacency must not be negative")
            if not np.isfinite(matrix.data).all():
                raise MapError("an adjacency holds a NaN or an infinity")
        if not np.isfinite(self.weight).all() or not np.isfinite(self.bias).all():
            raise MapError("the weight or the bias holds a NaN or an infinity")
        if self.gain is not None and (
            self.gain.shape != self.bias.shape or not ((self.gain >= 0) & (self.gain <= 1)).all()
        ):
            raise MapError(f"a gain of shape {self.gain.shape} was given; {self.bias.shape} in [0, 1] is due")

    def _find_neighbours(self) -> tuple[NDArray[np.int64], ...]:
        size = self.num_participants
        reads = np.zeros((size, size), dtype=np.bool_)
        for matrix in self.adjacencies:
            entries = matrix.tocoo()
            reads[self._part_of[entries.coords[0]], self._part_of[entries.coords[1]]] = True
        if self.iteration == "nemon":
            np.fill_diagonal(reads, True)
        return tuple(np.flatnonzero(row).astype(np.int64) for row in reads)

    def _edges(self, epoch: int, participants: Participants) -> _Edges:
        epoch = min(epoch, self.num_epochs - 1)
        key = (epoch, participants.tobytes())
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        matrix = self._normalised(self.adjacencies[epoch], participants[self._part_of].astype(np.float64))
        matrix.data = matrix.data.astype(self.dtype).astype(np.float64)  # what is certified is what is computed with
        rows = []
        place = np.full(matrix.shape[0], -1, dtype=np.int64)
        for i, nodes in enumerate(self.parts):
            read = [self.parts[j] for j in self._neighbours[i].tolist()]
            columns = np.concatenate(read) if read else np.zeros(0, dtype=np.int64)
            place[columns] = np.arange(len(columns))
            own = csr_array(matrix[nodes])
            rows.append((own.indptr.astype(np.int64), place[own.indices], own.data.astype(self.dtype)))
        step = 1.0
        if self.iteration == "nemon":
            loops = self.adjacencies[epoch] if self.normalisation == "given" else matrix  # α is the same for all sets
            diagonal = np.outer(loops.diagonal(), np.diag(self._wide))
            step = 1.0 / (1.0 - min(0.0, float(diagonal.min(initial=0.0))))
        self._kept[key] = _Edges(matrix, tuple(rows), step)
        if len(self._kept) > _KEPT_VIEWS:
            self._kept.popitem(last=False)
        return self._kept[key]

    def _normalised(self, matrix: csr_array, present: NDArray[np.float64]) -> csr_array:
        if self.normalisation == "given" and present.all():
            return csr_array(matrix, copy=True)
        kept = csr_array(diags_array(present) @ matrix @ diags_array(present))
        kept.eliminate_zeros()
        if self.normalisation != "given":
            degree = np.asarray(kept.sum(axis=1)).reshape(-1)
            if self.normalisation == "row":
                kept = csr_array(diags_array(_inverse(degree)) @ kept)
            else:
                root = diags_array(_inverse(np.sqrt(degree)))
                kept = csr_array(root @ kept @ root)
        kept.sort_indices()
        return kept

    def _natural_scale(self) -> NDArray[np.float64]:
        everybody = np.ones(self.num_participants, dtype=np.bool_)
        matrices = [csr_array(abs(self._edges(e, everybody).matrix)) for e in range(self.num_epochs)]
        ones = np.ones(self.bias.shape)
        if self.iteration == "nemon":
            signed = [self._edges(e, everybody).matrix for e in range(self.num_epochs)]
            enough = measures(signed[0], self._wide, ones).max(initial=0.0) < 1.0
            if len(signed) > 1 or (enough and ones.size > _LARGE):
                return ones
            return metzler_weights(signed[0], self._wide)
        channels = even_weights(csr_array(np.abs(self._wide)))
        if self.normalisation == "symmetric":
            degree = np.maximum.reduce([np.asarray(matrix.sum(axis=1)).reshape(-1) for matrix in self.adjacencies])
            nodes = np.sqrt(np.where(degree > 0, degree, 1.0) / (float(degree.max(initial=0.0)) or 1.0))
            return np.outer(nodes / nodes.max(), channels)
        greatest = matrices[0]
        for matrix in matrices[1:]:
            greatest = csr_array(greatest.maximum(matrix))
        stochastic = self.normalisation == "row" or greatest.sum(axis=1).max() <= 1.0 + 1e-6
        return np.outer(np.ones(len(ones)) if stochastic else even_weights(greatest), channels)

    def _checked_scale(self, given: ArrayLike) -> NDArray[np.float64]:
        made = np.asarray(given, dtype=np.float64)
        if made.ndim != 2 or not all(a in (1, b) for a, b in zip(made.shape, self.bias.shape, strict=True)):
            raise MapError(f"a scale of shape {made.shape} was given for states of shape {self.bias.shape}")
        if not np.isfinite(made).all() or not (made > 0).all():
            raise MapError("every entry of the scale must be positive and finite")
        return np.ascontiguousarray(np.broadcast_to(made, self.bias.shape))

    def _gain_of(self, i: int) -> Array | None:
        return None if self.gain is None else self.gain[self.parts[i]]

    def _activate(self, values: Array, gain: Array | None) -> Array:
        if self.activation == "relu":
            fresh = np.maximum(values, 0)
        elif self.activation == "tanh":
            fresh = np.tanh(values)
        elif self.activation == "sigmoid":
            fresh = 0.5 * (1 + np.tanh(0.5 * values))
        else:
            fresh = values
        fresh = fresh.astype(self.dtype, copy=False)
        return fresh if gain is None else gain * fresh

    def _slope(self, values: Array) -> Array:
        """φ' at the pre-activations."""
        if self.activation == "relu":
            return (values > 0).astype(self.dtype)
        if self.activation == "tanh":
            return np.asarray(1 - np.tanh(values) ** 2)
        if self.activation == "sigmoid":
            half = 0.5 * (1 + np.tanh(0.5 * values))
            return np.asarray(half * (1 - half))
        return np.ones_like(values)


def _inverse(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """1/x, and 0 for 0."""
    return np.divide(1.0, values, out=np.zeros_like(values), where=values > 0)


def _raised(value: float) -> float:
    return float(np.nextafter(value * (1.0 + 2.0**-20), np.inf))


def _checked_parts(parts: Sequence[ArrayLike] | int, nodes: int) -> tuple[NDArray[np.int64], ...]:
    if isinstance(parts, int):
        if not 1 <= parts <= max(nodes, 1):
            raise MapError(f"{parts} parts were asked for of {nodes} nodes; give 1 to {nodes}")
        return tuple(np.array_split(np.arange(nodes, dtype=np.int64), parts))
    made = tuple(np.asarray(part, dtype=np.int64).reshape(-1) for part in parts)
    together = np.sort(np.concatenate(made)) if made else np.zeros(0, dtype=np.int64)
    if not np.array_equal(together, np.arange(nodes)):
        raise MapError(f"the parts hold {len(together)} nodes; they must be disjoint and together all {nodes}")
    return made
