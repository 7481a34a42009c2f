"""What every transport does, as scenarios that are told how to open one; each raises if it is not so."""

import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from fulgurite.plugins.dynamic_async.engine.transport import Transport

PATIENCE_S = 60.0
MEGABYTE = 1 << 20
Open = Callable[..., Transport]


def until(condition: Callable[[], bool], *, doing: Callable[[], object], what: str) -> None:
    """Repeat until it is so; frames may be lost, so what is waited for is said again and again."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        doing()


def talk(*peers: Transport) -> dict[str, set[bytes]]:
    """Let each say its address once, listen a little, and give who heard whom."""
    for peer in peers:
        peer.publish(peer.address.encode())
    for peer in peers:
        peer.wait(0.02)
    return {peer.address: set(peer.collect()) for peer in peers}


def all_hear(peers: Iterable[Transport]) -> None:
    """Wait until each peer hears every other."""
    peers = list(peers)
    everybody = {peer.address.encode() for peer in peers}
    heard: dict[str, set[bytes]] = {peer.address: {peer.address.encode()} for peer in peers}

    def round_of_talk() -> None:
        for address, frames in talk(*peers).items():
            heard[address] |= frames

    until(
        lambda: all(frames >= everybody for frames in heard.values()),
        doing=round_of_talk,
        what=f"everybody hears everybody: {heard}",
    )


def quiet(peer: Transport) -> None:
    """Listen until nothing more is under way."""
    while peer.wait(0.3):
        peer.collect()


def one_connects_and_both_hear(opened: Open) -> None:
    first, second = opened(), opened()
    assert first.collect() == []
    second.connect(first.address)
    all_hear([first, second])


def the_newest_replaces_what_was_not_collected(opened: Open) -> None:
    first, second = opened(), opened()
    second.connect(first.address)
    all_hear([first, second])
    quiet(second)
    for number in range(100):
        first.publish(b"%d" % number)
        time.sleep(0.002)  # so that each leaves the sender, and it is the receiver that has to let go of it
    time.sleep(0.1)
    got: list[bytes] = []

    def listen() -> None:
        second.wait(0.05)
        frames = second.collect()
        assert len(frames) <= 1
        got.extend(frames)

    until(lambda: got[-1:] == [b"99"], doing=listen, what="the last of 100 frames")
    assert len(got) <= 25
    assert [int(frame) for frame in got] == sorted({int(frame) for frame in got})
    assert second.collect() == []
    assert not second.wait(0.0)


def two_speakers_do_not_replace_each_other(opened: Open) -> None:
    listener, *speakers = (opened() for _ in range(3))
    for speaker in speakers:
        listener.connect(speaker.address)
    all_hear([listener, *speakers[:1]])
    all_hear([listener, *speakers[1:]])
    both = {speaker.address.encode() for speaker in speakers}
    found: list[bool] = []

    def listen() -> None:
        for speaker in speakers:
            speaker.publish(speaker.address.encode())
        time.sleep(0.05)
        found.append(both <= set(listener.collect()))

    until(lambda: any(found), doing=listen, what="both in one collection")


def a_late_joiner_hears_what_is_said_next(opened: Open) -> None:
    first, second = opened(), opened()
    second.connect(first.address)
    all_hear([first, second])
    third = opened()
    third.connect(first.address)
    third.connect(second.address)
    all_hear([first, second, third])


def a_peer_that_dies_takes_nobody_along(opened: Open) -> None:
    first, second, third = opened(), opened(), opened()
    for peer in (second, third):
        peer.connect(first.address)
    third.connect(second.address)
    all_hear([first, second, third])
    first.close()
    for peer in (second, third):
        peer.publish(b"still here")
        peer.wait(0.0)
        peer.collect()
        peer.connect(first.address)
    all_hear([second, third])


def a_restarted_peer_is_heard_and_hears_again(opened: Open) -> None:
    first, second = opened(), opened()
    second.connect(first.address)
    all_hear([first, second])
    address = first.address
    first.close()
    second.publish(b"to nobody")
    again = opened(address)
    assert again.address == address
    all_hear([again, second])


def who_is_disconnected_is_not_heard(opened: Open) -> None:
    first, second = opened(shy=True), opened(shy=True)
    second.connect(first.address)
    all_hear([first, second])
    unheard: list[bool] = []

    def only_one_direction() -> None:
        # In every round anew: a greeting from before may have been under way, and connects again.
        second.disconnect(first.address)
        second.disconnect(first.address)
        quiet(second)
        second.collect()
        got: list[bytes] = []

        # The other direction still works, and shows that there was time enough.
        def both_speak() -> None:
            first.publish(b"unheard")
            second.publish(b"heard")
            first.wait(0.05)
            got.extend(first.collect())

        until(lambda: b"heard" in got, doing=both_speak, what="the direction that is left")
        unheard.append(second.collect() == [])

    until(lambda: any(unheard), doing=only_one_direction, what="silence after a disconnection")
    second.connect(first.address)
    all_hear([first, second])


def what_is_no_address_is_passed_over(opened: Open) -> None:
    first, second = opened(), opened()
    for address in (
        "",
        "garbage",
        "tcp://*:1",
        "tcp://127.0.0.1:0",
        "tcp://a;tcp://b:1",
        "ipc://",
        "inproc://x",
        "é" * 500,
    ):
        first.connect(address)
        first.disconnect(address)
    first.connect(first.address)
    first.connect(second.address)
    first.connect(second.address)
    all_hear([first, second])
    assert first.address.encode() not in talk(first, second)[first.address]


def waiting_ends_with_a_frame_with_the_time_and_by_a_wake(opened: Open) -> None:
    first, second = opened(), opened()
    second.connect(first.address)
    all_hear([first, second])
    quiet(second)
    assert not second.wait(0.01)
    heard: list[bool] = []
    until(
        lambda: bool(heard) and heard[-1],
        doing=lambda: (first.publish(b"x"), heard.append(second.wait(1.0))),
        what="a wait that ends with a frame",
    )
    assert second.wait(0.0), "a frame that was not collected is still there"
    second.collect()
    quiet(second)
    second.wake()
    began = time.monotonic()
    second.wait(PATIENCE_S)
    waker = threading.Timer(0.05, second.wake)
    waker.start()
    second.wait(PATIENCE_S)
    waker.join()
    assert time.monotonic() - began < PATIENCE_S, "a wake does not end the wait"


def a_slow_reader_gets_the_newest_and_costs_no_memory(opened: Open, frames: int = 200) -> None:
    first, second = opened(), opened()
    second.connect(first.address)
    all_hear([first, second])
    quiet(second)
    before = resident_bytes()
    most = before
    for number in range(frames):
        first.publish(number.to_bytes(4, "little") * (MEGABYTE // 4))
        most = max(most, resident_bytes())
    got: list[bytes] = []

    def listen() -> None:
        second.wait(0.5)
        got.extend(second.collect())

    newest = (frames - 1).to_bytes(4, "little") * (MEGABYTE // 4)
    until(lambda: got[-1:] == [newest], doing=listen, what="the last of the large frames")
    # Most were never seen; a queue would have given them all.
    assert len(got) <= frames // 4
    assert most - before < frames * MEGABYTE // 4


def a_closed_transport_is_silent(opened: Open) -> None:
    first, second = opened(), opened()
    second.connect(first.address)
    second.close()
    second.close()
    second.wake()
    second.publish(b"x")
    second.connect(first.address)
    second.disconnect(first.address)
    assert not second.wait(0.0)
    assert second.collect() == []


def resident_bytes() -> int:
    """Of this process's own; what Ray shares with its object store is not."""
    _, resident, shared, *_ = Path("/proc/self/statm").read_text().split()
    return (int(resident) - int(shared)) * 4096


SCENARIOS: tuple[Callable[[Open], None], ...] = (
    one_connects_and_both_hear,
    the_newest_replaces_what_was_not_collected,
    two_speakers_do_not_replace_each_other,
    a_late_joiner_hears_what_is_said_next,
    a_peer_that_dies_takes_nobody_along,
    a_restarted_peer_is_heard_and_hears_again,
    who_is_disconnected_is_not_heard,
    what_is_no_address_is_passed_over,
    waiting_ends_with_a_frame_with_the_time_and_by_a_wake,
    a_slow_reader_gets_the_newest_and_costs_no_memory,
    a_closed_transport_is_silent,
)
