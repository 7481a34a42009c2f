"""Every transport passes the same scenarios (those of Ray are in test_ray_transport.py)."""

import importlib.util
import itertools
from pathlib import Path

import pytest

from fulgurite.plugins.dynamic_async.engine.curve import CurvePair
from fulgurite.plugins.dynamic_async.engine.frames import Codec
from fulgurite.plugins.dynamic_async.engine.in_process import Hub, InProcessTransport
from fulgurite.plugins.dynamic_async.engine.transport import TransportError
from fulgurite.plugins.dynamic_async.engine.zmq_transport import ZmqTransport

CODEC = Codec(b"k" * 32, b"n" * 16, b"m" * 16)
KINDS = ("memory", "tcp", "tcp6", "ipc", "curve")


def load_scenarios():
    spec = importlib.util.spec_from_file_location("transports", Path(__file__).with_name("transports.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCENARIOS = load_scenarios().SCENARIOS


@pytest.fixture
def opened(request, tmp_path):
    """``opened(address=None, shy=False)``: a transport of the kind asked for, closed at the end of the test.

    A shy one does not greet again, so that who disconnects from it is left alone.
    """
    hub, numbers, transports = Hub(), itertools.count(), []
    listen = {"tcp6": "tcp://[::1]:0", "ipc": f"ipc://{tmp_path}/peer-"}.get(request.param, "tcp://127.0.0.1:0")

    def open_one(address=None, *, shy=False):
        if request.param == "memory":
            transports.append(InProcessTransport(hub, address))
        else:
            where = address or (listen + str(next(numbers)) if request.param == "ipc" else listen)
            curve = CurvePair.derived(CODEC) if request.param == "curve" else "auto"
            hello_s = 3600.0 if shy else 0.1
            transports.append(ZmqTransport(where, codec=CODEC, curve=curve, hello_s=hello_s))
        return transports[-1]

    yield open_one
    for transport in transports:
        transport.close()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
@pytest.mark.parametrize("opened", KINDS, indirect=True)
def test_scenario(scenario, opened):
    scenario(opened)


@pytest.mark.parametrize("opened", KINDS, indirect=True)
def test_an_address_in_use_is_named(opened):
    first = opened()
    with pytest.raises(TransportError, match="in use") as caught:
        opened(first.address)
    assert first.address.removeprefix("tcp://") in str(caught.value)
