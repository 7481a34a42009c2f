"""A user's network as a function from images to logits, checked and of one form."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

LogitsOf = Callable[[Any], Tensor]
_SAME = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}  # of the largest logit


class Classifier(nn.Module):
    """The user's network, as its only child ``model``, and what takes the logits out of its answer.

    Args:
        model: images to logits, or to anything that ``logits`` understands.
        logits: takes the logits out; ``None``: the answer is the logits.
    """

    def __init__(self, model: nn.Module, logits: LogitsOf | None = None) -> None:
        super().__init__()
        # Wrappers of torch.compile and of data parallelism: the network itself is meant, by its own names.
        self._prefixes: list[str] = []
        while child := _wrapped_as(model):
            self._prefixes.append(f"{child}.")
            model = getattr(model, child)
        self.model = model
        self.logits_of = logits
        self._writes = False  # into the images that it is given

    def forward(self, images: Tensor) -> Any:
        """The network's answer to images (B, …), before any check; of log-probabilities what they were made of."""
        with _LogSoftmax() as normalised:
            answer = self.model(images)
            answer = answer if self.logits_of is None else self.logits_of(answer)
        return normalised.undone(answer)

    def own_name(self, name: str) -> str:
        """A module's path in the network, of one that may begin in the wrappers that were taken off.

        Args:
            name: such as "module._orig_mod.layer4" for "layer4".
        """
        if name not in dict(self.model.named_modules()):
            for prefix in self._prefixes:
                name = name.removeprefix(prefix)
        return name

    def logits(self, images: Tensor) -> Tensor:
        """Logits (B, C) of images that are :meth:`ready`."""
        return as_logits(self(images), len(images))

    def ready(self, images: Tensor) -> Tensor:
        """Images on the network's device and in its type; a copy where the network would write into them."""
        like = next((weight for weight in self.model.parameters() if weight.is_floating_point()), images)
        images = images.to(like.device, like.dtype)
        return images.clone() if self._writes or images.is_inference() else images

    def expected(self, images: Tensor) -> Tensor:
        """Logits of images to verify with, and whether they can be used at all.

        Raises:
            ValueError: they are not finite, differ from call to call, or depend on the other images.
        """
        copy, before = images.clone(), _random_state(images.device)
        logits = self.logits(copy)
        drew = not torch.equal(_random_state(images.device), before)
        self._writes = not torch.equal(copy, images)
        if not bool(logits.isfinite().all()):
            raise ValueError(
                "got logits that are not finite (NaN or infinite); expected finite ones; check the weights"
            )
        alone = agree(self.logits(images[:1].clone()), logits[:1])
        # One image may get the same few logits by chance: where numbers were drawn, all are asked for again.
        if (drew or not alone) and not agree(self.logits(images.clone()), logits):
            raise ValueError(
                "got other logits for the same images each time; expected a network without random numbers in "
                "evaluation mode; look for noise, or for a functional dropout without training=self.training"
            )
        if not alone:
            raise ValueError(
                "got other logits for an image alone than beside others; expected a network that answers image by "
                "image in evaluation mode; look for statistics of the batch"
            )
        return logits


class _LogSoftmax(TorchFunctionMode):
    """Remembers what each log_softmax over classes was given: its results differ from that by one number an image."""

    def __init__(self) -> None:
        super().__init__()
        self._made: list[tuple[Any, Any]] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in _LOG_SOFTMAX:
            given = dict(zip(("input", "dim"), args, strict=False)) | (kwargs or {})
            if given.get("dim") in (1, -1, None):
                self._made.append((out, given.get("input", given.get("self"))))
        return out

    def undone(self, answer: Any) -> Any:
        """The logits that an answer is the logarithmic softmax of; any other answer as it is."""
        if isinstance(answer, fx.Proxy) and (answer.node.op, answer.node.target) == ("call_method", "log_softmax"):
            # Methods of what stands in for tensors pass by here.
            return fx.Proxy(answer.node.all_input_nodes[0], answer.tracer)
        return next((logits for made, logits in self._made if made is answer), answer)


