"""qi data balance"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from qi_core.errors import QiError


class Balance:
    """Thin out what is frequent: qi data balance MANIFEST --by words|category --most N lists keys to leave out.

    By words, a sample stays with the chance that its rarest word gives it, most / number of samples with it, so that
    the long tail is kept whole and what is said everywhere is thinned. By category, none keeps more than so many. What
    filters refuse is left out of the count. The list takes effect by a filter: [[data.filters]] name = "listed"
    """

    def configure(self, parser: ArgumentParser) -> None:
        parser.add_argument("manifest", help="that qi data filter wrote")
        parser.add_argument("--by", choices=("words", "category"), required=True)
        parser.add_argument("--most", type=int, required=True, metavar="N", help="samples of a word or category")
        parser.add_argument("-o", "--output", default="balance.jsonl", metavar="FILE", help="default: %(default)s")
        parser.add_argument("--seed", type=int, default=0, metavar="N", help="others stay (default: %(default)s)")

    def run(self, args: Namespace) -> int:
        from qi_core.balancing import beyond, counts_of, dropped, words_of
        from qi_core.files import write_whole
        from qi_core.manifest import read

        if args.most < 1:
            raise QiError(f"--most {args.most}: at least 1 was wanted")
        rows = [row for row in read(Path(args.manifest))[1] if not row.lost and not row.reasons]
        keys = [row.key for row in rows]
        if args.by == "category":
            if not any(row.category for row in rows):
                raise QiError(f"{args.manifest}: no sample has a category; wanted some; use a source that knows them")
            groups = [frozenset([row.category or "(none)"]) for row in rows]
            out = beyond(keys, [row.category for row in rows], args.most, args.seed)
        else:
            groups = [words_of(row.caption) for row in rows]
            out = dropped(keys, groups, args.most, args.seed)
        write_whole(Path(args.output), "".join(json.dumps({"key": keys[number]}) + "\n" for number in out).encode())
        gone = set(out)
        after = counts_of(words for number, words in enumerate(groups) if number not in gone)
        _table(args.by, counts_of(groups), after)
        print(f"{args.output}: {len(out):,} of {len(rows):,} samples that filters keep are left out")
        return 0


def _table(by: str, before: Counter[str], after: Counter[str], shown: int = 12) -> None:
    from qi_registry.tables import print_table, printable

    rows: Sequence[tuple[str, int]] = before.most_common(shown)
    print_table((by, "before", "after"), [(printable(name), f"{count:,}", f"{after[name]:,}") for name, count in rows])
    if len(before) > shown:
        print(f"and {len(before) - shown:,} more, the rarest of {before.most_common()[-1][1]:,}")
