"""Is the head behind a cut piecewise linear, as the method wants it, or even affine, which leaves nothing to say?"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fulgurite.callbacks.representative_interpretation.margin import Head

# Weights meet activations: between two cuts with none of these the maps are only normalised, bent and pooled.
_MIXING = {"convolution", "mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot"}
_VIEWS = {
    *("view", "_unsafe_view", "reshape", "alias", "permute", "transpose", "t", "expand", "squeeze", "unsqueeze"),
    *("select", "slice", "split", "split_with_sizes", "chunk", "unbind", "unfold", "as_strided", "diagonal", "narrow"),
    *("clone", "copy", "_to_copy", "contiguous", "detach", "lift_fresh", "channel_shuffle", "pixel_shuffle"),
    *("pixel_unshuffle", "roll", "flip", "cat", "stack", "repeat", "constant_pad_nd", "im2col", "index", "gather"),
    *("index_put", "scatter", "scatter_add", "index_add"),
    *("index_select", "_reshape_alias", "view_as", "movedim", "slice_scatter", "select_scatter", "col2im"),
}
_LINEAR = {
    *("add", "sub", "rsub", "neg", "sum", "mean", "cumsum", "avg_pool1d", "avg_pool2d", "avg_pool3d"),
    *("_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_avg_pool1d", "upsample_nearest2d", "trace"),
    *("upsample_bilinear2d", "upsample_bicubic2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"),
    *("_upsample_nearest_exact2d", "reflection_pad1d", "reflection_pad2d", "replication_pad2d", "zero", "fill"),
    *("reflection_pad3d", "replication_pad1d", "replication_pad3d", "upsample_linear1d", "upsample_trilinear3d"),
}
_BENT = {
    *("relu", "leaky_relu", "_prelu_kernel", "prelu", "hardtanh", "relu6", "threshold", "clamp", "clamp_min", "abs"),
    *("clamp_max", "max_pool1d", "max_pool2d", "max_pool2d_with_indices", "max_pool3d_with_indices", "max", "min"),
    *("adaptive_max_pool2d", "adaptive_max_pool3d", "amax", "amin", "maximum", "minimum", "where", "rrelu_with_noise"),
    *("hardshrink", "softshrink", "fmax", "fmin", "topk", "sort", "mkldnn_max_pool2d", "max_unpool2d", "masked_fill"),
}
_BATCH_NORMS = {
    *("native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm", "_native_batch_norm_legit"),
    *("_native_batch_norm_legit_no_training", "_batch_norm_no_update", "_batch_norm_with_update", "batch_norm"),
}
# Products are linear as long as only one factor comes from the features.
_PRODUCTS = {"mul", "addcmul", *_MIXING}
# Their answer does not change between two kinks.
_CONSTANT = {
    *("gt", "ge", "lt", "le", "eq", "ne", "sign", "argmax", "argmin", "logical_and", "logical_or", "logical_not"),
    *("isnan", "isfinite", "isinf", "empty_like", "zeros_like", "ones_like", "full_like", "new_zeros", "new_empty"),
    *("new_ones", "new_full", "any", "all", "bitwise_and", "bitwise_or", "bitwise_not", "heaviside"),
}
_AT_ONCE = 2  # feature maps in a test: in float64 and with their graph each takes much memory behind an early cut
_PROBABILITIES = {"_softmax", "_log_softmax", "sigmoid", "log_sigmoid_forward"}


@dataclass(frozen=True)
class Origin:
    """How a tensor came about from the features.

    Args:
        last: the last operator on the way to it that is more than a view; "" for none.
        reason: the first operator on the way that is not piecewise linear, in words; "" as long as there is none.
        narrow: the first that computes from the features in less precision than theirs; "" for none.

    Example:
        >>> Origin(last="_softmax").probabilities
        'softmax'
    """

    last: str = ""
    reason: str = ""
    narrow: str = ""

    @property
    def probabilities(self) -> str:
        """The name of a softmax or sigmoid that gives the tensor, "" where none does."""
        return _in_words(self.last) if self.last in _PROBABILITIES else ""


class Operators(TorchDispatchMode):
    """Watches the operators of a forward pass, in whatever way its code calls them.

    What depends on the features is followed by memory, so that views, in-place operators and reused modules need no
    rule of their own; and what is known is known of each tensor alone: what a network computes besides its logits says
    nothing about them.

    Args:
        features: (B, K, H, W) what the watched function is fed with, or ``None`` to count only.

    Attributes:
        mixing: convolutions and matrix products so far.
        writes: operators so far that write into what they are given.

    Example:
        >>> with Operators(torch.ones(1, 2, 2, 2)) as seen:
        ...     logits = seen.features.flatten(1).relu()
        ...     unused = logits.softmax(1)
        >>> seen.origin(logits), seen.origin(unused).reason
        (Origin(last='relu', reason='', narrow=''), 'softmax is not piecewise linear')
    """

    def __init__(self, features: Tensor | None = None) -> None:
        super().__init__()
        self.mixing = 0
        self.writes = 0
        self.features = features
        self._bits = 0 if features is None else torch.finfo(features.dtype).bits
        self._kept: list[Any] = [] if features is None else [features]  # so that no address is used twice
        self._reached = set() if features is None else {_memory(features)}
        self._origins: dict[int, Origin] = {}
        self._anywhere = ""  # a reason that belongs to no tensor

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operator, and note it."""
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        name = name if name.startswith("__") else name.rstrip("_")
        self.mixing += name in _MIXING
        self.writes += func._schema.is_mutable
        if self.features is None:
            return out
        given = _tensors([args, kwargs])
        reached = [tensor for tensor in given if _memory(tensor) in self._reached]
        # A mask that was found by operators of any kind is no better than they are.
        known = [self._origins[memory] for tensor in given if (memory := _memory(tensor)) in self._origins]
        follows = bool(reached) and name not in _CONSTANT
        if follows or known:
            results = _tensors([out])
            origin = self._follow(name, args, reached if follows else [], known, results)
            self._kept += results
            self._origins.update((_memory(result), origin) for result in results)
            if follows:
                self._reached |= {_memory(result) for result in results if result.is_floating_point()}
                if not results:
                    self._anywhere = self._anywhere or origin.reason
        return out

    def origin(self, result: Tensor) -> Origin:
        """What is known of a tensor of the pass.

        Args:
            result: what the watched function gave.
        """
        known = self._origins.get(_memory(result), Origin())
        return replace(known, reason=known.reason or self._anywhere)

    def _follow(
        self,
        name: str,
        args: tuple[Any, ...],
        reached: Sequence[Tensor],
        known: Sequence[Origin],
        results: Sequence[Tensor],
    ) -> Origin:
        """The origin of an operator's results; it says nothing itself where it is not ``reached``."""
        last, reason, narrow = (
            next((value for one in known if (value := getattr(one, field))), "")
            for field in ("last", "reason", "narrow")
        )
        if not reached:
            return Origin(last, reason, narrow)
        # Of several that are put together the probabilities, if there are some.
        last = next((one.last for one in known if one.probabilities), last) if name in _VIEWS else name
        for result in results:
            if result.is_floating_point() and torch.finfo(result.dtype).bits < self._bits:
                narrow = narrow or f"{_in_words(name)} computes in {str(result.dtype)[6:]}"
        return Origin(last, reason or self._reason(name, args, reached), narrow)

    def _reason(self, name: str, args: tuple[Any, ...], reached: Sequence[Tensor]) -> str:
        if name in ("_local_scalar_dense", "item", "is_nonzero"):
            return "the forward pass reads values of the features and decides by them"
        if name in _VIEWS | _LINEAR | _BENT:
            return ""
        if name in _BATCH_NORMS:
            # The flag's place differs between the kernels; statistics of the batch are the only thing it could mean.
            return "batch_norm uses the statistics of the batch" if any(argument is True for argument in args) else ""
        if name in _PRODUCTS:
            several = len(reached) > 1
            return f"{_in_words(name)} multiplies features with features (a gate, or attention)" if several else ""
        if name == "div":
            divides = any(_memory(divisor) in self._reached for divisor in _tensors(args[1:]))
            return "div divides by features" if divides else ""
        return f"{_in_words(name)} is not piecewise linear"


