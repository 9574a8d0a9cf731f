"""What filters found, gathered: from the folder of a run, or from a manifest."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

from attrs import define, field, frozen

from qi_core.errors import QiError

Values = list[float]
MOST_VALUES = 200_000
"""Values of a filter that are kept for its histogram."""


@define(kw_only=True)
class Step:
    """One filter in the funnel."""

    label: str
    least: float | None = None
    most: float | None = None
    came: int = 0
    removed: int = 0
    reasons: Counter[str] = field(factory=Counter)
    silent: int = 0
    """Samples of which it could say nothing."""
    values: Values = field(factory=list)
    kept_eyes: list[Mapping[str, Any]] = field(factory=list)
    refused_eyes: list[Mapping[str, Any]] = field(factory=list)


@frozen(kw_only=True)
class Skips:
    """Samples that a source could not use, of one reason."""

    source: str
    reason: str
    count: int
    examples: tuple[str, ...]
    """A few keys with details."""


@define(kw_only=True)
class Found:
    """Everything that a report tells."""

    what: str
    """A run's folder or a manifest."""
    funnel: list[Step] = field(factory=list)
    samples: int = 0
    kept: int = 0
    judgements: int = 0
    """More than samples where several processes or epochs judged the same ones."""
    partial: bool = False
    """Whether the funnel is of judgements, for not every row was written."""
    skipped: list[Skips] = field(factory=list)
    categories: dict[str, tuple[int, int]] = field(factory=dict)
    """Samples that came, and that were kept."""

    def step(self, label: str, bar: Iterable[float | None] = (None, None)) -> Step:
        """The filter of a label, the last one if it is new."""
        for each in self.funnel:
            if each.label == label:
                return each
        least, most = bar
        self.funnel.append(Step(label=label, least=least, most=most))
        return self.funnel[-1]


def of_run(folder: Path) -> Found:
    """Of the folder of a run. Raises QiError if there is no such folder."""
    if not folder.is_dir():
        raise QiError(f"{folder}: no such folder; name the folder of a run, or a manifest that qi data filter wrote")
    found, data = Found(what=str(folder)), folder / "data"
    for label, bar in _bars(data / "filters.json").items():
        found.step(label, bar)
    labels = {step.label for step in found.funnel}
    # The run's list has what filters refused too, by label: the funnel tells that.
    found.skipped = [
        each for each in _skipped(folder / "skipped.jsonl") if each.reason.partition(": ")[0] not in labels
    ]
    rows = _distinct(sorted(data.glob("judged-*.jsonl")))
    tallies = [told for path in sorted(data.glob("tally-*.json")) if (told := _object(path)) is not None]
    _count(found, rows, one_by_one=True)
    found.judgements = sum(int(told.get("judged", 0)) for told in tallies)
    if any(int(told.get("judged", 0)) > int(told.get("rows", 0)) for told in tallies):
        _tallied(found, tallies)
    _eyes(found, data / "eyes")
    return found


def of_manifest(path: Path) -> Found:
    """Of a manifest: the funnel as it would be, one filter after the other; values of all samples."""
    from qi_core import manifest

    head, rows = manifest.read(path)
    found, skips = Found(what=str(path)), Counter[str]()
    examples: dict[str, list[str]] = {}
    for label, bar in head.bars.items():
        found.step(label, bar)

    def judged() -> Iterator[Mapping[str, Any]]:
        for row in rows:
            if row.lost:
                skips[row.lost] += 1
                examples.setdefault(row.lost, [])
                if len(examples[row.lost]) < 5:
                    examples[row.lost].append(row.key)
                continue
            yield {"values": row.values, "reasons": row.reasons, "category": row.category}

    _count(found, judged(), one_by_one=False)
    found.judgements = found.samples
    found.skipped = [
        Skips(source="", reason=reason, count=count, examples=tuple(examples[reason]))
        for reason, count in skips.most_common()
    ]
    _eyes(found, Path(f"{path}.eyes") / "data" / "eyes")
    return found


