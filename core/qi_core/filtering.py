"""A source whose samples are judged before they are trained on."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from attrs import field, frozen

from qi_core.curriculum import Weighed, Weight
from qi_core.data import Samples
from qi_core.drawing import Passed, Rejected, drawn
from qi_core.errors import QiError
from qi_core.filter import Filter
from qi_core.place import Closing
from qi_core.source import Named, OfFiles, Planned, Ticket

if TYPE_CHECKING:
    from torch import Tensor

    from qi_core.data import Sample

REMEMBERED = 2**18
"""Verdicts that are kept in memory, so that a later epoch measures nothing again: at most about 100 MB."""


@frozen(kw_only=True)
class Verdict:
    """What filters found of one sample."""

    values: Mapping[str, float]
    """By label, in the order in which they were measured; ends with the filter that refused, unless all were asked."""
    reasons: Mapping[str, str] = field(factory=dict)
    """By label, of those that refused, in order."""

    @property
    def refused(self) -> str:
        """The label of the first that refused; empty: it is kept."""
        return next(iter(self.reasons), "")

    @property
    def reason(self) -> str:
        """Why the first refused."""
        return self.reasons.get(self.refused, "")


class Keeper(Protocol):
    """Whoever is told each verdict, once a sample and process. Several threads may tell at once. Raises nothing."""

    def __call__(self, sample: Sample, identity: bytes, verdict: Verdict) -> None: ...

    def unmade(self, key: str, verdict: Verdict) -> None:
        """Of a sample that was refused by its key and never made."""
        ...


@runtime_checkable
class ByKey(Protocol):
    """A live filter that needs to know nothing but the key: where such ones come first, what they refuse is not even
    opened."""

    def measure_key(self, key: str) -> float:
        """What ``measure`` gives for a sample of this key."""
        ...


@frozen(kw_only=True)
class Filters:
    """Filters by label, in order."""

    filters: Mapping[str, Filter] = field(factory=dict)

    def judge(self, sample: Sample, whole: bool = False) -> Verdict:
        """By each in turn until one refuses; ``whole``: all are asked, so that their thresholds can be chosen."""
        values: dict[str, float] = {}
        reasons: dict[str, str] = {}
        for label, live in self.filters.items():
            values[label] = float(live.measure(sample))
            if why := live.refuses(values[label]):
                reasons[label] = why
                if not whole:
                    break
        return Verdict(values=values, reasons=reasons)

    def judge_key(self, key: str) -> Verdict:
        """By those that stand first and need the key alone."""
        values: dict[str, float] = {}
        for label, live in self.filters.items():
            if not isinstance(live, ByKey):
                break
            values[label] = float(live.measure_key(key))
            if why := live.refuses(values[label]):
                return Verdict(values=values, reasons={label: why})
        return Verdict(values=values)

    def wanted(self, label: str) -> str:
        """The bar of a filter, as messages tell it; empty for one that doesn't say."""
        least, most = bar_of(self.filters[label])
        if least == most:
            return f"{least:g}"
        told = [f"at least {least:g}"] if least > -math.inf else []
        told += [f"at most {most:g}"] if most < math.inf else []
        return " and ".join(told)


