"""CURVE for ZeroMQ: what is said between machines is encrypted, and strangers get no further than the handshake."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fulgurite.plugins.dynamic_async.engine.frames import Codec

if TYPE_CHECKING:
    import zmq


@dataclass(frozen=True)
class CurvePair:
    """One pair of keys for all peers of a run: whoever has it is a peer.

    Args:
        public: 40 characters of Z85, as ``zmq.curve_keypair`` gives them.
        secret: likewise.
    """

    public: bytes
    secret: bytes = field(repr=False)

    @staticmethod
    def derived(codec: Codec) -> CurvePair:
        """The pair that follows from the shared key, so that there is one secret to hand round and not two."""
        import zmq
        from zmq.utils import z85

        secret = z85.encode(codec.secret(b"curve"))
        return CurvePair(zmq.curve_public(secret), secret)

    def serve(self, socket: zmq.Socket[bytes]) -> None:
        """Make a socket that is going to be bound refuse whoever has not this pair (see :class:`Doorkeeper`)."""
        socket.curve_server = True
        socket.curve_secretkey = self.secret
        socket.zap_domain = b"fulgurite"

    def knock(self, socket: zmq.Socket[bytes]) -> None:
        """Make a socket that is going to be connected show this pair."""
        socket.curve_serverkey = self.public
        socket.curve_publickey = self.public
        socket.curve_secretkey = self.secret


class Doorkeeper:
    """Answers libzmq, which asks over ZAP (https://rfc.zeromq.org/spec/27) whether a client's key is known.

    Without one, whoever knows the server's public key comes in.

    Args:
        context: whose bound sockets it keeps; made before they are bound.
        pair: the only one that is let in.

    Attributes:
        socket: to be polled; ``answer`` when it is readable.
        refused: handshakes that were turned away.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], pair: CurvePair) -> None:
        import zmq
        from zmq.utils import z85

        self._known = z85.decode(pair.public)
        self.refused = 0
        self.socket = context.socket(zmq.REP)
        self.socket.linger = 0
        self.socket.bind("inproc://zeromq.zap.01")

    def answer(self) -> None:
        """Let one client in or turn it away."""
        version, request, _domain, _address, _identity, mechanism, *credentials = self.socket.recv_multipart()
        known = mechanism == b"CURVE" and credentials == [self._known]
        self.refused += not known
        verdict = [b"200", b"OK"] if known else [b"400", b"unknown key"]
        self.socket.send_multipart([version, request, *verdict, b"", b""])
