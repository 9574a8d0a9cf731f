"""Keeping to a server's limits: so many requests and tokens a minute, and silence when it asks for it."""

from __future__ import annotations

import asyncio
from time import monotonic


class Pace:
    """Lets calls through no faster than agreed. Belongs to one event loop.

    Calls are spaced evenly and not let through in bursts: servers count in windows that nobody knows, and evenly spaced
    ones keep within the limit in all of them.
    """

    def __init__(self, *, requests: float = 0.0, tokens: float = 0.0, guess: float = 0.0) -> None:
        """Of each at most so many a minute; 0: no limit. ``guess``: tokens of a call, before any has been made."""
        self._requests, self._tokens = requests, tokens
        self._guess, self._spent, self._settled = guess, 0, 0
        self._next_request = self._next_token = self._held = 0.0

    async def turn(self) -> float:
        """Wait for it. Returns the tokens that are reserved for it: as many as calls before it have needed on the
        average."""
        while (wait := max(self._next_request, self._next_token, self._held) - monotonic()) > 0:
            await asyncio.sleep(wait)
        now, reserved = monotonic(), self._average()
        if self._requests:
            self._next_request = max(self._next_request, now) + 60 / self._requests
        if self._tokens:
            self._next_token = max(self._next_token, now) + reserved * 60 / self._tokens
        return reserved

    def settle(self, reserved: float, tokens: int) -> None:
        """A call has needed so many: the reservation is put right."""
        if self._tokens:
            self._next_token += (tokens - reserved) * 60 / self._tokens
        self._spent, self._settled = self._spent + tokens, self._settled + 1

    def hold(self, seconds: float) -> None:
        """The server wants no call for so long."""
        self._held = max(self._held, monotonic() + seconds)

    def _average(self) -> float:
        return self._spent / self._settled if self._settled else self._guess
