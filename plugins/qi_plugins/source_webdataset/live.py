"""The live source."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from typing import Any

from attrs import define, field

from qi_core.data import Sample, Samples
from qi_core.drawing import Passed, Rejected, drawn
from qi_core.errors import QiError
from qi_core.fit import Fit
from qi_core.pixels import Unusable, prepare
from qi_core.place import Place
from qi_core.portions import Lost
from qi_core.repeats import Pass, Repeats, Weights, told_as
from qi_core.shuffling import another, number_of, weighs_alike
from qi_core.skipped import Skipped
from qi_core.source import Ticket
from qi_plugins.source_webdataset.component import WebDataset
from qi_plugins.source_webdataset.names import Shard, shards
from qi_plugins.source_webdataset.shelf import Opened, Shelf
from qi_plugins.source_webdataset.windows import Held, Verdict, Windows, settled

_LOG = logging.getLogger("qi.source")


@define(kw_only=True, eq=False)
class WebSource:
    """A live ``webdataset``. A ticket is (epoch, shard, sample, digest): the last tells that the shard is still what it
    was when it was planned. With weights, how often the sample came before stands behind them."""

    settings: WebDataset
    fit: Fit
    shelf: Shelf
    windows: Windows
    folder: Path
    """Of the verdicts."""
    names: str
    """Stands for the shards that there are."""
    passed: Passed
    weights: Weights | None = None
    gives: type[Samples] = Samples
    looks: bool = True
    """See ``Planned.plan``."""
    _epoch: int = 0
    _window: int = 0
    _index: int = 0
    """Samples of the window that are planned."""
    _dealt: list[Ticket] | None = field(default=None, init=False)
    """The window's."""
    _lost: dict[int, set[int]] = field(factory=dict, init=False)
    """Shards lost, by epoch."""
    _weightless: int = field(default=0, init=False)
    """Windows one after the other in which all samples weigh 0."""
    _listed: bool = field(default=False, init=False)
    """A sample of its shards was on the list of weights, or that none was has been told."""
    _pool: ThreadPoolExecutor | None = field(default=None, init=False)

    # --- planning ---

    def plan(self, count: int) -> list[Ticket]:
        """The next tickets. When a window begins its shards are looked into, unless that was done ahead, as it is for
        all but the first: that is the one thing that is waited for here."""
        tickets: list[Ticket] = []
        while len(tickets) < count:
            if self._dealt is None:
                self._dealt = self._deal()
            wanted = count - len(tickets)
            some = self._dealt[self._index : self._index + wanted]
            tickets += some
            self._index += len(some)
            if self._index >= len(self._dealt):
                self._next_window()
        return tickets

    def _next_window(self) -> None:
        self._window, self._index, self._dealt = self._window + 1, 0, None
        if self._window == len(self.windows):
            self._epoch, self._window = self._epoch + 1, 0
            self._lost.pop(self._epoch - 2, None)

    def _deal(self) -> list[Ticket]:
        """Tickets of the window that is next; the shards of the one after it are begun."""
        numbers = self.windows.shards_of(self._epoch, self._window)
        for number in numbers:
            self.shelf.begin(number)
        name = f"{self.names}-{self._epoch}-{self._window}.json"
        verdict = settled(self.folder, name, lambda: self._verdict(numbers))
        if [held.shard for held in verdict.shards] != [self.shelf.shards[number].name for number in numbers]:
            raise QiError(f"{self.folder / name}: it is of other shards; remove it and start again")
        if not self._keep_to(verdict, numbers):
            self._epoch, self._window, self._index = self._epoch + 1, 0, 0
            return self._deal()
        self._ahead()
        if self.weights is not None:
            return self._repeated(verdict, numbers, self.weights)
        dealt = self.windows.samples_of(self._epoch, self._window, [held.samples for held in verdict.shards])
        return [(self._epoch, numbers[which], sample, verdict.shards[which].digest) for which, sample in dealt]

    def _repeated(self, verdict: Verdict, numbers: list[int], weights: Weights) -> list[Ticket]:
        """As often as their weights say. Shards meet others in every epoch, so each is dealt out by itself."""
        passes: list[Pass | None] = []
        weightless, key, found = True, "", 0
        for number, held in zip(numbers, verdict.shards, strict=True):
            if not held.samples:
                passes.append(None)
                continue
            opened = self.shelf.opened(number)
            own, listed = weights.of(opened.key(sample) for sample in range(len(opened)))
            weightless, key, found = weightless and not own.any(), opened.key(0), found + listed
            passes.append(Repeats(own, number_of(f"{self.fit.seed}/{held.shard}"), weights.path).epoch(self._epoch))
        if key and not found and not self._listed:
            self._refuse_unlisted(weights, key)
        self._listed = self._listed or bool(key)
        self._weightless = self._weightless + 1 if weightless else 0
        if self._weightless >= len(self.windows):
            raise QiError(
                f"source.weights_file = {weights.path!r}: all samples of all shards weigh 0; give some of them more"
            )
        dealt = self.windows.samples_of(self._epoch, self._window, [len(each) if each else 0 for each in passes])
        tickets: list[Ticket] = []
        for which, slot in dealt:
            turn, sample = passes[which][slot]  # type: ignore[index]  # of a shard that has samples
            tickets.append((self._epoch, numbers[which], sample, verdict.shards[which].digest, turn))
        return tickets

    def _refuse_unlisted(self, weights: Weights, key: str) -> None:
        """Raises QiError where the first window is all there is, and none of its samples is on the list; else it may
        be of later ones, and is told."""
        if len(self.windows) == 1:
            raise QiError(weights.of_others(key, "those in the shards"))
        _LOG.warning("%s", weights.of_others(key, f"those in the first {self.windows.width} shards"))

    def _verdict(self, numbers: list[int]) -> Verdict:
        """What is found of the window's shards. Raises QiError if too many are lost."""
        held: list[Held] = []
        for number in numbers:
            shard = self.shelf.shards[number]
            try:
                opened = self.shelf.opened(number)
                held.append(Held(shard.name, len(opened), opened.digest))
            except Unusable as error:
                self._lose(number, error.reason, error.detail)
                held.append(Held(shard.name, reason=error.reason, detail=error.detail))
        return Verdict(held)

    def _keep_to(self, verdict: Verdict, numbers: list[int]) -> bool:
        """Tells what is lost. False where a shard is not what the verdict says, and the next epoch is to begin."""
        for number, held in zip(numbers, verdict.shards, strict=True):
            if not held.samples:
                self._lose(number, held.reason, held.detail)
                self.passed(Lost(key=held.shard, reason=f"shard: {held.reason}", detail=held.detail))
                continue
            try:
                opened = self.shelf.opened(number)
            except Unusable as error:
                raise QiError(
                    f"{held.shard}: {error.reason} ({error.detail}), and the run has {held.samples} samples of it in "
                    "its order; see that this machine can reach it, and start again"
                ) from error
            if opened.digest != held.digest:
                if self.settings.changed == "refuse":
                    raise QiError(
                        f"{held.shard}: the shard changed since this epoch's order was made ({held.samples} samples "
                        f"then, {len(opened)} now, not all the same); put it back, or set source.changed = "
                        "'next-epoch' to go on with what is there"
                    )
                return False
            for key, reason, detail in opened.told:
                self.passed(Lost(key=held.shard + key, reason=reason, detail=detail))
        return True

    def _lose(self, number: int, reason: str, detail: str) -> None:
        lost = self._lost.setdefault(self._epoch, set())
        lost.add(number)
        share = self.settings.max_lost
        allowed = min(max(int(share * self.windows.shards), 1), self.windows.shards - 1) if share else 0
        if len(lost) > allowed:
            raise QiError(
                f"source webdataset: {len(lost)} of {self.windows.shards} shards are lost, the last, "
                f"{self.shelf.shards[number].name}: {reason} ({detail}); see to the shards or their server and start "
                "again, or raise source.max_lost"
            )

    def _ahead(self) -> None:
        """The next window's shards are looked into while this one is drawn from."""
        epoch, window = self._epoch, self._window + 1
        if window == len(self.windows):
            epoch, window = epoch + 1, 0
        for number in self.windows.shards_of(epoch, window):
            self.shelf.begin(number)

    # --- making ---

    def cost(self, ticket: Ticket) -> int:
        """All buckets are of one area."""
        area = self.fit.buckets[0].height * self.fit.buckets[0].width
        try:
            return area + len(self._opened(ticket).usable[ticket[2]][1].references) * self.fit.reference_area
        except Unusable:
            return area

    def called(self, ticket: Ticket) -> str:
        try:
            return self._opened(ticket).key(ticket[2])
        except Unusable:
            return f"{self.shelf.shards[ticket[1]].name}/sample {ticket[2]}"

    def make(self, ticket: Ticket) -> Sample:
        """Raises Unusable, and QiError where no sample could do better."""
        opened, sample, turn = self._opened(ticket), ticket[2], ticket[4] if self.weights else ticket[0]
        if self.weights and not self.weights.of([opened.key(sample)])[0]:
            raise Rejected("weighs 0", "came to stand in for another")
        return self.fit.make(opened.entry(sample, self.fit.limits), turn)

    def other(self, ticket: Ticket, attempt: int) -> Ticket:
        """A sample of the same shard and, every second time or where it is gone, of another one of its window."""
        epoch, shard, sample, _, *came = ticket
        order = [number for w in range(len(self.windows)) for number in self._window_with(shard, epoch, w)]
        turn = order.index(shard)
        for step in range(len(order)):
            number = order[(turn + attempt % 2 * (1 + attempt // 2) + step) % len(order)]
            try:
                opened = self.shelf.opened(number)
            except Unusable:
                continue
            which = another(f"{self.fit.seed}/{epoch}/{shard}/{sample}", sample % len(opened), attempt, len(opened))
            return epoch, number, which, opened.digest, *came
        raise QiError(
            f"source webdataset: none of {', '.join(self.shelf.shards[number].name for number in order)} can be read "
            "any more; see to the shards or their server and start again"
        )

    def _window_with(self, shard: int, epoch: int, window: int) -> list[int]:
        numbers = self.windows.shards_of(epoch, window)
        return numbers if shard in numbers else []

    def _opened(self, ticket: Ticket) -> Opened:
        """Raises Unusable if it is not what was planned with."""
        opened = self.shelf.opened(ticket[1])
        if opened.digest != ticket[3]:
            raise Unusable("shard changed since it was planned", opened.shard.name)
        return opened

    def made_of(self) -> dict[str, str]:
        """See ``qi_core.source.OfFiles``: which shards there are, and the weights. What is in a shard, tickets tell."""
        return {"shards": self.names} | (told_as(self.weights.identity) if self.weights else {})

    # --- Source ---

    def draw(self, count: int) -> Samples:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.settings.workers, thread_name_prefix="qi-source")
        batch: Samples = drawn(self, count, self.passed, self._pool)
        return batch

    def state_dict(self) -> dict[str, Any]:
        return {
            "epoch": self._epoch,
            "window": self._window,
            "index": self._index,
            "shards": self.windows.shards,
            "width": self.windows.width,
            "names": self.names,
        } | ({"weights": self.weights.identity} if self.weights else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position. Raises QiError if there are other shards, and ``changed`` refuses that."""
        same = state["names"] == self.names
        if not same and self.settings.changed == "refuse":
            raise QiError(
                f"source.shards: not the shards of the checkpoint ({state['shards']} then in windows of "
                f"{state['width']}, {self.windows.shards} now in windows of {self.windows.width}); put them back, or "
                "set source.changed = 'next-epoch' to go on with what is there"
            )
        own = self.weights.identity if self.weights else None
        same = weighs_alike(state.get("weights"), own, self.settings.changed) and same
        place = (state["epoch"], state["window"], state["index"]) if same else (state["epoch"] + 1, 0, 0)
        self._epoch, self._window, self._index = place
        self._dealt = None

    def report(self) -> dict[str, int]:
        return dict(self.passed.counts)

    def close(self) -> None:
        """See ``qi_core.place.Closing``."""
        self.shelf.close()
        if self._pool is not None:
            self._pool.shutdown(wait=False)


def build(settings: WebDataset, place: Place, multiple: int) -> WebSource:
    """The live source. Raises QiError where there is no shard, or a token isn't where it should be."""
    prepare()
    found = shards(settings.shards)
    fit = settings.fit(place.seed, multiple)
    windows = Windows(place.seed, len(found), settings.window)
    return WebSource(
        settings=settings,
        fit=fit,
        shelf=Shelf.of(settings, found),
        windows=windows,
        folder=place.folder / "shards",
        names=_names(found, windows, settings),
        passed=Passed(Skipped(place.folder, "webdataset")),
        weights=settings.weighing(place.even),
    )


def _names(found: tuple[Shard, ...], windows: Windows, settings: WebDataset) -> str:
    """Of what decides the order, besides the shards' contents."""
    content = blake2b(
        f"{windows.seed}/{windows.width}/{settings.captions}/{settings.caption_extension}".encode(), digest_size=8
    )
    for shard in found:
        content.update(shard.name.encode("utf-8", "surrogatepass") + b"\0")
    return content.hexdigest()
