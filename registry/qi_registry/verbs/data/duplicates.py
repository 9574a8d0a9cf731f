"""qi data duplicates"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from qi_core.errors import QiError

if TYPE_CHECKING:
    from qi_core.manifest import Row


class Duplicates:
    """Find pictures that are nearly the same: qi data duplicates MANIFEST, or RECIPE, lists keys to leave out.

    By perceptual hashes (pHash, 64 bits), so that copies that were scaled, compressed or lightly retouched are found,
    and crops or mirror images are not. Of each group the one that no filter refuses, and of these the one with the most
    pixels, then bytes, is kept. The list takes effect by a filter: [[data.filters]] name = "listed", path = "..."
    """

    def configure(self, parser: ArgumentParser) -> None:
        parser.add_argument("data", help="a manifest that qi data filter wrote, or a recipe, whose manifest is made")
        parser.add_argument("-o", "--output", default="duplicates.jsonl", metavar="FILE", help="default: %(default)s")
        parser.add_argument(
            "--distance", type=int, default=4, metavar="BITS", help="of 64 that may differ (default: %(default)s)"
        )
        parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of a recipe; repeatable")
        parser.add_argument("--manifest", default="manifest.jsonl", metavar="FILE", help="of a recipe (%(default)s)")
        parser.add_argument("--processes", type=int, default=0, metavar="N", help="for a recipe; default: all")
        parser.add_argument("--samples", type=int, default=0, metavar="N", help="of a recipe, at most")

    def run(self, args: Namespace) -> int:
        from qi_core.files import write_whole
        from qi_core.manifest import read
        from qi_core.neighbours import FARTHEST, kept_of
        from qi_registry.tables import printable

        if not 0 <= args.distance <= FARTHEST:
            raise QiError(f"--distance {args.distance}: wanted 0 to {FARTHEST} bits; 4 finds copies, 8 look-alikes too")
        path = manifest_of(args)
        rows = [row for row in read(path)[1] if not row.lost]
        hashed = [row for row in rows if row.hash]
        if rows and not hashed:
            raise QiError(
                f"{path}: no sample has a hash; wanted a manifest made with imagehash; pip install 'qi[data]' and make "
                "it again"
            )
        dropped = kept_of([int(row.hash, 16) for row in hashed], [_rank(row) for row in hashed], args.distance)
        lines = [
            json.dumps({"key": hashed[number].key, "of": hashed[best].key, "distance": bits})
            for number, (best, bits) in sorted(dropped.items())
        ]
        write_whole(Path(args.output), "".join(line + "\n" for line in lines).encode())
        print(f"{args.output}: {len(lines):,} of {len(rows):,} samples are near-duplicates of one that is kept")
        for line in lines[:5]:
            told = json.loads(line)
            print(printable(f"  {told['key']} of {told['of']} ({told['distance']} bits)"))
        return 0


def manifest_of(args: Namespace) -> Path:
    """The manifest that is given, or that of the recipe that is given, made here."""
    from qi_core.manifest import is_manifest
    from qi_registry.verbs.data.filter import judge

    path = Path(args.data)
    if path.is_file() and is_manifest(path):
        return path
    asked = Namespace(
        recipe=args.data, set=args.set, output=args.manifest, processes=args.processes, samples=args.samples
    )
    return judge(asked)


def _rank(row: Row) -> tuple[int, ...]:
    """The lowest is kept; equal ones in the order of the manifest."""
    return (int(bool(row.reasons)), -row.pixels, -row.bytes)
