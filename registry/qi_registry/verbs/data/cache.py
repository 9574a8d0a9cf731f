"""qi data cache"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path


class Cache:
    """Show what a cache of latents and text holds: qi data cache FOLDER; --verify reads and checks every byte.

    A row for each kind and encoder. What --verify finds damaged is set aside, as a run would do, and encoded again when
    it is wanted; the command then exits with 1.
    """

    def configure(self, parser: ArgumentParser) -> None:
        parser.add_argument("folder", help="data.cache.path of a recipe")
        parser.add_argument("--verify", action="store_true", help="read all shards and compare their checksums")

    def run(self, args: Namespace) -> int:
        from qi_core.cache.inspecting import contents, verify
        from qi_registry.tables import print_table

        folder = Path(args.folder).expanduser()
        rows = [
            (
                part.kind,
                part.encoder[:8],
                part.dtype,
                f"{len(part.shards):,}",
                f"{part.buckets:,}",
                f"{part.entries:,}",
                f"{part.bytes / 1e9:.3g}",
            )
            for part in contents(folder, print)
        ]
        print_table(("kind", "encoder", "dtype", "shards", "buckets", "entries", "GB"), rows)
        if not args.verify:
            return 0
        counts = verify(folder, print)
        bad = counts.get("shards spoiled", 0) + counts.get("shards missing", 0)
        print(f"whole shards: {counts.get('shards whole', 0):,}; damaged and set aside: {bad:,}")
        return 1 if bad else 0
