"""The actor that a Ray mailbox is. Its process imports this file, which therefore imports next to nothing."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable

_MAX_GREETINGS = 256


class Mailbox:
    """What lives in the actor: the newest frame of its owner, and the greetings that others left for it.

    A mailbox that Ray has started again is empty and has a new life, by which readers see that its count is new too.

    Args:
        greeting_bytes: longer ones are dropped.
    """

    def __init__(self, greeting_bytes: int) -> None:
        self._greeting_bytes = greeting_bytes
        self._life = secrets.token_bytes(8)
        self._number = 0
        self._frame = b""
        self._greetings: list[bytes] = []
        self._news = asyncio.Condition()

    async def put(self, frame: bytes) -> None:
        """Replace the frame."""
        async with self._news:
            self._frame = frame
            self._number += 1
            self._news.notify_all()

    async def newest(self, life: bytes, number: int, patience_s: float) -> tuple[bytes, int, bytes | None]:
        """The frame if it is another than this one, as soon as that is so; None for it if the time is over."""
        if await self._wait_for(lambda: self._number > 0 and (self._life, self._number) != (life, number), patience_s):
            return self._life, self._number, self._frame
        return life, number, None

    async def greet(self, greeting: bytes) -> None:
        """Leave word of where one can be heard."""
        async with self._news:
            fits = len(greeting) <= self._greeting_bytes and len(self._greetings) < _MAX_GREETINGS
            if fits and greeting not in self._greetings:
                self._greetings.append(greeting)
                self._news.notify_all()

    async def greetings(self, patience_s: float) -> list[bytes]:
        """Take the greetings, as soon as there are any."""
        await self._wait_for(lambda: bool(self._greetings), patience_s)
        greetings, self._greetings = self._greetings, []
        return greetings

    async def _wait_for(self, condition: Callable[[], bool], patience_s: float) -> bool:
        async with self._news:
            try:
                await asyncio.wait_for(self._news.wait_for(condition), patience_s)
            except TimeoutError:
                return False
            return True