def _count(found: Found, rows: Iterable[Mapping[str, Any]], one_by_one: bool) -> None:
    """Rows into the funnel. ``one_by_one``: a row ends with the filter that refused it; else filters were all asked,
    and the first that refuses counts as having removed it."""
    categories: dict[str, list[int]] = {}
    for row in rows:
        values, reasons = row.get("values", {}), row.get("reasons", {})
        removed = next(iter(reasons), "")
        found.samples += 1
        found.kept += not removed
        counts = categories.setdefault(str(row.get("category", "")), [0, 0])
        counts[0] += 1
        counts[1] += not removed
        for label, value in values.items():
            step = found.step(label)
            if value is None:
                step.silent += 1
            elif len(step.values) < MOST_VALUES:
                step.values.append(float(value))
        for label in values:
            step = found.step(label)
            step.came += 1
            if label == removed:
                step.removed += 1
                step.reasons[str(reasons[label])] += 1
                break
    if any(categories):
        found.categories = {name or "(none)": (came, kept) for name, (came, kept) in sorted(categories.items())}


def _tallied(found: Found, tallies: Iterable[Mapping[str, Any]]) -> None:
    """The funnel by the counts that every process kept, where rows were not written any more."""
    found.partial, found.samples, found.kept = True, 0, 0
    for step in found.funnel:
        step.came, step.removed, step.reasons = 0, 0, Counter()
    for told in tallies:
        found.samples += int(told.get("judged", 0))
        found.kept += int(told.get("kept", 0))
        for label, count in told.get("came", {}).items():
            found.step(label).came += int(count)
        for label, reasons in told.get("refused", {}).items():
            step = found.step(label)
            step.reasons.update({str(why): int(count) for why, count in reasons.items()})
            step.removed += sum(int(count) for count in reasons.values())


def _distinct(paths: Iterable[Path]) -> Iterator[Mapping[str, Any]]:
    """Rows of several processes, each sample once."""
    seen: set[str] = set()
    for path in paths:
        for told in _lines(path):
            name = str(told.get("id", ""))
            if name not in seen:
                seen.add(name)
                yield told


def _lines(path: Path) -> Iterator[Mapping[str, Any]]:
    """Objects, a line each; what is none (a line that is being written) is passed over."""
    try:
        with path.open("rb") as file:
            for line in file:
                told = _parsed(line)
                if told is not None:
                    yield told
    except OSError as error:
        raise QiError(f"{path}: cannot be read ({error.strerror})") from error


def _parsed(text: bytes) -> Mapping[str, Any] | None:
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return cast("Mapping[str, Any]", told) if isinstance(told, dict) else None


def _object(path: Path) -> Mapping[str, Any] | None:
    try:
        return _parsed(path.read_bytes())
    except OSError:
        return None


def _bars(path: Path) -> Mapping[str, Any]:
    return _object(path) or {}


def _skipped(path: Path) -> list[Skips]:
    if not path.exists():
        return []
    counts, examples = Counter[tuple[str, str]](), dict[tuple[str, str], list[str]]()
    for told in _lines(path):
        name = (str(told.get("source", "")), str(told.get("reason", "")))
        counts[name] += 1
        some = examples.setdefault(name, [])
        if len(some) < 5:
            some.append(f"{told.get('key', '')} {told.get('detail', '')}".strip()[:300])
    return [
        Skips(source=source, reason=reason, count=count, examples=tuple(examples[source, reason]))
        for (source, reason), count in counts.most_common()
    ]


def _eyes(found: Found, folder: Path) -> None:
    if not folder.is_dir():
        return
    for own in sorted(folder.iterdir()):
        step = found.step(unquote(own.name))
        for which, eyes in (("kept", step.kept_eyes), ("refused", step.refused_eyes)):
            shown = sorted((own / which).glob("[!.]*.json")) if (own / which).is_dir() else []
            eyes += [told for path in shown if (told := _object(path)) is not None and "jpeg" in told]
