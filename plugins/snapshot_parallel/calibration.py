"""What a message costs: α seconds of latency and β bytes a second, given by name, by number, or measured here."""

from __future__ import annotations

import math
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
import torch.distributed as dist

_SMALL, _LARGE = 64, 1 << 24  # bytes: where latency is all that counts, and where it no longer does


class LinkError(ValueError):
    """A link that cannot be: an unknown name, or a number that is not above zero."""


@dataclass(frozen=True)
class Link:
    """The α–β model of what joins the ranks: a collective's time is α·⌈log₂ P⌉ + bytes / β.

    P ranks need at least ⌈log₂ P⌉ rounds of messages to hear of one another, so α counts that often; the bytes are
    those that one rank sends to others. Ranks that share a link, and congestion, are outside the model.

    Args:
        name: how the link is called.
        alpha: seconds of latency, above or equal 0.
        beta: bytes a second and direction that one rank can send, above 0.
        source: "assumed": a nominal number that nobody measured here; "given": by the user; "measured": by a ping.

    Raises:
        LinkError: a number out of its range.

    Example:
        >>> link = Link("mine", 1e-5, 1e9)
        >>> round(link.seconds(calls=2, sent=1_000_000, ranks=4), 9)
        0.00104
    """

    name: str
    alpha: float
    beta: float
    source: Literal["assumed", "given", "measured"] = "given"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.alpha) and self.alpha >= 0):
            raise LinkError(f"alpha {self.alpha}: expected seconds of latency, 0 or more")
        if not self.beta > 0:
            raise LinkError(f"beta {self.beta}: expected bytes a second, above 0")

    def seconds(self, *, calls: int, sent: float, ranks: int) -> float:
        """The time of ``calls`` collectives over ``ranks`` ranks that send ``sent`` bytes from each, together."""
        if ranks < 2:
            return 0.0
        return calls * self.alpha * math.ceil(math.log2(ranks)) + sent / self.beta

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return asdict(self)


# Nominal line rates and round latencies of such hardware, none of them measured: a plan made with one says "assumed".
LINKS = {
    link.name: link
    for link in (
        Link("ethernet-10g", 5e-5, 1.25e9, "assumed"),
        Link("ethernet-100g", 3e-5, 12.5e9, "assumed"),
        Link("infiniband-400g", 1e-5, 50e9, "assumed"),
        Link("pcie", 1.5e-5, 25e9, "assumed"),
        Link("nvlink", 1e-5, 400e9, "assumed"),
    )
}


def find_link(name: str, *, alpha: float | None = None, beta: float | None = None) -> Link:
    """A named link, one that is measured now (``"measure"``), or one by its numbers.

    Args:
        name: of :data:`LINKS`, or ``"measure"``: an all-to-all of two processes on this machine.
        alpha: seconds, in place of the named link's.
        beta: bytes a second, likewise.

    Raises:
        LinkError: no such link; the names there are follow.

    Example:
        >>> find_link("nvlink").source, find_link("nvlink", beta=3e11).source
        ('assumed', 'given')
    """
    if name != "measure" and name not in LINKS:
        raise LinkError(f"link {name!r}: expected measure, {', '.join(LINKS)}; or give alpha and beta")
    if alpha is not None and beta is not None:
        return Link("given", alpha, beta)
    link = measure_link() if name == "measure" else LINKS[name]
    if alpha is None and beta is None:
        return link
    changes: dict[str, Any] = {key: value for key, value in (("alpha", alpha), ("beta", beta)) if value is not None}
    return replace(link, name=f"{link.name}, changed", source="given", **changes)


def measure_link(*, repeats: int = 15, timeout: float = 60.0) -> Link:
    """Ping: two processes on this machine exchange a few bytes, then many; NCCL where there are two GPUs, else gloo.

    It measures what two ranks *here* would have, through shared memory or the loopback device; between machines give
    numbers of the network instead.

    Args:
        repeats: exchanges of each size, of which the median counts.
        timeout: seconds until it is given up.

    Raises:
        LinkError: the two processes did not come to an end; what went wrong follows.
    """
    backend = "nccl" if torch.cuda.device_count() > 1 and dist.is_nccl_available() else "gloo"
    context = multiprocessing.get_context("spawn")  # a fork would take CUDA and the threads along
    with tempfile.TemporaryDirectory() as folder:
        receiver, sender = context.Pipe(duplex=False)
        args = (f"file://{Path(folder) / 'meeting'}", backend, repeats, sender)
        processes = [context.Process(target=_ping, args=(rank, *args), daemon=True) for rank in range(2)]
        for process in processes:
            process.start()
        try:
            sender.close()
            if not receiver.poll(timeout):
                raise LinkError(f"the {backend} ping gave no answer in {timeout:.0f} s; give a named link instead")
            answer = receiver.recv()
        except EOFError:
            raise LinkError(f"the {backend} ping died; give a named link instead") from None
        finally:
            for process in processes:
                process.join(5)
                process.kill()
                process.join()
    if isinstance(answer, str):
        raise LinkError(f"the {backend} ping failed: {answer}; give a named link instead")
    alpha, beta = answer
    return Link(f"{backend} on this machine", alpha, beta, "measured")


def _ping(rank: int, meeting: str, backend: str, repeats: int, sender: Connection) -> None:
    try:
        torch.set_num_threads(1)
        dist.init_process_group(backend, init_method=meeting, rank=rank, world_size=2)
        device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
        small, large = (_exchange(size, device, repeats) for size in (_SMALL, _LARGE))
        if rank == 0:
            # Half of what is exchanged stays at home.
            sender.send((small, (_LARGE - _SMALL) / 2 / max(large - small, 1e-9)))
        dist.destroy_process_group()
    except Exception as error:
        if rank == 0:
            sender.send(f"{type(error).__name__}: {error}".splitlines()[0])


def _exchange(size: int, device: torch.device, repeats: int) -> float:
    sent = torch.zeros(size, dtype=torch.uint8, device=device)
    received = torch.empty_like(sent)
    return timed(lambda: dist.all_to_all_single(received, sent), device, repeats=repeats, warmup=3)


def timed(
    work: Callable[[], object], device: torch.device, *, repeats: int, warmup: int = 1, limit: float = math.inf
) -> float:
    """Median seconds of ``work()``, with the device's queue empty before and after.

    Args:
        work: what is timed.
        device: where it runs.
        repeats: how often it is timed.
        warmup: how often it is run before, untimed.
        limit: seconds after which it is not repeated again, once it was timed.

    Example:
        >>> timed(lambda: torch.ones(3).sum(), torch.device("cpu"), repeats=3) > 0
        True
    """
    seconds: list[float] = []
    begin = time.perf_counter()
    for turn in range(warmup + repeats):
        if seconds and time.perf_counter() - begin > limit:
            break
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        if turn >= warmup:
            seconds.append(time.perf_counter() - start)
    return median(seconds)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
