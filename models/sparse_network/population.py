"""SparsePopulation: many unlike networks evaluated, and trained, in one call."""

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self, overload

import torch
from torch import Tensor, nn
from typing_extensions import override

from fulgurite.models.sparse_network.choice.backends import BACKENDS, evaluate_by, matching, sparse_backend
from fulgurite.models.sparse_network.merged import merge
from fulgurite.models.sparse_network.network import SparseNetwork

_PARAMETERS = ("weight", "bias", "response")


class SparsePopulation(nn.Module):
    """Networks of unlike topologies side by side, evaluated in one call and trained by one optimizer.

    What neuroevolution asks for: a generation of genomes at once, rather than one after another. The members become
    one graph of independent groups, so that one pass over it computes them all.

    The parameters are the members' one after another: ``weight`` all weights, ``bias`` and ``response`` those of the
    members that have them. A loss that is a sum over members trains each as if it were alone, under any optimizer that
    treats parameters elementwise (SGD, Adam, AdamW); clipping by norm would mix them.

    Args:
        networks: P of them, with the same number of inputs, type and device. They are copied. What is frozen
            (``requires_grad`` false) in all of them stays so.
        backend: ``"auto"``, ``"cpu"``, ``"triton"`` or ``"reference"``.

    Attributes:
        mask: (P, O) bool, true where a member has an output.

    Shape:
        (B, F), the same for all members, or (P, B, F) → (P, B, O), with O the most outputs that a member has; others'
        rows end in zeros.

    Raises:
        TypeError: something else than a list of networks.
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
        if isinstance(networks, SparseNetwork):
            raise TypeError("networks is one SparseNetwork; pass a list, [network]")
        networks = list(networks)
        _check(networks)
        self.backend = backend
        self.num_inputs = networks[0].num_inputs
        self.num_outputs = max(network.num_outputs for network in networks)
        self._members = [copy.deepcopy(network) for network in networks]
        for name in _PARAMETERS:
            values = [value for network in networks if (value := getattr(network, name)) is not None]
            whole = torch.cat([value.detach() for value in values]) if values else None
            setattr(self, name, None if whole is None else nn.Parameter(whole, values[0].requires_grad))
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

    @property
    def backend(self) -> str:
        """What was asked for; assign to change it."""
        return self._backend

    @backend.setter
    def backend(self, backend: str) -> None:
        if backend not in BACKENDS or backend == "dense":
            choices = ", ".join(name for name in BACKENDS if name != "dense")
            raise ValueError(f"backend is {backend!r}; a population has {choices}")
        self._backend = str(backend)

    def __len__(self) -> int:
        return len(self._members)

    @overload
    def __getitem__(self, index: int) -> SparseNetwork: ...

    @overload
    def __getitem__(self, index: slice) -> list[SparseNetwork]: ...

    def __getitem__(self, index: int | slice) -> SparseNetwork | list[SparseNetwork]:
        """A copy of one member, or of some, with the parameters that they have now."""
        numbers = range(len(self))[index]
        return self._copies(numbers) if isinstance(numbers, range) else self._copies([numbers])[0]

    def __iter__(self) -> Iterator[SparseNetwork]:
        return iter(self.networks())

    def networks(self) -> list[SparseNetwork]:
        """Copies of all members, with the parameters that they have now."""
        return self._copies(range(len(self)))

    def _copies(self, numbers: Sequence[int]) -> list[SparseNetwork]:
        members = [copy.deepcopy(self._members[number]) for number in numbers]
        with torch.no_grad():
            for name in _PARAMETERS:
                whole = getattr(self, name)
                if whole is None:
                    continue
                sizes = [0 if (value := getattr(member, name)) is None else len(value) for member in self._members]
                parts = whole.split(sizes)
                for number, member in zip(numbers, members, strict=True):
                    if (own := getattr(member, name)) is not None:
                        own.copy_(parts[number])
                        own.requires_grad_(whole.requires_grad)
        return [member.to(self.weight) for member in members]

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Evaluate every member.

        Args:
            x: (B, F) for all of them, or (P, B, F), of the parameters' type and device.

        Returns:
            (P, B, O), zero where ``mask`` is false.

        Raises:
            TypeError: something else than a tensor.
            ValueError: another shape, type or device.
        """
        members, inputs = len(self._members), self.num_inputs
        if not isinstance(x, Tensor):
            raise TypeError(
                f"x is a {type(x).__name__}; pass a tensor of shape (B, {inputs}) or ({members}, B, {inputs})"
            )
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
    for name in _PARAMETERS:
        trained = {
            number: value.requires_grad
            for number, network in enumerate(networks)
            if (value := getattr(network, name)) is not None
        }
        if len(set(trained.values())) > 1:
            free = next(number for number, value in trained.items() if value)
            frozen = next(number for number, value in trained.items() if not value)
            raise ValueError(
                f"{name} is trained in member {free} and frozen in member {frozen} (requires_grad), and is one "
                "parameter of the population; set requires_grad alike in all, or put frozen members into a population "
                "of their own"
            )
