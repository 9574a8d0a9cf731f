"""The live client."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from attrs import evolve, frozen

from qi_core import Candidate, QiError, Scores
from qi_core import reward_wire as wire
from qi_core.calls import BadAnswer, Caller, GaveUp, together
from qi_core.scoring import checked
from qi_plugins.reward_http.component import Http

ASKING = {"Accept": wire.MSGPACK}
SENDING = {"Content-Type": wire.MSGPACK, **ASKING}
TOO_LARGE = "too large for the server"
AROUND = 1024
"""Bytes of a message around a candidate's pictures and words, at most."""
BETWEEN = 0.25
"""Seconds between two looks for a server that isn't there yet."""


@frozen(kw_only=True)
class Need:
    """What one or more candidates take of a server's limits."""

    body: int
    pixels: int
    largest: int
    candidates: int

    def __add__(self, other: Need) -> Need:
        return Need(
            body=self.body + other.body,
            pixels=self.pixels + other.pixels,
            largest=max(self.largest, other.largest),
            candidates=self.candidates + other.candidates,
        )


class Remote:
    """A live ``http``."""

    def __init__(self, settings: Http, limits: wire.Limits, *, backoff: float = 0.5) -> None:
        self.settings, self.limits = settings, limits
        self._caller = Caller(settings, backoff=backoff)

    async def score(self, candidates: Sequence[Candidate]) -> Scores:
        """See ``Reward.score``."""
        batches, beyond = self.cut(candidates)
        found = await together([self._batch([candidates[place] for place in batch]) for batch in batches])
        values: list[float | None] = [None] * len(candidates)
        parts: dict[str, list[float | None]] = {}
        failures = Counter({TOO_LARGE: len(beyond)} if beyond else {})
        for batch, scores in zip(batches, found, strict=True):
            failures.update(scores.failures)
            for place, value in zip(batch, scores.values, strict=True):
                values[place] = value
            for name, own in scores.parts.items():
                whole = parts.setdefault(name, [None] * len(candidates))
                for place, value in zip(batch, own, strict=True):
                    whole[place] = value
        return Scores(
            values=tuple(values), parts={name: tuple(whole) for name, whole in parts.items()}, failures=dict(failures)
        )

    def cut(self, candidates: Sequence[Candidate]) -> tuple[list[list[int]], list[int]]:
        """Positions, batch by batch; and those of what the server won't take."""
        units: dict[object, list[int]] = {}
        for place, candidate in enumerate(candidates):
            units.setdefault(candidate.group if self.settings.groupwise else place, []).append(place)
        batches: list[list[int]] = []
        beyond: list[int] = []
        filled: Need | None = None
        for unit in units.values():
            need = need_of(candidates[unit[0]])
            for place in unit[1:]:
                need += need_of(candidates[place])
            if not self._fits(need):
                beyond += unit
            elif filled and filled.candidates + len(unit) <= self.settings.batch and self._fits(filled + need):
                batches[-1] += unit
                filled += need
            else:
                batches.append(list(unit))
                filled = need
        return batches, beyond

    def _fits(self, need: Need) -> bool:
        return (
            need.body <= self.limits.body
            and need.largest <= self.limits.pixels
            and need.pixels <= self.limits.total_pixels
            and need.candidates <= self.limits.candidates
        )

    async def _batch(self, candidates: list[Candidate]) -> Scores:
        asked: list[wire.Request] = []

        def body() -> tuple[str, bytes]:
            asked.append(wire.request(self.settings.reward, candidates, self.settings.encoding))
            return asked[0].id, wire.encode(asked[0], wire.MSGPACK)

        def read(content: bytes) -> Scores:
            return read_scores(self.settings.url, content, asked[0])

        try:
            return checked(
                self.settings.reward, await self._caller.call("/v1/score", read, body, SENDING), len(candidates)
            )
        except GaveUp as error:
            if self.settings.required:
                raise QiError(
                    f"reward http: {self.settings.url} failed {self.settings.retries + 1} times, at last with {error}; "
                    "start it again and resume the run"
                ) from error
            return Scores(values=(None,) * len(candidates), failures={str(error): len(candidates)})

    async def close(self) -> None:
        """See ``Reward.close``."""
        await self._caller.close()


def need_of(candidate: Candidate) -> Need:
    pixels = [picture.shape[1] * picture.shape[2] for picture in (candidate.image, *candidate.references)]
    words = sum(len(text.encode()) for text in (candidate.key, candidate.group, candidate.prompt, candidate.text))
    # A PNG of noise is larger than its pixels by a line's filter byte and zlib's frames: well below 1 %, and a header.
    pictures = sum(3 * count + 3 * count // 100 + AROUND for count in pixels)
    return Need(body=pictures + words + AROUND, pixels=sum(pixels), largest=max(pixels), candidates=1)


def build(settings: Http) -> Remote:
    """Asks the server what it has. Raises QiError unless it has this reward, in this version of the protocol."""
    with ThreadPoolExecutor(1) as own:  # a thread of its own: the caller's may have an event loop
        offers = own.submit(asyncio.run, offers_of(settings)).result()
    known = {offered.name: offered for offered in offers.rewards}
    if settings.reward not in known:
        raise QiError(
            f"reward http: {settings.url} serves no {settings.reward!r}; it has {', '.join(known) or 'none'}; "
            "set reward to one of them"
        )
    if known[settings.reward].groupwise != settings.groupwise:
        is_so = str(known[settings.reward].groupwise).lower()
        raise QiError(f"reward http: {settings.reward!r} of {settings.url} says groupwise = {is_so}; set it likewise")
    return Remote(settings, offers.limits)


async def offers_of(settings: Http) -> wire.Offers:
    """Waits for the server as long as the settings allow."""
    caller = Caller(evolve(settings, retries=0, timeout=min(settings.timeout, max(settings.wait, 1.0))))
    last = time.monotonic() + settings.wait
    try:
        while True:
            try:
                return await caller.call(
                    "/v1/rewards", lambda content: read_offers(settings.url, content), headers=ASKING
                )
            except GaveUp as error:
                if time.monotonic() >= last:
                    raise QiError(
                        f"reward http: {settings.url}: {error}; wanted a reward server; "
                        "start one there with 'qi reward serve RECIPE', or set url"
                    ) from error
            await asyncio.sleep(BETWEEN)
    finally:
        await caller.close()


def read_offers(url: str, content: bytes) -> wire.Offers:
    try:
        return wire.decode(content, wire.MSGPACK, wire.Offers)
    except wire.OtherSchema as error:
        raise QiError(f"reward http: {url}: {error}") from error
    except wire.Unreadable as error:
        raise BadAnswer("no answer of a reward server") from error


def read_scores(url: str, content: bytes, asked: wire.Request) -> Scores:
    try:
        return wire.scores_of(wire.decode(content, wire.MSGPACK, wire.Answer), asked)
    except wire.OtherSchema as error:
        raise QiError(f"reward http: {url}: {error}") from error
    except wire.Unreadable as error:
        raise BadAnswer("no answer to what was asked") from error
