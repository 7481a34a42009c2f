"""What peers pass on about each other, as text in their bulletins' notes; what does not parse says nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import NamedTuple

from fulgurite.plugins.dynamic_async.engine.messages import Incarnation

# Frames hold 64 bits; who adopts after the greatest life that is believed has room for as many again.
MAX_LIFE = 1 << 62
MOST_HOPS = 255
_MAX_PEER = (1 << 64) - 1


class Report(NamedTuple):
    """What one peer knows of another.

    Args:
        sequence: the greatest of its bulletins that anybody is known to have heard.
        hops: peers between the two: 0 for who is heard directly.
        wanted: the shards that it is there for; None: its share of all.
    """

    sequence: int
    hops: int
    wanted: frozenset[int] | None


def write_lives(lives: Mapping[int, Incarnation]) -> str:
    """Lives as text, those with the same number and host together.

    Example:
        >>> write_lives({0: Incarnation(1, 255), 1: Incarnation(1, 255), 2: Incarnation(4, 16)})
        '1.ff:0-1;4.10:2'
    """
    ordered = sorted(lives, key=lambda shard: (lives[shard], shard))
    groups = ((life, write_shards(shards)) for life, shards in groupby(ordered, key=lives.__getitem__))
    return ";".join(f"{life.number}.{life.host:x}:{shards}" for life, shards in groups)


def read_lives(text: object) -> dict[int, Incarnation]:
    """What :func:`write_lives` wrote; nothing of anything else, such as lives past 2⁶².

    Example:
        >>> read_lives("1.ff:0-1")
        {0: Incarnation(number=1, host=255), 1: Incarnation(number=1, host=255)}
        >>> read_lives("1.ff:0-1;what?")
        {}
    """
    lives = {}
    try:
        for group in filter(None, str(text).split(";")):
            life, shards = group.split(":")
            number, host = life.split(".")
            believed = Incarnation(_natural(number, MAX_LIFE), _peer(host))
            lives.update(dict.fromkeys(read_shards(shards), believed))
    except ValueError:
        return {}
    return lives


def write_reports(reports: Mapping[int, Report]) -> str:
    """Reports as text.

    Example:
        >>> write_reports({255: Report(12, 0, None), 16: Report(3, 1, frozenset({0, 1}))})
        'ff.0:12;10.1:3=0-1'
    """
    return ";".join(
        f"{peer:x}.{min(report.hops, MOST_HOPS)}:{report.sequence}"
        + ("" if report.wanted is None else f"={write_shards(report.wanted)}")
        for peer, report in reports.items()
    )


def read_reports(text: object) -> dict[int, Report]:
    """What :func:`write_reports` wrote; nothing of anything else.

    Example:
        >>> read_reports("10.1:3=0-1")
        {16: Report(sequence=3, hops=1, wanted=frozenset({0, 1}))}
    """
    reports = {}
    try:
        for group in filter(None, str(text).split(";")):
            who, said = group.split(":")
            peer, hops = who.split(".")
            sequence, equals, shards = said.partition("=")
            reports[_peer(peer)] = Report(
                _natural(sequence, _MAX_PEER),
                _natural(hops, MOST_HOPS),
                frozenset(read_shards(shards)) if equals else None,
            )
    except ValueError:
        return {}
    return reports


def write_pairs(pairs: Mapping[int, int]) -> str:
    """Peers with a number each, as text.

    Example:
        >>> write_pairs({255: 16, 7: 9})
        'ff.10;7.9'
    """
    return ";".join(f"{peer:x}.{number:x}" for peer, number in pairs.items())


def read_pairs(text: object) -> dict[int, int]:
    """What :func:`write_pairs` wrote; nothing of anything else.

    Example:
        >>> read_pairs("ff.10;7.9"), read_pairs("ff")
        ({255: 16, 7: 9}, {})
    """
    try:
        pairs = (pair.split(".") for pair in filter(None, str(text).split(";")))
        return {_peer(peer): _peer(number) for peer, number in pairs}
    except ValueError:
        return {}


def write_ages(ages: Mapping[str, float]) -> str:
    """Addresses, each with the seconds since anybody was heard there.

    Example:
        >>> write_ages({"memory://1": 2.5})
        '3 memory://1'
    """
    return " ".join(f"{int(-(-age // 1))} {address}" for address, age in ages.items())


def read_ages(text: object) -> dict[str, float]:
    """What :func:`write_ages` wrote; nothing of anything else.

    Example:
        >>> read_ages("3 memory://1"), read_ages("memory://1")
        ({'memory://1': 3.0}, {})
    """
    words = str(text).split(" ") if text else []
    try:
        return {address: float(_natural(age, 1 << 40)) for age, address in zip(words[::2], words[1::2], strict=True)}
    except ValueError:
        return {}


def write_shards(shards: Iterable[int]) -> str:
    """Numbers as text, runs of them by their ends.

    Example:
        >>> write_shards([4, 0, 1, 2])
        '0-2,4'
    """
    runs: list[list[int]] = []
    for shard in sorted(shards):
        if runs and shard == runs[-1][1] + 1:
            runs[-1][1] = shard
        else:
            runs.append([shard, shard])
    return ",".join(f"{first}-{last}" if first < last else f"{first}" for first, last in runs)


def read_shards(text: str) -> list[int]:
    """What :func:`write_shards` wrote.

    Raises:
        ValueError: it is something else, or a run too long to be one of shards.

    Example:
        >>> read_shards("0-2,4")
        [0, 1, 2, 4]
    """
    shards: list[int] = []
    for run in filter(None, text.split(",")):
        first, _, last = run.partition("-")
        if int(last or first) - int(first) > 1 << 20:
            raise ValueError(f"a run of shards from {first} to {last}")
        shards += range(int(first), int(last or first) + 1)
    return shards


def _natural(text: str, most: int) -> int:
    number = int(text)
    if not 0 <= number <= most:
        raise ValueError(f"{number} is not from 0 to {most}")
    return number


def _peer(text: str) -> int:
    number = int(text, 16)
    if not 0 <= number <= _MAX_PEER:
        raise ValueError(f"{number} is no peer")
    return number