def watch(head: Head, features: Tensor) -> tuple[Tensor, Origin]:
    """A head's logits, and how they came about from the features by its operators, as they run.

    Convolutions, products with weights, BatchNorm by running statistics, ReLU and its kin, pooling, sums and views are
    piecewise linear; all others are not.

    Args:
        head: (B, K, H, W) to logits (B, C).
        features: (B, K, H, W) real feature maps; two are enough.

    Example:
        >>> maps = torch.arange(8.0).reshape(2, 1, 2, 2) - 3
        >>> watch(lambda x: torch.nn.functional.silu(x).flatten(1), maps)[1].reason
        'silu is not piecewise linear'
    """
    with torch.no_grad(), Operators(features) as seen:
        logits = head(features)
    return logits, seen.origin(logits)


def is_affine(head: Head, features: Tensor) -> bool:
    r"""Whether :math:`G(\frac12(a+b)) = \frac12(G(a)+G(b))` for every two neighbours a, b of a batch.

    Every plane of an affine head is a difference of two of its rows, :math:`w_c - w_j`, wherever it is crossed: an
    interpretation then says no more than the predicted class.

    Args:
        head: (B, K, H, W) to logits (B, C).
        features: (B, K, H, W) real feature maps; the first 8 are used. Where all are equal, their mirror images take
            part.

    Example:
        >>> maps = torch.arange(8.0, dtype=torch.float64).reshape(2, 1, 2, 2) - 3
        >>> is_affine(lambda x: 2 * x.flatten(1) + 1, maps), is_affine(lambda x: x.relu().flatten(1), maps)
        (True, False)
    """
    first = features[:8]
    second = first.roll(1, 0)
    if torch.equal(first, second):
        second = -first.flip((1, 2, 3))
    tolerance = 1e-9 if features.dtype == torch.float64 else 1e-4
    # A few at a time: most heads are not affine, and say so at once.
    for one, other in zip(first.split(_AT_ONCE), second.split(_AT_ONCE), strict=True):
        with torch.no_grad():
            at_one, at_other, between = head(torch.cat([one, other, (one + other) / 2])).chunk(3)
        error = (between - (at_one + at_other) / 2).abs().max()
        rounding = 64 * torch.finfo(features.dtype).eps * torch.maximum(at_one.abs().max(), at_other.abs().max())
        if not bool(error <= tolerance * (at_one - at_other).abs().max() + rounding):
            return False
    return True


