"""qi data resample"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qi_core.errors import QiError

if TYPE_CHECKING:
    from qi_core.manifest import Row


class Resample:
    """Lift what is rare: qi data resample MANIFEST --by words|text|category --about N writes how often samples come.

    A sample weighs (N / samples with its rarest word) ** EXPONENT, within --fewest and --repeats. By text, the words
    are those that its caption quotes: what the picture is to say. What filters refuse is left out of the count. The
    list takes effect as a key of the source: weights_file = "weights.jsonl"
    """

    def configure(self, parser: ArgumentParser) -> None:
        parser.add_argument("manifest", help="that qi data filter wrote")
        parser.add_argument("--by", choices=("words", "text", "category"), required=True)
        parser.add_argument("--about", type=int, required=True, metavar="N", help="a word in N samples weighs 1")
        parser.add_argument("--exponent", type=float, default=0.5, help="1 makes all alike (default: %(default)s)")
        parser.add_argument("--repeats", type=float, default=4.0, metavar="X", help="at most (default: %(default)s)")
        parser.add_argument(
            "--fewest", type=float, default=1.0, metavar="X", help="at least; below 1 thins (default: %(default)s)"
        )
        parser.add_argument(
            "--least", type=int, default=1, metavar="N", help="pass over words in fewer samples (default: %(default)s)"
        )
        parser.add_argument("--part", default="", metavar="NAME", help="of a mixture: the part that is weighed")
        parser.add_argument("-o", "--output", default="weights.jsonl", metavar="FILE", help="default: %(default)s")

    def run(self, args: Namespace) -> int:
        from qi_core.balancing import factors
        from qi_core.files import write_whole

        _refuse(args)
        keys, groups = _read(Path(args.manifest), args.by, args.part)
        found = factors(
            groups,
            args.about,
            exponent=args.exponent,
            repeats=args.repeats,
            fewest=args.fewest,
            least=args.least,
        )
        lines = (json.dumps({"key": key, "weight": weight}) + "\n" for key, weight in zip(keys, found, strict=True))
        write_whole(Path(args.output), "".join(lines).encode())
        _table(args.by, groups, found)
        most, total = sum(weight == args.repeats for weight in found), sum(found)
        print(
            f"{args.output}: an epoch draws {total:,.0f} samples of {len(keys):,}; {most:,} come {args.repeats:g} times"
        )
        return 0


def _refuse(args: Namespace) -> None:
    """Raises QiError for what is no wish that can be met."""
    from qi_core.repeats import LARGEST, LEAST

    for name in ("about", "least"):
        if getattr(args, name) < 1:
            raise QiError(f"--{name} {getattr(args, name)}: at least 1 was wanted")
    if not 0 <= args.exponent <= 1:
        raise QiError(f"--exponent {args.exponent:g}: 0 to 1 was wanted")
    if not LEAST <= args.fewest <= args.repeats <= LARGEST:
        raise QiError(
            f"--fewest {args.fewest:g} --repeats {args.repeats:g}: wanted {LEAST:g} to {LARGEST:g}, and the latter not "
            "below the former"
        )


def _read(path: Path, by: str, part: str) -> tuple[list[str], list[frozenset[str]]]:
    """Keys as the source has them, and words, of the samples that filters keep. Raises QiError if there are none."""
    from qi_core.balancing import words_of
    from qi_core.manifest import read
    from qi_core.quotes import quoted

    def words(row: Row) -> frozenset[str]:
        if by == "category":
            return frozenset([row.category or "(none)"])
        return words_of(" ".join(quoted(row.caption)) if by == "text" else row.caption)

    start = f"{part}/" if part else ""
    kept = [row for row in read(path)[1] if not row.lost and not row.reasons]
    rows = [row for row in kept if row.key.startswith(start)]
    if not rows:
        seen = f"none of {len(kept):,} is of the part {part!r} (such as {kept[0].key!r})" if kept else "there are none"
        raise QiError(f"{path}: wanted samples that filters keep; {seen}")
    groups = [words(row) for row in rows]
    if by == "category" and not any(row.category for row in rows):
        raise QiError(f"{path}: no sample has a category; wanted some; use a source that knows them")
    if not any(groups):
        what = "quotes a text" if by == "text" else "has a word"
        raise QiError(f"{path}: no caption {what}; wanted some that do, or another --by")
    return [row.key.removeprefix(start) for row in rows], groups


def _table(by: str, groups: Sequence[frozenset[str]], weights: Sequence[float], shown: int = 8) -> None:
    """The most frequent words and the rarest, and how often each comes in an epoch."""
    from qi_core.balancing import counts_of
    from qi_registry.tables import print_table, printable

    before, after = counts_of(groups), defaultdict[str, float](float)
    for words, weight in zip(groups, weights, strict=True):
        for word in words:
            after[word] += weight

    def rows(names: Iterable[tuple[str, int]]) -> list[tuple[str, ...]]:
        return [
            (printable(name), f"{count:,}", f"{after[name]:,.1f}", f"{after[name] / count:.2f}")
            for name, count in names
        ]

    ranked = sorted(before.items(), key=lambda each: (-each[1], each[0]))
    between = [("...", "", "", "")] if len(ranked) > 2 * shown else []
    ends = rows(ranked[:shown]) + between + rows(ranked[max(shown, len(ranked) - shown) :])
    print_table((by, "samples", "draws an epoch", "times"), ends)