class Filtered:
    """A source that plans, of what its filters let through: a sample that one refuses is replaced as a broken one is.

    What is refused is decided by the sample and the settings alone, so it is the same in every process.
    """

    def __init__(self, source: Planned, filters: Mapping[str, Filter], keeper: Keeper | None = None) -> None:
        """``filters`` by label, in order. Raises QiError unless the source gives samples."""
        if source.gives is not Samples:
            raise QiError(
                f"data.filters: the source gives {source.gives.__name__}; wanted one of Samples; leave the filters out"
            )
        self.inner = source
        self._filters, self._keeper, self._passed = Filters(filters=filters), keeper, Passed()
        self._known: dict[bytes, Verdict] = {}
        self._lock = threading.Lock()

    @property
    def gives(self) -> type[Any]:
        return self.inner.gives

    def weigh(self, weights: Mapping[str, Weight]) -> None:
        """See ``Weighed``: the inner source's parts, if it has any."""
        if isinstance(self.inner, Weighed):
            self.inner.weigh(weights)

    def plan(self, count: int) -> list[Ticket]:
        return self.inner.plan(count)

    def cost(self, ticket: Ticket) -> int:
        return self.inner.cost(ticket)

    def called(self, ticket: Ticket) -> str:
        return self.inner.called(ticket)

    def named(self, ticket: Ticket) -> bytes | None:
        """See ``qi_core.source.Named``: who is remembered was let through."""
        return self.inner.named(ticket) if isinstance(self.inner, Named) else None

    def made_of(self) -> Mapping[str, str]:
        """See ``qi_core.source.OfFiles``."""
        return self.inner.made_of() if isinstance(self.inner, OfFiles) else {}

    def make(self, ticket: Ticket) -> Sample:
        """Raises Rejected with the label of the filter and its reason."""
        key = self.inner.called(ticket)
        self._refuse(self._filters.judge_key(key), key)
        sample: Sample = self.inner.make(ticket)
        self._refuse(self._verdict(sample))
        return sample

    def other(self, ticket: Ticket, attempt: int) -> Ticket:
        return self.inner.other(ticket, attempt)

    def draw(self, count: int, pool: ThreadPoolExecutor | None = None) -> Samples:
        found: Samples = drawn(self, count, self._passed, pool)
        return found

    def state_dict(self) -> dict[str, Any]:
        return self.inner.state_dict()  # type: ignore[attr-defined,no-any-return]  # pyright: ignore

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.inner.load_state_dict(state)  # type: ignore[attr-defined]  # pyright: ignore

    def report(self) -> dict[str, int]:
        own: Mapping[str, int] = self.inner.report()  # type: ignore[attr-defined]  # pyright: ignore
        troubles: Mapping[str, int] = getattr(self._keeper, "report", dict)()
        return {**own, **self._passed.counts, **troubles}

    def close(self) -> None:
        """See ``Closing``."""
        for each in (self._keeper, self.inner):
            if isinstance(each, Closing):
                each.close()

    def _refuse(self, verdict: Verdict, unmade: str = "") -> None:
        """Raises Rejected unless all is well. ``unmade``: the key of a sample that nobody has made."""
        if not verdict.refused:
            return
        if unmade and self._keeper is not None:
            self._keeper.unmade(unmade, verdict)
        wanted = self._filters.wanted(verdict.refused)
        detail = f"{verdict.values[verdict.refused]:.4g}{f', {wanted} wanted' if wanted else ''}"
        raise Rejected(f"{verdict.refused}: {verdict.reason}", detail)

    def _verdict(self, sample: Sample) -> Verdict:
        identity = identity_of(sample)
        with self._lock:
            known = self._known.get(identity)
        if known is not None:
            return known
        found = self._filters.judge(sample)
        with self._lock:
            if identity in self._known:  # another thread was quicker, and told
                return self._known[identity]
            if len(self._known) == REMEMBERED:
                del self._known[next(iter(self._known))]  # the oldest
            self._known[identity] = found
        if self._keeper is not None:
            self._keeper(sample, identity, found)
        return found


def bar_of(live: Filter) -> tuple[float, float]:
    """(least, most) of a filter that tells them (see ``qi_core.bar.Bar``), else no limits."""
    return float(getattr(live, "least", -math.inf)), float(getattr(live, "most", math.inf))


def identity_of(sample: Sample) -> bytes:
    """16 bytes that stand for a sample as it is trained on: the same in another epoch, unless it was cropped or
    captioned otherwise there."""
    digest = blake2b(sample.key.encode("utf-8", "surrogatepass") + b"\0", digest_size=16)
    digest.update(sample.prompt.encode("utf-8", "surrogatepass"))
    for image in (sample.image, *sample.references):
        digest.update(repr(tuple(image.shape)).encode())
        digest.update(_bytes(image))
    return digest.digest()


def labelled(components: Sequence[object], names: Sequence[str]) -> list[str]:
    """A label a filter: its ``label`` where it has one, else its component's name; a second of one name is numbered."""
    labels: list[str] = []
    for component, name in zip(components, names, strict=True):
        wanted = str(getattr(component, "label", "") or name)
        number, label = 1, wanted
        while label in labels:
            number += 1
            label = f"{wanted}-{number}"
        labels.append(label)
    return labels


def _bytes(image: Tensor) -> memoryview:
    return memoryview(image.contiguous().cpu().numpy()).cast("B")  # type: ignore[arg-type]  # pyright: ignore