_LOG_SOFTMAX = (nn.functional.log_softmax, torch.log_softmax, torch.special.log_softmax, Tensor.log_softmax)
_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def _random_state(device: torch.device) -> Tensor:
    """Of torch's generators on the CPU and on the device, where that is CUDA's."""
    state = torch.get_rng_state()
    return torch.cat([state, torch.cuda.get_rng_state(device)]) if device.type == "cuda" else state


def _wrapped_as(model: nn.Module) -> str:
    """The name of the network in a wrapper; "" for one that is none."""
    if hasattr(model, "_orig_mod"):
        return "_orig_mod"
    return "module" if isinstance(model, _WRAPPERS) else ""


def as_logits(answer: Any, count: int) -> Tensor:
    """A network's answer as logits (B, C); a single logit z becomes (0, z), whose larger one is the predicted class.

    Args:
        answer: what it gave.
        count: B.

    Raises:
        ValueError: it is not of that form.

    Example:
        >>> as_logits(torch.tensor([[3.0], [-1.0]]), 2)
        tensor([[ 0.,  3.],
                [ 0., -1.]])
    """
    wanted = "expected logits, a float tensor (B, C) or one logit an image"
    if not isinstance(answer, Tensor):
        kind = type(answer).__name__
        inside = f" of {', '.join(map(str, answer))}" if isinstance(answer, dict) else ""
        inside = f" of {len(answer)}" if isinstance(answer, tuple | list) else inside
        raise ValueError(
            f"got a {kind}{inside} from the model; {wanted}; pass logits=lambda out: … to take them out of it"
        )
    if not answer.is_floating_point() or answer.ndim not in (1, 2) or len(answer) != count or not answer.numel():
        got = f"{str(answer.dtype)[6:]} {tuple(answer.shape)}"
        raise ValueError(
            f"got {got} from the model for {count} images; {wanted}; pass logits=lambda out: … to bring it there"
        )
    if answer.ndim == 1:
        answer = answer[:, None]
    return torch.cat([torch.zeros_like(answer), answer], dim=1) if answer.shape[1] == 1 else answer


def check_images(images: Tensor, what: str = "images") -> None:
    """Refuse what is no batch of images.

    Args:
        images: what should be (B, …) floating point.
        what: they are, for the error.

    Raises:
        ValueError: no float tensor of two or more dimensions, an empty one, or one with NaN or infinity.

    Example:
        >>> check_images(torch.zeros(2, 3, 8, 8))
    """
    wanted = "expected a float tensor (B, …) with at least one image"
    if not isinstance(images, Tensor):
        raise ValueError(f"got {what} as {type(images).__name__}; {wanted}; stack them with torch.stack")
    if not images.is_floating_point():
        raise ValueError(f"got {what} of {str(images.dtype)[6:]}; {wanted}; transform them as for training")
    if images.ndim < 2 or not images.numel():
        raise ValueError(f"got {what} of shape {tuple(images.shape)}; {wanted}; add the batch's dimension or images")
    if not bool(images.isfinite().all()):
        bad = (~images.isfinite().flatten(1).all(1)).nonzero().flatten().tolist()
        raise ValueError(f"got NaN or infinity in {what} {bad[:5]}; {wanted}, all finite; leave these out")


def agree(one: Tensor, other: Tensor) -> bool:
    """Whether two computations of the same logits differ by no more than rounding.

    Example:
        >>> agree(torch.tensor([[100.0, 1.0]]), torch.tensor([[100.001, 1.0]]))
        True
    """
    if one.shape != other.shape:
        return False
    tolerance = max(_SAME.get(one.dtype, 1e-4), _SAME.get(other.dtype, 1e-4))
    one, other = (
        one.double() if one.device.type != "mps" else one,
        other.double() if other.device.type != "mps" else other,
    )
    return bool((one - other).abs().max() <= tolerance * other.abs().max() + tolerance * 1e-3)
