"""The pass over the pictures: N at once, at the server's pace, each asked for again with the reason if need be."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from time import monotonic
from typing import Any

from attrs import define, field, frozen, validators

from qi_core import chat
from qi_core.annotation.answer import Annotation, Refused, parsed
from qi_core.annotation.journal import Journal
from qi_core.annotation.pictures import Show
from qi_core.annotation.prompts import Prompts
from qi_core.annotation.rules import Rules
from qi_core.blob import Blob
from qi_core.calls import Caller, Endpoint, GaveUp, Unfit, together
from qi_core.chat import Reply
from qi_core.entries import Entry
from qi_core.errors import QiError
from qi_core.pace import Pace
from qi_core.pixels import Unusable, prepare

OBEY = 3600.0
"""Seconds that a picture waits in all where the server says for how long."""
SHOWN_BACK = 4000
"""Characters of an answer that won't do which the model is shown when it is asked again."""
LONGEST_RAW = 64 * 2**10
"""Bytes of a caption that is there already; one that is longer counts as none."""
LONGEST_HINT = 4096
"""Bytes of it that can be part of a question."""
MISFITS = 20
"""Pictures in a row that the server won't take, before any that it took, after which it is the question that is
wrong."""
WINDOW = 60.0
"""Seconds over which the rate is taken."""


@frozen(kw_only=True)
class Asking:
    """How pictures are asked for."""

    endpoint: Endpoint
    model: str
    prompts: Prompts
    rules: Rules = field(factory=Rules)
    show: Show = field(factory=Show)
    asks: int = field(default=3, validator=validators.gt(0))
    """Answers that a picture may take, the first included."""
    requests: float = 0.0
    """A minute, at most; 0: no limit."""
    tokens: float = 0.0
    """A minute, at most, of questions and answers together; 0: no limit."""
    max_tokens: int = field(default=1024, validator=validators.gt(0))
    """Of an answer."""
    fuse: bool = False
    """Ask once more for pictures with a caption, which is then part of the question: what comes is ``fused``."""

    @property
    def name(self) -> str:
        """Of the questions: annotations that answer others don't belong into one file."""
        return self.prompts.digest + ("+fused" if self.fuse else "")


@define(kw_only=True)
class Progress:
    """How far it is."""

    total: int
    before: int = 0
    """Of them, annotated or given up before this start."""
    kept: int = 0
    failed: int = 0
    left: int = 0
    """Not annotated, for no fault of theirs: the server did not answer. A later start asks again."""
    unfused: int = 0
    """Of those kept, that lack a fused caption, since no answer would do or the server would not take the question."""
    calls: int = 0
    """Answers read."""
    refused: Counter[str] = field(factory=Counter)
    """Answers that wouldn't do, by reason."""
    asked: int = 0
    """Tokens of all questions and pictures."""
    said: int = 0
    """Tokens of all answers."""
    _began: float = field(factory=monotonic)
    _times: deque[float] = field(factory=deque)

    @property
    def rest(self) -> int:
        return self.total - self.before - self.kept - self.failed - self.left

    def count(self) -> None:
        self._times.append(monotonic())

    @property
    def rate(self) -> float:
        """Pictures a second, lately."""
        now = monotonic()
        while self._times and self._times[0] < now - WINDOW:
            self._times.popleft()
        span = min(now - self._began, WINDOW)
        return len(self._times) / span if span > 0 else 0.0


def annotate(
    entries: Sequence[Entry], journal: Journal, asking: Asking, tell: Callable[[Progress], None], *, every: float = 1.0
) -> Progress:
    """Annotates what the journal lacks. ``tell`` is called about ``every`` so many seconds, and at the end.

    Raises QiError where the server is of no use: gone for as many pictures in a row as are asked for at once, or
    refusing them all.
    """
    return asyncio.run(_annotate(entries, journal, asking, tell, every))


async def _annotate(
    entries: Sequence[Entry], journal: Journal, asking: Asking, tell: Callable[[Progress], None], every: float
) -> Progress:
    prepare()
    unique = {journal.name(entry.image.path): entry for entry in reversed(entries)}
    missing = [entry for name, entry in reversed(unique.items()) if name not in journal.done]
    progress = Progress(total=len(unique), before=len(unique) - len(missing))
    guess = asking.max_tokens / 2 + asking.show.side**2 / 28**2
    caller = Caller(
        asking.endpoint,
        unfit=chat.UNFIT,
        pace=Pace(requests=asking.requests, tokens=asking.tokens, guess=guess),
        needed=lambda reply: reply.asked + reply.said or round(guess),
        obey=OBEY,
    )
    work = _Work(iter(missing), journal, asking, caller, progress)
    teller = asyncio.create_task(_tell(progress, tell, every))
    try:
        await together([work.run() for _ in range(min(asking.endpoint.in_flight, len(missing)))])
    finally:
        teller.cancel()
        await caller.close()
        tell(progress)
    return progress


async def _tell(progress: Progress, tell: Callable[[Progress], None], every: float) -> None:
    while True:
        await asyncio.sleep(every)
        tell(progress)


