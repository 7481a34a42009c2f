"""Runs the scenarios of transports.py on a Ray cluster of its own, in a process that takes Ray's leftovers with it.

Usage: ray_scenarios.py FOLDER, where FOLDER is an empty one with a short name, for Ray's sockets.
"""

import importlib.util
import sys
import time
from pathlib import Path

import pytest
import ray

from fulgurite.plugins.dynamic_async.engine.frames import Codec
from fulgurite.plugins.dynamic_async.engine.ray_transport import RayTransport
from fulgurite.plugins.dynamic_async.engine.transport import TransportError

CODEC = Codec(b"k" * 32, b"n" * 16, b"m" * 16)


def load_scenarios():
    spec = importlib.util.spec_from_file_location("transports", Path(__file__).with_name("transports.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def a_mailbox_that_ray_starts_again_is_heard_again(opened, scenarios) -> None:
    first, second = opened(), opened()
    second.connect(first.address)
    scenarios.all_hear([first, second])
    ray.kill(first._mailbox, no_restart=False)
    scenarios.all_hear([first, second])


def strangers_are_not_listened_to(opened, scenarios) -> None:
    first, second = opened(), opened()
    for greeting in (b"garbage", b"x" * 2000, Codec(b"K" * 32, b"n" * 16, b"m" * 16).encode_hello("ray://stranger")):
        ray.get(first._mailbox.greet.remote(greeting))
    ray.get(first._mailbox.greet.remote(CODEC.encode_hello("tcp://127.0.0.1:9")))
    second.connect(first.address)
    scenarios.all_hear([first, second])
    assert first.connected == (second.address,)
    assert first.rejected == {"size": 1, "key": 1, "address": 1}, first.rejected


def an_address_in_use_is_named(opened, scenarios) -> None:
    first = opened()
    with pytest.raises(TransportError, match="in use"):
        opened(first.address)


def main(folder: str) -> None:
    scenarios = load_scenarios()
    own = (a_mailbox_that_ray_starts_again_is_heard_again, strangers_are_not_listened_to, an_address_in_use_is_named)
    ray.init(
        num_cpus=1,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        _temp_dir=folder,
        object_store_memory=128 << 20,
    )
    try:
        for scenario in (*scenarios.SCENARIOS, *own):
            transports = []

            def opened(address=None, *, shy=False, transports=transports):
                transports.append(RayTransport(codec=CODEC, address=address, hello_s=3600.0 if shy else 0.1))
                return transports[-1]

            began = time.monotonic()
            scenario(opened) if scenario in scenarios.SCENARIOS else scenario(opened, scenarios)
            for transport in transports:
                transport.close()
            print(f"{time.monotonic() - began:6.2f} s  {scenario.__name__}", flush=True)
    finally:
        ray.shutdown()
    print("all done", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