def bends(head: Head, features: Tensor, *, seed: int = 0, points: int = 8, step: float = 1e-7) -> str:
    """How a head's gradient shows that it is not piecewise linear; "" where it does not, and in float32.

    At points :math:`10^{-7}` of a segment between feature maps apart it stays the same except where a kink happens to
    lie between, and it is the slope of the values. The points are asked two at a time, until two have the same gradient
    as their neighbours, as no smooth head has, or most have another.

    Args:
        head: (B, K, H, W) to logits (B, C), differentiable.
        features: (B, K, H, W) real feature maps in float64.
        seed: of the points.
        points: how many at most, on segments from one map to the next.
        step: share of a segment from a point to its neighbour. So small that hardly a kink lies between, and so large
            that the gradient of a smooth function changes by far more than rounding.

    Example:
        >>> maps = torch.arange(8.0, dtype=torch.float64).reshape(2, 1, 2, 2) - 3
        >>> bends(lambda x: (x**3).flatten(1), maps)
        'its slope changes between points 1e-07 of a segment apart, 6 of 6 times'
    """
    if features.dtype != torch.float64:
        return ""
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(len(features), (points,), generator=generator)
    share = torch.rand(points, 1, 1, 1, generator=generator, dtype=torch.float64).to(features.device)
    towards = torch.Generator().manual_seed(seed + 1)
    asked = equal = 0
    for part in torch.arange(points).split(_AT_ONCE):
        start = features[index[part]]
        along = features[(index[part] + 1) % len(features)] - start
        if not along.any():
            along = -start.flip((1, 2, 3)) - start
        before = start + share[part.to(share.device)] * along
        same, slope = _same_slope(head, before, before + step * along, towards)
        if not slope:
            return "its gradient is not the slope of its values (a detached tensor, or a backward pass of its own)"
        asked, equal = asked + len(part), equal + same
        if equal >= min(2, points) and 2 * equal >= asked:
            return ""
        if 2 * (asked - equal) > points:
            break
    if 2 * equal >= asked:
        return ""
    return f"its slope changes between points {step:g} of a segment apart, {asked - equal} of {asked} times"


def _same_slope(head: Head, first: Tensor, second: Tensor, generator: torch.Generator) -> tuple[int, bool]:
    """At how many pairs of points the gradient is the same, and whether it is the slope between these."""
    both = torch.cat([first, second]).detach().requires_grad_()
    with torch.enable_grad():
        logits = head(both)
        towards = torch.randn(logits.shape[1], generator=generator, dtype=torch.float64).to(logits)
        value = logits @ towards
        (gradient,) = torch.autograd.grad(value.sum(), both)
    here, there = gradient.flatten(1).chunk(2)
    size = here.norm(dim=1)
    same = (here - there).norm(dim=1) <= 1e-11 * size
    at, beside = value.detach().chunk(2)
    run = (both.detach()[len(first) :] - both.detach()[: len(first)]).flatten(1)
    wrong = (beside - at - (here * run).sum(1)).abs() > 1e-5 * size * run.norm(dim=1) + 1e-13 * at.abs()
    return int(same.sum()), not bool((wrong & same).any())


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _in_words(name: str) -> str:
    return name.removeprefix("_").removeprefix("native_").removesuffix("_forward")