@define(eq=False)
class _Work:
    """What the workers share."""

    entries: Iterator[Entry]
    journal: Journal
    asking: Asking
    caller: Caller
    progress: Progress
    lost: int = 0
    """Pictures in a row for which the server did not answer."""
    misfits: int = 0
    """Pictures that it would not take, before the first that it took."""

    async def run(self) -> None:
        for entry in self.entries:  # one iterator, shared
            await self._one(entry)

    async def _one(self, entry: Entry) -> None:
        image = self.journal.name(entry.image.path)
        try:
            record = await self._annotated(entry, image)
        except (Unusable, Refused) as error:
            self._failed(image, error.reason, error.detail)
        except Unfit as error:
            self._failed(image, f"refused by the server: {error}", error.detail)
            self._misfit(error)
        except GaveUp as error:
            self._gave_up(error)
            return
        else:
            self.journal.keep(record)
            self.progress.kept += 1
        self.lost = 0
        self.progress.count()

    def _failed(self, image: str, reason: str, detail: str) -> None:
        self.journal.fail(image, reason, detail)
        self.progress.failed += 1

    def _misfit(self, error: Unfit) -> None:
        self.misfits += 1
        if self.misfits >= MISFITS and not self.progress.calls:
            raise QiError(
                f"{self.asking.endpoint.url}: takes none of the first {self.misfits} pictures ({error}, "
                f"{error.detail}); look at the model, --side and --max-tokens, and start again with --again"
            )

    def _gave_up(self, error: GaveUp) -> None:
        self.progress.left += 1
        self.lost += 1
        endpoint = self.asking.endpoint
        if self.lost >= max(4, endpoint.in_flight):
            raise QiError(
                f"{endpoint.url}: no usable answer for {self.lost} pictures in a row, each asked "
                f"{endpoint.retries + 1} times, at last {error}; what was annotated is kept: the same command goes on "
                "once the server answers"
            )

    async def _annotated(self, entry: Entry, image: str) -> dict[str, Any]:
        """The annotation of a picture as a line. Raises Unusable, Refused or GaveUp."""
        if entry.references:
            raise Unusable("has references", "its caption is an instruction, which no annotation replaces")
        raw = await asyncio.to_thread(known, entry)
        file, size = await asyncio.to_thread(self.asking.show.jpeg, entry)
        found, asked = await self._answered(file, "")
        line = _line(image, found, raw, entry, asked=asked, size=size)
        if self.asking.fuse and raw and len(raw.encode("utf-8", "surrogatepass")) <= LONGEST_HINT:
            try:
                fused, _ = await self._answered(file, raw)
                line["fused"] = fused.caption
            except (Refused, Unfit):  # the annotation is good without it
                self.progress.unfused += 1
        return line

    async def _answered(self, file: bytes, hint: str) -> tuple[Annotation, int]:
        """An answer that will do, and how many it took. Raises Refused or GaveUp."""
        question = _user([chat.picture(file, "jpeg"), chat.words(self.asking.prompts.question(hint))])
        messages, turn = [question], 0
        while True:
            reply = await self.caller.call(chat.PATH, chat.reply, self._body(messages, turn), chat.HEADERS)
            turn += 1
            self.progress.calls += 1
            self.progress.asked += reply.asked
            self.progress.said += reply.said
            try:
                found = parsed(reply)
                self.asking.rules.check(found)
                return found, turn
            except Refused as error:
                self.progress.refused[error.reason] += 1
                if turn == self.asking.asks:
                    raise
                messages = [question, *self._again(reply, error)]

    def _body(self, messages: list[dict[str, Any]], turn: int) -> Callable[[], tuple[str, bytes]]:
        def body() -> tuple[str, bytes]:
            told = {
                "model": self.asking.model,
                "messages": messages,
                "temperature": 0,
                "seed": turn,
                "max_tokens": self.asking.max_tokens,
            }
            data = json.dumps(told).encode()
            return hashlib.blake2b(data, digest_size=16).hexdigest(), data

        return body

    def _again(self, reply: Reply, error: Refused) -> list[dict[str, Any]]:
        said = {"role": "assistant", "content": reply.text[:SHOWN_BACK] or "-"}
        return [said, _user([chat.words(self.asking.prompts.again.replace("{reason}", str(error)[:500]))])]


def known(entry: Entry) -> str:
    """The caption that is there already; empty if there is none, or none that can be read."""
    text = entry.caption or ""
    if isinstance(text, Blob):
        try:
            text = text.read(LONGEST_RAW).decode("utf-8-sig")
        except (Unusable, UnicodeDecodeError):
            return ""
    return text.strip() if len(text.encode("utf-8", "surrogatepass")) <= LONGEST_RAW else ""


def _user(content: list[dict[str, Any]]) -> dict[str, Any]:
    return {"role": "user", "content": content}


def _line(image: str, found: Annotation, raw: str, entry: Entry, *, asked: int, size: int) -> dict[str, Any]:
    """As the source ``images`` reads it."""
    line: dict[str, Any] = {"image": image, "caption": found.caption}
    if raw:
        line["raw"] = raw
    if entry.category:
        line["category"] = entry.category
    return {
        **line,
        "type": found.type,
        "style": found.style,
        "watermarks": list(found.watermarks),
        "abnormal": found.abnormal,
        "asked": asked,
        "bytes": size,
    }
