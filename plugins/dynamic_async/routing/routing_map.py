"""Routing as a dynamic iteration: a participant owns its row of routes, one for each destination."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fulgurite.plugins.dynamic_async.model.dynamic_map import Array, DynamicMap, Kernel, Participants
from fulgurite.plugins.dynamic_async.model.errors import MapError
from fulgurite.plugins.dynamic_async.routing.algebra import Edge, Route, RoutingAlgebra
from fulgurite.plugins.dynamic_async.routing.topology import Topology


class RoutingMap(DynamicMap):
    r"""F of an algebra over a network that changes (https://arxiv.org/abs/2012.01686, section 5).

    .. math:: F^{ep}(X)_{ij} = I_{ij} \oplus \bigoplus_k A_{ep}(i, k) \rhd X_{kj}

    with A_{ep}(i, k) the link's label in epoch e if both ends take part and there is one, else what gives ∞; I is 0 on
    the diagonal and ∞ elsewhere, and ⊥ = I. Participant i's state is its row, (D · width,) int64: for each destination
    the whole numbers of a route, one route after another. Epoch e is the topology's e-th.

    Args:
        algebra: what routes are.
        topology: nodes, links and epochs.
        compiled: whether to use the compiled kernels where the algebra has a compiled form.

    Raises:
        AlgebraError: a link has no label in the algebra.

    Example:
        >>> from fulgurite.plugins.dynamic_async.routing.metrics import ShortestPaths
        >>> from fulgurite.plugins.dynamic_async.routing.topology import parse_topology
        >>> topology = parse_topology("nodes A B C\nlink A B cost 3\nlink B C\ndestinations C")
        >>> routes = RoutingMap(ShortestPaths(), topology)
        >>> everybody = np.ones(3, dtype=bool)
        >>> one = routes.evaluate(1, 0, everybody, {0: routes.bottom(0), 2: routes.bottom(2)})
        >>> routes.routes(one)
        [(1,)]
    """

    def __init__(self, algebra: RoutingAlgebra, topology: Topology, *, compiled: bool = True) -> None:
        self.algebra, self.topology = algebra, topology
        self.num_participants = topology.num_nodes
        self.destinations = np.array(topology.destinations, dtype=np.int64)
        edges = sorted({ends for epoch in topology.epochs for ends in epoch.links})
        self._edges = edges
        readers = np.array([i for i, _ in edges], dtype=np.int64)
        self._indptr = np.searchsorted(readers, np.arange(self.num_participants + 1)).astype(np.int64)
        self._indices = np.array([j for _, j in edges], dtype=np.int64)
        self._labels = [{ends: algebra.label(link) for ends, link in epoch.links.items()} for epoch in topology.epochs]
        self._form = algebra.compiled_form() if compiled else None
        self._arrays = () if self._form is None else self._compiled_arrays()
        rows = np.full((self.num_participants, len(self.destinations), algebra.width), algebra.invalid, dtype=np.int64)
        rows[self.destinations, np.arange(len(self.destinations))] = algebra.trivial
        self._bottom = rows.reshape(self.num_participants, -1)

    def bottom(self, i: int) -> Array:
        """Row i of I."""
        return self._bottom[i].copy()

    def neighbours(self, i: int) -> NDArray[np.int64]:
        """Whoever i is linked to in any epoch."""
        return self._indices[self._indptr[i] : self._indptr[i + 1]]

    def evaluate(self, i: int, epoch: int, participants: Participants, inputs: Mapping[int, Array]) -> Array:
        """Row i of F^{ep}(X)."""
        self._check(epoch)
        readable = self.neighbours(i)
        if self._form is None:
            return self._evaluate_slowly(i, epoch, participants, inputs, readable.tolist())
        rows = np.empty((len(readable), self._bottom.shape[1]), dtype=np.int64)
        for place, j in enumerate(readable.tolist()):
            rows[place] = inputs[j]
        out = np.empty(self._bottom.shape[1], dtype=np.int64)
        self._function()(i, epoch, participants[readable], rows, out, *self._arrays)
        return out

    def contains(self, i: int, value: Array) -> bool:
        """Whether it is a row of routes of the algebra."""
        return super().contains(i, value) and all(map(self.algebra.is_route, self.routes(value)))

    def kernel(self) -> Kernel | None:
        """The compiled evaluation, where the algebra has one."""
        if self._form is None:
            return None
        return Kernel(self._function(), self._arrays, self._indptr, self._indices, self._bottom, self._bottom)

    def fingerprint(self) -> bytes:
        """Over the algebra, the destinations, and every epoch's links and labels."""
        said = repr([sorted(labels.items()) for labels in self._labels]) + self.algebra.fingerprint()
        return self.digest(self.destinations, np.frombuffer(said.encode(), dtype=np.uint8))

    def routes(self, row: Array) -> list[Route]:
        """The routes of a row, one for each destination."""
        return [tuple(route) for route in row.reshape(-1, self.algebra.width).tolist()]

    def row(self, routes: Sequence[Route]) -> Array:
        """The row of these routes."""
        return np.array(routes, dtype=np.int64).reshape(-1)

    def edges(self, epoch: int, participants: Participants | None = None) -> list[Edge]:
        """The labelled links of an epoch between nodes that take part (default: those of the topology)."""
        self._check(epoch)
        present = self.topology.epochs[epoch].present if participants is None else participants
        return [Edge(i, j, label) for (i, j), label in self._labels[epoch].items() if present[i] and present[j]]

    def step(self, epoch: int, participants: Participants, rows: Sequence[Array] | NDArray[Any]) -> NDArray[np.int64]:
        """(n, D · width) F^{ep} of a whole state at once, a synchronous round; ⊥ for who takes no part."""
        result = self._bottom.copy()
        for i in np.flatnonzero(participants).tolist():
            inputs = {j: rows[j] if participants[j] else self._bottom[j] for j in self.neighbours(i).tolist()}
            result[i] = self.evaluate(i, epoch, participants, inputs)
        return result

    def wrong(self, rows: NDArray[Any], right: NDArray[Any], participants: Iterable[bool]) -> NDArray[np.bool_]:
        """(…, n, D) which routes of those who take part differ between two (…, n, D · width) states."""
        shape = (*np.broadcast_shapes(rows.shape, right.shape)[:-1], len(self.destinations), self.algebra.width)
        differ = (rows != right).reshape(shape).any(axis=-1)
        return differ & np.asarray(participants)[..., :, None]

    def _check(self, epoch: int) -> None:
        if not 0 <= epoch < len(self._labels):
            raise MapError(f"epoch {epoch}: the topology has epochs 0 to {len(self._labels) - 1}")

    def _evaluate_slowly(
        self, i: int, epoch: int, participants: Participants, inputs: Mapping[int, Array], readable: list[int]
    ) -> Array:
        algebra, labels = self.algebra, self._labels[epoch]
        best = self.routes(self._bottom[i])
        for j in readable:
            if (i, j) in labels and participants[j]:
                edge = Edge(i, j, labels[i, j])
                for place, route in enumerate(self.routes(inputs[j])):
                    best[place] = algebra.choose(best[place], algebra.extend(edge, route))
        return self.row(best)

    def _function(self) -> Any:
        from fulgurite.plugins.dynamic_async.routing import kernels

        return kernels.evaluate_paths if self._form and self._form.longest else kernels.evaluate_numbers

    def _compiled_arrays(self) -> tuple[Any, ...]:
        form, algebra = self._form, self.algebra
        assert form is not None
        said = [(e, ends, label) for e, labels in enumerate(self._labels) for ends, label in labels.items()]
        numbers, table = algebra.compiled_labels([label for *_, label in said])
        places = {ends: place for place, ends in enumerate(self._edges)}
        labels = np.full((len(self._labels), max(1, len(self._edges))), -1, dtype=np.int64)
        for (e, ends, _), number in zip(said, numbers, strict=True):
            labels[e, places[ends]] = number
        if not form.longest:
            return self._indptr, labels, self.destinations, form.kind, form.limit
        least_best = np.array([algebra.invalid, algebra.trivial], dtype=np.int64)
        shape = self._indptr, self._indices, labels, self.destinations, least_best, table
        return (*shape, form.kind, form.limit, form.longest)
