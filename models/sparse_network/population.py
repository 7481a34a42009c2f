"""SparsePopulation: many unlike networks evaluated, and trained, in one call."""

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from typing_extensions import override

from fulgurite.models.sparse_network.choice.backends import BACKENDS, evaluate_by, matching, sparse_backend
from fulgurite.models.sparse_network.merged import merge
from fulgurite.models.sparse_network.network import SparseNetwork


class SparsePopulation(nn.Module):
    """Networks of unlike topologies side by side, evaluated in one call and trained by one optimizer.

    What neuroevolution asks for: a generation of genomes at once, rather than one after another. The members become
    one graph of independent groups, so that one pass over it computes them all.

    The parameters are the members' one after another: ``weight`` all weights, ``bias`` and ``response`` those of the
    members that have them. A loss that is a sum over members trains each as if it were alone, under any optimizer that
    treats parameters elementwise (SGD, Adam, AdamW); clipping by norm would mix them.

    Args:
        networks: P of them, with the same number of inputs, type and device. They are copied.
        backend: ``"auto"``, ``"cpu"``, ``"triton"`` or ``"reference"``.

    Attributes:
        mask: (P, O) bool, true where a member has an output.

    Shape:
        (B, F), the same for all members, or (P, B, F) → (P, B, O), with O the most outputs that a member has; others'
        rows end in zeros.

    Raises:
        ValueError: no networks, or networks that differ where they must not.

    Example:
        >>> import torch
        >>> one = SparseNetwork([(0, 2)], num_inputs=2, outputs=[2], weight=[2.0])
        >>> two = SparseNetwork([(0, 2), (1, 2), (2, 3)], num_inputs=2, outputs=[2, 3], weight=[1.0, 1.0, 3.0])
        >>> population = SparsePopulation([one, two])
        >>> population(torch.tensor([[1.0, 2.0]])).tolist(), population.mask.tolist()
        ([[[2.0, 0.0]], [[3.0, 9.0]]], [[True, False], [True, True]])
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    response: nn.Parameter | None
    mask: Tensor

    def __init__(self, networks: Sequence[SparseNetwork], *, backend: str = "auto") -> None:
        super().__init__()
        networks = list(networks)
        _check(networks)
        if backend not in BACKENDS or backend == "dense":
            choices = ", ".join(name for name in BACKENDS if name != "dense")
            raise ValueError(f"backend is {backend!r}; a population has {choices}")
        self.backend = backend
        self.num_inputs = networks[0].num_inputs
        self.num_outputs = max(network.num_outputs for network in networks)
        self._members = [copy.deepcopy(network) for network in networks]
        for name in ("weight", "bias", "response"):
            values = [value.detach() for network in networks if (value := getattr(network, name)) is not None]
            setattr(self, name, nn.Parameter(torch.cat(values)) if values else None)
        with torch.device("cpu"):
            counts = torch.tensor([network.num_outputs for network in networks])
            mask = torch.arange(self.num_outputs) < counts[:, None]
            # A column of zeros after all outputs fills the gaps.
            columns = torch.full_like(mask, int(counts.sum()), dtype=torch.int64)
            columns[mask] = torch.arange(int(counts.sum()))
            self.mask = mask
            self._columns = None if bool(mask.all()) else columns.flatten()
            self._shared = merge(self._members, shared=True)
            self._apart = merge(self._members, shared=False)
        self._place(self.weight.device)

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, index: int) -> SparseNetwork:
        """A copy of one member, with the parameters that it has now."""
        member = copy.deepcopy(self._members[index])
        before = self._members[: range(len(self))[index]]
        with torch.no_grad():
            for name in ("weight", "bias", "response"):
                if (own := getattr(member, name)) is not None:
                    start = sum(len(value) for other in before if (value := getattr(other, name)) is not None)
                    own.copy_(getattr(self, name)[start : start + len(own)])
        return member.to(self.weight)

    def __iter__(self) -> Iterator[SparseNetwork]:
        return iter(self.networks())

    def networks(self) -> list[SparseNetwork]:
        """Copies of all members, with the parameters that they have now."""
        members = [copy.deepcopy(member) for member in self._members]
        with torch.no_grad():
            for name in ("weight", "bias", "response"):
                owners = [value for member in members if (value := getattr(member, name)) is not None]
                if owners:
                    parts = getattr(self, name).split([len(value) for value in owners])
                    for own, part in zip(owners, parts, strict=True):
                        own.copy_(part)
        return [member.to(self.weight) for member in members]

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Evaluate every member.

        Args:
            x: (B, F) for all of them, or (P, B, F), of the parameters' type and device.

        Returns:
            (P, B, O), zero where ``mask`` is false.

        Raises:
            ValueError: another shape, type or device.
        """
        members, inputs = len(self._members), self.num_inputs
        if x.dim() not in (2, 3) or x.shape[-1] != inputs or (x.dim() == 3 and x.shape[0] != members):
            raise ValueError(
                f"x has shape {tuple(x.shape)}, expected (B, {inputs}), the same for all members, or "
                f"({members}, B, {inputs})"
            )
        x = matching(x, self.weight, self.backend)
        merged = self._shared if x.dim() == 2 else self._apart
        flat = x if x.dim() == 2 else x.transpose(0, 1).reshape(x.shape[1], members * inputs)
        backend = (sparse_backend(x.device) or "reference") if self.backend == "auto" else self.backend
        y = evaluate_by(backend, merged.topology, None, flat, *merged.spread(self.weight, self.bias, self.response))
        if self._columns is not None:
            y = torch.cat([y, y.new_zeros(len(y), 1)], dim=1).index_select(1, self._columns)
        return y.reshape(len(y), members, self.num_outputs).transpose(0, 1)

    @override
    def extra_repr(self) -> str:
        topology = self._shared.topology
        return (
            f"members={len(self)}, inputs={self.num_inputs}, outputs={self.num_outputs}, nodes={topology.num_nodes}, "
            f"edges={topology.num_edges}, backend={self.backend}"
        )

    def _place(self, device: torch.device) -> None:
        self.mask = self.mask.to(device)
        self._columns = None if self._columns is None else self._columns.to(device)
        self._shared, self._apart = self._shared.to(device), self._apart.to(device)

    @override
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        if self.weight.device.type != "meta" and self.weight.device != self.mask.device:
            self._place(self.weight.device)
        return self

    @override
    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "digest"] = self._digest()

    @override
    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        state_dict = dict(state_dict)
        digest = state_dict.pop(prefix + "digest", None)
        if digest is None and strict:
            missing_keys.append(prefix + "digest")
        if digest is not None and not torch.equal(digest.cpu(), self._digest()):
            error_msgs.append(
                f"the state under {prefix or 'the top'!r} is of a population of other networks; build this one of the "
                "same networks, in the same order"
            )
            return
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def _digest(self) -> Tensor:
        """What tells populations of other networks apart, (32,) uint8."""
        digest = list(bytes.fromhex(self._shared.topology.digest()))
        return torch.tensor(digest, dtype=torch.uint8, device="cpu")


def _check(networks: Sequence[SparseNetwork]) -> None:
    if not networks:
        raise ValueError("got no networks; a population needs at least one")
    for number, network in enumerate(networks):
        if not isinstance(network, SparseNetwork):
            raise ValueError(f"member {number} is a {type(network).__name__}, expected a SparseNetwork")
    for what, of in (
        ("num_inputs", [network.num_inputs for network in networks]),
        ("dtype", [network.weight.dtype for network in networks]),
        ("device", [network.weight.device for network in networks]),
    ):
        if len(set(of)) > 1:
            number = next(number for number, value in enumerate(of) if value != of[0])
            raise ValueError(
                f"members differ in {what}: member 0 has {of[0]}, member {number} has {of[number]}; all must be alike"
            )
