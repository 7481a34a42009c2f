"""Many small launches replayed as one CUDA graph."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Launches = Callable[[dict[str, Tensor]], None]
# The shapes of one structure that are kept; each holds tensors as large as a call's.
LIMIT = 8


@dataclass
class Captured:
    """Launches over tensors of their own, or a shape that has been seen once and is not worth them yet.

    Args:
        static: the tensors that the graph reads and writes.
        replay: run the launches on them.
        lock: one call at a time fills, replays and reads them.
    """

    static: dict[str, Tensor] = field(default_factory=dict)
    replay: Callable[[], None] | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


def launch(
    graphs: OrderedDict[Any, Any],
    key: tuple[Hashable, ...],
    launches: Launches,
    tensors: dict[str, Tensor],
    result: str,
    *,
    capture: Callable[[Callable[[], None]], Callable[[], None]] | None = None,
) -> None:
    """Run launches that write one tensor in place: as they are at first, from a shape's second call on as a graph.

    A graph works on tensors of its own, into which a call's are copied before and the result after it. Weights may
    therefore change, move or be replaced, and what autograd has saved is never written over. A graph belongs to one
    stream, on which its calls follow one another. While something else is captured, launches go there as they are.

    Args:
        graphs: what is remembered of the structure.
        key: tells calls apart that need other launches: direction, shapes, dtypes, options.
        launches: starts the kernels on tensors of these names.
        tensors: a call's; none may overlap another.
        result: name of the one that is written.
        capture: makes a graph of launches and returns its replay; None: CUDA's. Tests put another in its place.

    Example:
        >>> from collections import OrderedDict
        >>> import torch
        >>> def double(tensors):
        ...     tensors["x"].mul_(2)
        >>> x, graphs = torch.ones(2), OrderedDict()
        >>> for _ in range(3):
        ...     launch(graphs, ("double",), double, {"x": x}, "x", capture=lambda run: run)
        >>> x
        tensor([8., 8.])
    """
    if capture is None:
        device = tensors[result].device
        if device.type != "cuda" or torch.cuda.is_current_stream_capturing() or torch.compiler.is_compiling():
            launches(tensors)
            return
        key = (*key, device, torch.cuda.current_stream(device).cuda_stream)
        capture = capture_cuda
    with _lock:
        entry = graphs.get(key)
        first = entry is None
        if entry is None:
            entry = graphs[key] = Captured()
        graphs.move_to_end(key)
        while len(graphs) > LIMIT:
            graphs.popitem(last=False)
    if first:
        launches(tensors)
        return
    with entry.lock:
        if entry.replay is None:
            # Tensors made in inference mode could not be written by a later call outside of it.
            with torch.inference_mode(False):
                static = {name: tensor.detach().clone() for name, tensor in tensors.items()}
            entry.replay = capture(lambda: launches(static))
            entry.static = static
        for name, tensor in tensors.items():
            entry.static[name].copy_(tensor)
        entry.replay()
        tensors[result].copy_(entry.static[result])


def capture_cuda(run: Callable[[], None]) -> Callable[[], None]:
    """Capture launches on the current device; they are run once before, so that all kernels are compiled and loaded."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    # Other threads may allocate while this one captures.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        run()
    return graph.replay


_lock = threading.Lock()
