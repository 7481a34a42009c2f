"""Who hosts which shard: every peer works it out alone from what it has heard, and they come to agree."""

from __future__ import annotations

from collections.abc import Collection, Mapping


def assign(
    peers: Collection[int],
    hosts: Mapping[int, int],
    num_shards: int,
    *,
    wanted: Mapping[int, Collection[int]] | None = None,
) -> dict[int, int]:
    """Balanced hosts for all shards, moving as few of them as possible.

    A pure function: peers that have heard the same decide the same. Where they have not, two may host one shard for a
    while; the higher incarnation wins, and the answer of the iteration is the same either way.

    Peers that name shards of their own (``wanted``) get those and nothing else. The others share what nobody named:
    each gets ``m // k`` or one more, keeps what it has up to that, and those that have most keep the extra one.

    Args:
        peers: numbers of the live peers.
        hosts: shard -> the live or dead peer that hosts it now; no entry for an orphan.
        num_shards: shards are 0 … num_shards − 1.
        wanted: peer -> the shards that it is there for; no entry: its share of the rest.

    Returns:
        shard -> peer; no entry where no live peer may host the shard.

    Example:
        >>> assign([7, 9], {0: 7, 1: 7, 2: 7}, 4)
        {0: 7, 1: 7, 2: 9, 3: 9}
    """
    wanted = wanted or {}
    sharers = sorted(set(peers) - wanted.keys())
    load = dict.fromkeys(sorted(peers), 0)
    given: dict[int, int] = {}
    shared = []
    for shard in range(num_shards):
        claimants = [peer for peer in load if shard in wanted.get(peer, ())]
        if not claimants:
            shared.append(shard)
            continue
        host = hosts.get(shard)
        given[shard] = host if host in claimants else min(claimants, key=lambda peer: (load[peer], peer))
        load[given[shard]] += 1
    if sharers:
        given.update(_share(sharers, hosts, shared))
    return dict(sorted(given.items()))


def _share(sharers: list[int], hosts: Mapping[int, int], shards: list[int]) -> dict[int, int]:
    held: dict[int, list[int]] = {peer: [] for peer in sharers}
    for shard in shards:
        if (host := hosts.get(shard)) in held:
            held[host].append(shard)
    each, extra = divmod(len(shards), len(sharers))
    # Whoever holds most keeps the extra shards: any other choice would move more.
    richest = sorted(sharers, key=lambda peer: (-len(held[peer]), peer))
    quota = {peer: each + (rank < extra) for rank, peer in enumerate(richest)}
    given = {shard: peer for peer in sharers for shard in held[peer][: quota[peer]]}
    homeless = (shard for shard in shards if shard not in given)
    for peer in sharers:
        for _ in range(quota[peer] - min(len(held[peer]), quota[peer])):
            given[next(homeless)] = peer
    return given
