"""Cutting a classifier F into a feature map ψ and a head G, so that F(x) = G(ψ(x)), whatever it is made of."""

import difflib
import hashlib
import itertools
import math
from collections import Counter
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from fulgurite.callbacks.representative_interpretation.classifier import (
    Classifier,
    LogitsOf,
    agree,
    as_logits,
    check_images,
)
from fulgurite.callbacks.representative_interpretation.linearity import (
    Origin,
    bends,
    is_affine,
    watch,
)
from fulgurite.callbacks.representative_interpretation.parts import (
    Parts,
    ReplayedParts,
    TracedParts,
    replayed_parts,
)
from fulgurite.callbacks.representative_interpretation.replayed_cut import outputs
from fulgurite.callbacks.representative_interpretation.traced_cut import Trace, trace
from fulgurite.callbacks.representative_interpretation.untouched import untouched

_VERIFIED = 8  # images that a cut is verified on at most
_STRETCHED = 4  # how far maps' proportions may be from the images', by anisotropic strides and padding


class CutError(ValueError):
    """A network cannot be cut there; the message says why, and where it can."""


class Split:
    r"""A classifier in two parts, :math:`F = G ∘ ψ`; made by :func:`split`.

    After P. C.-H. Lam et al., "Finding Representative Interpretations on Convolutional Neural Networks", ICCV 2021,
    `arXiv:2108.06384 <https://arxiv.org/abs/2108.06384>`__, whose cut is the last convolutional layer.

    It belongs to the weights as they were when it was made; after more training, make another. The network is never
    changed: in-place operations act on copies, and other precisions on copies of the weights, made once.

    Attributes:
        name: of the cut.
        shape: (K, H, W) of its feature maps.
        num_classes: C; a single logit z counts as two, (0, z).
        method: ``fx``, each part runs alone; ``replay``, the head runs the whole network and takes over at the cut.
        piecewise_linear: the head is.
        reason: why it is not; "" where it is.
        affine: the head is affine on real features: every boundary is a difference of two of its rows.
        dtype: float64, or float32 where the head or the device cannot.
        reason_float32: why it cannot; "" where it can.
    """

    def __init__(self, parts: Parts, name: str, features: Tensor, expected: Tensor) -> None:
        self._parts = parts
        self.name = name
        self.shape = (features.shape[1], features.shape[2], features.shape[3])
        self.num_classes = expected.shape[1]
        self.method: Literal["fx", "replay"] = parts.method
        answer, origin, self.reason_float32 = _watched(parts, features)
        if origin.probabilities:
            raise ValueError(
                f"got a model that ends in {origin.probabilities}; expected logits, of which the method compares two; "
                "have it return the value before that, or pass logits=lambda out: … to take logits out of its answer"
            )
        self.dtype = torch.float32 if self.reason_float32 else torch.float64
        exact = features.to(self.dtype)
        if not agree(answer, expected[: len(answer)]):
            raise CutError(f"cut {name!r}: its head in {str(self.dtype)[6:]} gives other logits; choose another cut")
        _refuse_without_gradient(parts, exact, name)
        self.reason = origin.reason or bends(parts.head, exact)
        self.affine = is_affine(parts.head, exact)

    @property
    def model(self) -> nn.Module:
        """The network that is cut."""
        return self._parts.root.model

    @property
    def logits_of(self) -> LogitsOf | None:
        """What takes the logits out of the network's answer."""
        return self._parts.root.logits_of

    @property
    def piecewise_linear(self) -> bool:
        """Whether the head is piecewise linear."""
        return not self.reason

    def features(self, images: Tensor) -> Tensor:
        """Feature maps ψ of images.

        Args:
            images: (B, …).

        Returns:
            (B, K, H, W) in the network's type, without history, memory of their own.
        """
        with untouched(self.model), torch.no_grad():
            return self._parts.features(self._parts.root.ready(images)).detach()

    def head(self, features: Tensor) -> Tensor:
        """Logits G of feature maps, differentiable towards them.

        Args:
            features: (B, K, H, W) of any float type; they run through the weights in that type, and stay as they are.

        Returns:
            (B, C) in the type of the features.
        """
        grad = torch.is_grad_enabled()
        with untouched(self.model), torch.set_grad_enabled(grad):
            return self._parts.head(features).to(features.dtype)

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Feature maps (B, K, H, W) and logits (B, C) of images from one pass."""
        with untouched(self.model), torch.no_grad():
            return self._parts.predict(self._parts.root.ready(images))

    def logits(self, images: Tensor) -> Tensor:
        """Logits F (B, C) of images."""
        with untouched(self.model), torch.no_grad():
            return self._parts.root.logits(self._parts.root.ready(images))

    def fingerprint(self) -> str:
        """SHA-256 of the network's weights and buffers, as they are now, and the cut's name."""
        found = hashlib.sha256(self.name.encode())
        tensors = dict([*self.model.named_parameters(), *self.model.named_buffers()])
        for name, tensor in sorted(tensors.items()):
            found.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return found.hexdigest()

    def __repr__(self) -> str:
        kind = "affine" if self.affine else "piecewise linear" if self.piecewise_linear else f"smooth: {self.reason}"
        size = "×".join(map(str, self.shape))
        return f"Split({self.name!r}, {size} → {self.num_classes} classes, {self.method}, {kind})"


def split(model: nn.Module, name: str, images: Tensor, *, logits: LogitsOf | None = None) -> Split:
    r"""Cut a classifier at a module's output and verify the two parts on images.

    The parts come from the network's graph (``torch.fx``) where it can be traced, and from capture and replay where it
    cannot. Verified: :math:`G(ψ(x)) = F(x)`, and the logits of the same maps α are the same whichever image carries
    them. Of a network that ends in log_softmax the logits are the value before it: between classes they differ alike,
    and they are piecewise linear where the network is.

    Args:
        model: images to logits; any module, a LightningModule too.
        name: a name of :func:`candidates`, another module's path ("layer4.1" is the block's output; "relu_1" the second
            run of a module that is used again), or an operation as torchvision's feature extraction names it.
        images: (B, …) float, some real ones.
        logits: takes the logits out of what the model returns, where that is no tensor.

    Raises:
        CutError: there is no such cut, or it is none: something goes around it, it has no image shape, its module runs
            more than once.
        ValueError: images or logits that cannot be used; a network that ends in softmax; one whose answer for an image
            depends on the others in the batch.

    Example:
        >>> draw = torch.Generator().manual_seed(0)
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3))
        >>> images = torch.randn(5, 1, 8, 8, generator=draw)
        >>> cut = split(net, "2", images)
        >>> cut
        Split('2', 4×3×3 → 3 classes, fx, affine)
        >>> maps, answers = cut.predict(images)
        >>> torch.allclose(cut.head(maps.double()).float(), answers, atol=1e-5)
        True
    """
    return Splitter(model, images, logits=logits).split(name)


def candidates(model: nn.Module, images: Tensor, *, logits: LogitsOf | None = None) -> tuple[str, ...]:
    """Where a classifier can be cut, first to last.

    At an image-shaped value (B, K, H, W), H·W > 1, through which everything from the images to the logits passes; of
    those with no convolution or other product with weights between them the last, so that each stands behind its
    normalisation, activation and pooling.

    Args:
        model: images to logits.
        images: (B, …) float, some real ones.
        logits: takes the logits out of what the model returns, where that is no tensor.

    Raises:
        ValueError: images or logits that cannot be used.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.ReLU(), nn.MaxPool2d(2),
        ...     nn.Flatten(), nn.Linear(32, 3))
        >>> candidates(net, torch.zeros(1, 1, 8, 8))
        ('1', '4')
    """
    check_images(images)
    return Splitter(model, images[:2], logits=logits).candidates()


class Splitter:
    """A classifier that is traced and verified once, to be cut at several places.

    As a :class:`Split` it belongs to the network as it was when it was made.

    Args:
        model: images to logits.
        images: (B, …) float, some real ones; eight at most are used.
        logits: takes the logits out of what the model returns, where that is no tensor.

    Raises:
        ValueError: images or logits that cannot be used.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
        >>> splitter = Splitter(net, torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
        >>> [splitter.split(name).shape for name in splitter.candidates()]
        [(4, 6, 6)]
    """

    def __init__(self, model: nn.Module, images: Tensor, *, logits: LogitsOf | None = None) -> None:
        check_images(images)
        self._root = Classifier(model, logits)
        with untouched(self.model), torch.no_grad():
            self._images = self._root.ready(images)[:_VERIFIED]
            self._expected = self._root.expected(self._images)
            self._traced = _traced(self._root, self._images, self._expected)
        self._names: tuple[str, ...] | None = None

    @property
    def model(self) -> nn.Module:
        """The network itself, without a wrapper."""
        return self._root.model

    def candidates(self) -> tuple[str, ...]:
        """What :func:`candidates` finds."""
        if self._names is None:
            with untouched(self.model), torch.no_grad():
                self._names = _cuts(self._root, self._traced, self._images[:2], self._expected[:2])
        return self._names

    def split(self, name: str) -> Split:
        """What :func:`split` makes.

        Args:
            name: of the cut.

        Raises:
            CutError: there is no such cut, or it is none.
            ValueError: a network that ends in softmax.
        """
        name = self._root.own_name(name)
        with untouched(self.model), torch.no_grad():
            parts = self._parts(name)
            features, found = parts.predict(self._images.clone())
            if not agree(found, self._expected):
                raise CutError(f"cut {name!r}: its two parts give other logits than the network; choose another cut")
            return Split(parts, name, features, self._expected)

    def _parts(self, name: str) -> Parts:
        why, traced = "", self._traced
        if isinstance(traced, Trace):
            place = traced.places.get(traced.aliases.get(name, name))
            if name in traced.runs:
                runs = traced.runs[name]
                why = f"its module runs {len(runs)} times; name the run: {', '.join(map(repr, runs))}"
            elif place is not None and place.crossing:
                around = ", ".join(map(repr, place.crossing[:3]))
                why = f"a skip connection crosses it: behind it, what comes from {around} is used as well"
            elif place is not None and (place.shape is None or len(place.shape) != 4):
                got = "no tensor" if place.shape is None else f"(B, {', '.join(map(str, place.shape[1:]))})"
                why = f"its output is {got}; expected feature maps (B, K, H, W)"
            elif place is not None:
                return TracedParts(self._root, traced, place)
        modules = {path for path, _ in self.model.named_modules() if path}
        if not why and name in modules:
            parts = replayed_parts(self._root, name, self._images, self._expected)
            if isinstance(parts, ReplayedParts):
                return parts
            why = parts
        cuts = self.candidates()
        exist = f"cuts that exist: {', '.join(cuts) or 'none'}"
        if why:
            raise CutError(f"{name!r} is no cut: {why}; {exist}")
        known = modules | set(traced.places if isinstance(traced, Trace) else ())
        near = difflib.get_close_matches(name, cuts, 1, 0.5) or difflib.get_close_matches(name, sorted(known), 1, 0.5)
        raise CutError(f"there is no cut {name!r}{f'; did you mean {near[0]!r}?' if near else ''}; {exist}")


def _watched(parts: Parts, features: Tensor) -> tuple[Tensor, Origin, str]:
    """Logits of two maps and where they come from, in float64 where the head runs in that, and why it does not."""
    reason = "the device has no float64" if features.device.type == "mps" else ""
    if not reason:
        try:
            answer, origin = watch(parts.head, features[:2].double())
            reason = origin.narrow
        except Exception as error:  # whatever the user's code does with numbers of a type that it did not expect
            reason = f"the head does not run in float64 ({type(error).__name__}: {(str(error) or '-').splitlines()[0]})"
    if reason:
        answer, origin = watch(parts.head, features[:2].float())
    return answer, origin, reason


def _refuse_without_gradient(parts: Parts, features: Tensor, name: str) -> None:
    with torch.enable_grad():
        start = features[:1].clone().requires_grad_()
        answer = parts.head(start)
        if answer.requires_grad:
            return
    raise CutError(f"{name!r} is no cut: no gradient comes back to it (torch.no_grad or a detached tensor behind it)")


@dataclass(frozen=True)
class _Choice:
    """A value that may be a cut."""

    name: str
    shape: tuple[int, ...]
    mixing: int
    sure: bool  # the graph says that everything passes there


def _traced(root: Classifier, images: Tensor, expected: Tensor) -> Trace | str:
    traced = trace(root, images)
    # Two are enough to see another function; each cut is verified on all.
    images, expected = images[:2], expected[:2]
    if isinstance(traced, Trace) and not agree(as_logits(traced.whole()(images.clone()), len(images)), expected):
        return "its trace gives other logits than the network"
    return traced


def _cuts(root: Classifier, traced: Trace | str, images: Tensor, expected: Tensor) -> tuple[str, ...]:
    if isinstance(traced, str):
        choices = _ran(root, images)
    else:
        inside = _ran(root, images) if traced.opaque else []
        choices = []
        for place in traced.places.values():
            path = traced.opaque.get(place.name)
            choices += [choice for choice in inside if path is not None and choice.name.startswith(f"{path}.")]
            if place.shape is not None and not place.crossing:
                choices.append(_Choice(place.name, place.shape, place.mixing, sure=True))
    found = []
    for group in _groups(choices, images):
        for choice in reversed(_largest_last(group)):
            if choice.sure or isinstance(replayed_parts(root, choice.name, images, expected), ReplayedParts):
                found.append(choice.name)
                break
    return tuple(found)


def _ran(root: Classifier, images: Tensor) -> list[_Choice]:
    """Modules that run once, as they end; of a plain container and its last child the child, whose name says more."""
    ran = outputs(root, images)
    often = Counter(output.name for output in ran)
    found: list[_Choice] = []
    for output in ran:
        if often[output.name] == 1 and output.shape is not None and not output.idle:
            container = type(root.model.get_submodule(output.name)) is nn.Sequential
            if not (container and found and found[-1].name.startswith(f"{output.name}.")):
                found.append(_Choice(output.name, output.shape, output.mixing, sure=False))
    return found


def _groups(choices: list[_Choice], images: Tensor) -> list[list[_Choice]]:
    """Image-shaped values behind a first convolution, those with none between them together."""
    wanted = [choice for choice in choices if choice.mixing and _is_image(choice.shape, images)]
    return [list(group) for _, group in itertools.groupby(wanted, key=lambda choice: choice.mixing)]


def _largest_last(group: list[_Choice]) -> list[_Choice]:
    """Without what enlarges the maps again: a pool to a fixed size may repeat values."""
    kept: list[_Choice] = []
    for choice in group:
        if not kept or math.prod(choice.shape[2:]) <= math.prod(kept[-1].shape[2:]):
            kept.append(choice)
    return kept


def _is_image(shape: tuple[int, ...], images: Tensor) -> bool:
    if len(shape) != 4 or shape[2] * shape[3] <= 1:
        return False
    if images.ndim != 4:
        return True
    # Maps with their channels last, (B, H, W, K), have a width that is none.
    stretch = (shape[2] / shape[3]) / (images.shape[2] / images.shape[3])
    return 1 / _STRETCHED <= stretch <= _STRETCHED
