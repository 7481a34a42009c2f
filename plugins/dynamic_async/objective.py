"""Whether a module's loss is as convex and smooth as it says: checked on what its head computes, step by step."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional


class ObjectiveError(ValueError):
    """A loss cannot be certified: the message says which condition it misses, and what to change."""


def _softmax(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.softmax(dim=1) - functional.one_hot(labels, logits.shape[1])


def _logistic(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.sigmoid() - labels.reshape(logits.shape)) / logits.shape[1]


def _squared(logits: Tensor, labels: Tensor) -> Tensor:
    return 2 * (logits - labels.reshape(logits.shape)) / logits.shape[1]


# Features that are of norm 1 in float32 are so up to rounding.
_LET_PASS = 1e-5


@dataclass(frozen=True)
class _Family:
    """A loss of logits z: its gradient of one row, and a bound on its Hessian by the number of classes."""

    name: str
    residual: Callable[[Tensor, Tensor], Tensor]
    curvature: Callable[[int], float]
    integral: bool


_FAMILIES = (
    # Böhning (1992): the Hessian of the softmax loss is at most ½ (I − 11ᵀ/C).
    _Family("cross_entropy", _softmax, lambda classes: 0.5, integral=True),
    _Family("binary_cross_entropy_with_logits", _logistic, lambda classes: 0.25 / classes, integral=False),
    _Family("mse_loss", _squared, lambda classes: 2.0 / classes, integral=False),
)


class ObjectiveWatch:
    r"""Checks a stated pair (μ, L) for a linear head with weight decay on frozen features.

    With features φ that do not change and a head z = Wφ + v that is all that trains, the losses ``cross_entropy``,
    ``binary_cross_entropy_with_logits`` and ``mse_loss`` (each a mean), plus :math:`\frac{\mu}{2} \|(W, v)\|^2`, are
    convex, and what decides is checked:

    - before training: every parameter that trains is the weight or bias of one ``nn.Linear``;
    - at each evaluation, from what the head read and gave: features and labels are those of the shard's evaluations
      before, to the bit; the gradient is the closed form of one of these losses with a decay of μ, to rounding, at this
      point; and :math:`L \ge h\,\lambda_{\max}(\frac1n \sum \tilde\varphi\tilde\varphi^\top) + \mu`, with
      :math:`\tilde\varphi = (\varphi, 1)` and the loss's own curvature h (½, ¼/C, 2/C).

    So the loss is the closed form at every point that training visits. At parameters of 0, and where rounding is
    larger, the decay cannot be seen; ``shown`` tells.

    Args:
        module: whose parameters train.
        bounds: (μ, L) as the module states them.

    Attributes:
        mu: μ as stated.
        lipschitz: L as stated.
        bounds: (μ, L) that a certificate may use: L with what the check lets pass.
        data: of the labels verified last, a digest.
        shown: the decay could be told from none, in the last verification.
        loss: name of the loss, once verified.
        spread: greatest norm of a row of the features verified last, with the bias's 1.
        rows: of these.

    Raises:
        ObjectiveError: before training.

    Example:
        >>> module = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> with ObjectiveWatch(module, (0.1, 10.0)) as watch:
        ...     x, labels = torch.ones(5, 2, 2), torch.tensor([0, 1, 2, 0, 0])
        ...     loss = functional.cross_entropy(module(x), labels)
        ...     (loss + 0.05 * sum(p.square().sum() for p in module.parameters())).backward()
        ...     watch.verify(labels)
        >>> watch.loss
        'cross_entropy'
    """

    def __init__(self, module: nn.Module, bounds: tuple[float, float]) -> None:
        self.mu, self.lipschitz = _checked_bounds(bounds)
        self.bounds = self.mu, self.lipschitz * (1 + 2 * _LET_PASS)
        self.data, self.shown = "", False
        self.head = _head(module)
        self.loss: str | None = None
        self.spread = 0.0
        self.rows = 0
        self._seen: list[tuple[Tensor, Tensor]] = []
        self._data: dict[int, tuple[bytes, float]] = {}
        self._hook: Any = None

    def __enter__(self) -> Self:
        self._seen.clear()
        self._hook = self.head.register_forward_hook(self._see)
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()
        self._seen.clear()

    def _see(self, _: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        self._seen.append((inputs[0].detach(), output.detach()))

    def verify(self, labels: Tensor, shard: int = 0) -> None:
        """Hold the gradients that lie in the head against the closed form.

        Args:
            labels: of the batch: (n,) int64 for ``cross_entropy``; as many numbers as there are logits otherwise.
            shard: whose batch it was.

        Raises:
            ObjectiveError: the loss is none of those above, or less convex or less smooth than stated.
        """
        if len(self._seen) != 1:
            raise ObjectiveError(
                f"the head ran {len(self._seen)} times in a training step; expected once, over the whole shard"
            )
        features, logits = (tensor.double() for tensor in self._seen[0])
        if features.ndim != 2 or not isinstance(labels, Tensor) or len(labels) != len(features):
            raise ObjectiveError(
                f"the head read features of shape {tuple(features.shape)}; expected (n, features) and a label for each "
                "row as the batch's second part"
            )
        extended = features if self.head.bias is None else torch.cat([features, features.new_ones(len(features), 1)], 1)
        gram = self._greatest_moment(extended, labels, shard)
        wanted = self._closed_form(features, extended, logits, labels)
        smooth = wanted.curvature(logits.shape[1]) * gram + self.mu
        if smooth > self.lipschitz * (1 + _LET_PASS):
            raise ObjectiveError(
                f"objective_bounds() states L = {self.lipschitz:g}; on this shard it is up to {smooth:.6g} "
                f"({wanted.name}: {wanted.curvature(logits.shape[1]):g} times the greatest eigenvalue {gram:.6g} of "
                "the features' second moments, plus the decay): state at least that, or scale the features"
            )
        self.loss, self.rows = wanted.name, len(features)
        self.spread = float(extended.norm(dim=1).max())
        self.data = _digest(labels).hex()

    def slope(self, labels: Tensor, point: Tensor) -> float:
        """‖∇f‖ of what was verified last, at any parameters of the head: (d,) weight, then bias."""
        family = next(family for family in _FAMILIES if family.name == self.loss)
        features = self._seen[0][0].double()
        at = point.to(features)
        weight = at[: self.head.weight.numel()].view(self.head.weight.shape)
        bias = None if self.head.bias is None else at[self.head.weight.numel() :]
        residual = family.residual(functional.linear(features, weight, bias), labels)
        closed = self._gradient(residual, features)
        return float((closed + self.mu * at).norm())

    def _gradient(self, residual: Tensor, features: Tensor) -> Tensor:
        plain = residual.T @ features / len(features)
        return torch.cat([plain.flatten(), *([] if self.head.bias is None else [residual.mean(dim=0)])])

    def _greatest_moment(self, features: Tensor, labels: Tensor, shard: int) -> float:
        # Its data do not change, nor then does the eigenvalue, which costs more than all the rest.
        digest = _digest(features, labels)
        if shard not in self._data:
            self._data[shard] = digest, float(torch.linalg.eigvalsh(features.T @ features / len(features))[-1])
        known, gram = self._data[shard]
        if known != digest:
            raise ObjectiveError(
                f"features or labels of shard {shard} are others than at its last evaluation; expected the same ones, "
                "computed the same way: no dropout or augmentation, BatchNorm in eval mode, a backbone that does not "
                "train"
            )
        return gram

    def _closed_form(self, features: Tensor, extended: Tensor, logits: Tensor, labels: Tensor) -> _Family:
        parts = [self.head.weight] + ([] if self.head.bias is None else [self.head.bias])
        if any(part.grad is None for part in parts):
            raise ObjectiveError("the head has no gradient after backward; expected training_step to give its loss")
        weights = torch.cat([part.detach().double().flatten() for part in parts])
        gradient = torch.cat([part.grad.double().flatten() for part in parts if part.grad is not None])
        # Rounding of the module's own type, relative to the sums' terms and not to what is left of them.
        slack = 64 * torch.finfo(self.head.weight.dtype).eps
        norm = float(weights.norm())
        _check_labels(labels, logits.shape[1])
        for family in _FAMILIES:
            if family.name == "binary_cross_entropy_with_logits" and not _are_shares(labels):
                continue
            fits = (
                labels.ndim == 1 and not labels.is_floating_point()
                if family.integral
                else (labels.numel() == logits.numel())
            )
            if not fits:
                continue
            residual = family.residual(logits, labels)
            rest = gradient - self._gradient(residual, features)
            scale = float(residual.abs().mean(dim=0).norm() * extended.abs().amax()) + float(gradient.norm())
            allowed = slack * (scale + self.mu * norm) + 1e-12
            if float((rest - self.mu * weights).norm()) <= allowed:
                # Beside large gradients a small decay is lost in rounding, and at 0 there is none.
                self.shown = allowed <= 0.1 * self.mu * norm
                return family
            decay = float(rest @ weights) / norm**2 if norm else self.mu
            if float((rest - decay * weights).norm()) <= allowed:
                raise ObjectiveError(
                    f"objective_bounds() states mu = {self.mu:g}; the {family.name} here has a weight decay of "
                    f"{decay:.6g} at this point: state the decay, and make it constant"
                )
        raise ObjectiveError(
            "the loss is not the mean cross_entropy, binary_cross_entropy_with_logits or mse_loss of the head's output "
            "plus a weight decay over weight and bias: its gradient differs from theirs; expected one of these, "
            "without label smoothing, class weights, or gradient clipping"
        )


def _check_labels(labels: Tensor, classes: int) -> None:
    if labels.ndim == 1 and not labels.is_floating_point() and len(labels):
        least, most = int(labels.min()), int(labels.max())
        if least < 0 or (most >= classes and classes > 1):
            raise ObjectiveError(
                f"got labels from {least} to {most} for {classes} logits; expected 0 to {classes - 1}, and no rows "
                "that are left out (ignore_index)"
            )


def _are_shares(labels: Tensor) -> bool:
    # Beyond [0, 1] a residual has no bound.
    return bool(((labels >= 0) & (labels <= 1)).all())


def _digest(*tensors: Tensor) -> bytes:
    hashed = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        hashed.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return hashed.digest()


def _checked_bounds(bounds: tuple[float, float]) -> tuple[float, float]:
    try:
        mu, lipschitz = (float(bound) for bound in bounds)
    except (TypeError, ValueError):
        raise ObjectiveError(f"objective_bounds() gave {bounds!r}; expected two numbers (mu, L)") from None
    if not 0 < mu <= lipschitz < float("inf"):
        raise ObjectiveError(f"objective_bounds() gave mu = {mu}, L = {lipschitz}; expected 0 < mu <= L")
    return mu, lipschitz


def _head(module: nn.Module) -> nn.Linear:
    trained = {id(weight): name for name, weight in module.named_parameters() if weight.requires_grad}
    heads = [
        (name, part)
        for name, part in module.named_modules()
        if type(part) is nn.Linear and any(id(weight) in trained for weight in part.parameters(recurse=False))
    ]
    if len(heads) != 1:
        raise ObjectiveError(
            f"{len(heads)} linear layers train ({', '.join(name for name, _ in heads[:4]) or 'none'}); expected one, "
            "the head, and everything else with requires_grad=False"
        )
    head = heads[0][1]
    others = [name for key, name in trained.items() if key not in {id(weight) for weight in head.parameters()}]
    if others or not all(weight.requires_grad for weight in head.parameters()):
        left = others or [name for name, weight in head.named_parameters() if not weight.requires_grad]
        raise ObjectiveError(
            f"beside the linear head {heads[0][0]!r}, {left[0]!r} {'trains' if others else 'does not train'}; expected "
            "the head's weight and bias to train and nothing else"
        )
    return head
