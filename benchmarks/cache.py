"""The cache on this disk: what a shard costs to write and to read, beside the disk itself and beside other formats.

    python benchmarks/cache.py [--samples 192] [--rows 10000000] [--folder DIR] [--rounds 5] [--json FILE]

A sample is a picture of 1328 pixels as the released VAE gives it ((6889, 64) bf16, 0.88 MB) and a caption of 200 tokens
((200, 3584) bf16, 1.43 MB). Batches are of 16 random samples: out of the system's memory, which has them once the first
round has read them, and from the disk, where the system was told to forget them before each turn. The disk is flushed
after every write. Ways take turns, medians are told, CPU seconds are of all threads.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from attrs import asdict
from common import Clock, Timing, in_turn, machine, median, table, write
from safetensors import safe_open
from safetensors.torch import save_file

from qi_core.cache.index import ROW, Entry, Run, write_run
from qi_core.cache.manifest import Form, Shard
from qi_core.cache.settings import CacheSettings
from qi_core.cache.shards import DATA, Reader, Span, Writer, place
from qi_core.cache.shelf import Shelf
from qi_core.checksum import checksum

LATENTS = Form(kind="latents", encoder="0" * 32, bucket=(1, 83, 83), dtype="BF16", width=64)
TEXT = Form(kind="text", encoder="0" * 32, bucket=(0, 0, 0), dtype="BF16", width=3584)
PARTS = {"latents": (LATENTS, (1, 83, 83), 83 * 83 * 64 * 2), "text": (TEXT, (1, 1, 200), 200 * 3584 * 2)}
SAMPLE = sum(size for _, _, size in PARTS.values())
BATCH = 16
READ_AIM, WRITE_AIM = 1.1, 1.3
"""Times what the system's calls alone take for the same bytes, which check nothing."""


def id_of(kind: str, number: int) -> bytes:
    """Of an entry."""
    return blake2b(f"{kind} {number}".encode(), digest_size=16).digest()


class Bench:
    """Samples, and a folder to keep them in by all the ways."""

    def __init__(self, folder: Path, samples: int) -> None:
        self.folder, self.samples = folder, samples
        random_ = np.random.default_rng(0)
        # Values between -1 and 1, as bf16 has them: none is NaN, and no format could make them smaller.
        self.parts = {
            kind: [
                torch.from_numpy(random_.random(size // 2, dtype=np.float32) * 2 - 1).bfloat16() for _ in range(samples)
            ]
            for kind, (_, _, size) in PARTS.items()
        }
        self.bytes = samples * SAMPLE
        self.turn = 0

    def view(self, kind: str, number: int) -> memoryview:
        """The bytes of an entry."""
        return memoryview(self.parts[kind][number].view(torch.uint8).numpy())  # type: ignore[arg-type]

    def fresh(self) -> Path:
        """A name that isn't taken."""
        self.turn += 1
        return self.folder / f"file-{self.turn}"

    # --- writing

    def write_raw(self) -> None:
        """What the disk and the system take for the same bytes."""
        path = self.fresh()
        with path.open("xb", buffering=0) as file:
            for kind in PARTS:
                for number in range(self.samples):
                    view = self.view(kind, number)
                    while view:
                        view = view[file.write(view) :]
            os.fsync(file.fileno())
        path.unlink()

    def write_shards(self) -> None:
        """Streamed, with checksums and index, flushed and published."""
        folder = self.fresh()
        folder.mkdir()
        self.shards(folder)
        shutil.rmtree(folder)

    def shards(self, folder: Path) -> dict[str, Shard]:
        """Both kinds, in a file each."""
        made: dict[str, Shard] = {}
        for kind, (form, grid, _) in PARTS.items():
            writer = Writer(folder, form)
            for number in range(self.samples):
                writer.add(id_of(kind, number), grid, self.view(kind, number))
            made[kind], index = writer.finish()
            place(made[kind], writer.path, index, folder)
            writer.close()
        return made

    def write_stock(self) -> None:
        """All of it in memory, by the safetensors package."""
        path = self.fresh()
        save_file({f"{kind} {n}": own[n] for kind, own in self.parts.items() for n in range(self.samples)}, path)
        with path.open("rb+") as file:
            os.fsync(file.fileno())
        path.unlink()

    # --- reading

    def prepare(self) -> None:
        """The same samples by every way."""
        self.shelf = Shelf(CacheSettings(path=self.folder / "cache"), print)
        for kind, (form, grid, _) in PARTS.items():
            for number in range(self.samples):
                self.shelf.put(form, id_of(kind, number), grid, self.view(kind, number))
        self.shelf.flush()
        own = self.folder / "shards"
        own.mkdir()
        self.made = self.shards(own)
        self.reader = Reader(own)
        self.raw, self.told = (
            {kind: os.open(own / f"{shard.name}{DATA}", os.O_RDONLY) for kind, shard in self.made.items()}
            for _ in range(2)
        )
        if hasattr(os, "posix_fadvise"):
            for descriptor in self.told.values():
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        save_file(
            {f"{kind} {n}": own[n] for kind, own in self.parts.items() for n in range(self.samples)},
            self.folder / "stock.safetensors",
        )
        with tarfile.open(self.folder / "samples.tar", "w") as tar:
            for number in range(self.samples):
                sample = {kind: own[number] for kind, own in self.parts.items()}
                torch.save(sample, self.folder / f"{number}.pt")
                buffer = io.BytesIO()
                torch.save(sample, buffer)
                about = tarfile.TarInfo(f"{number:06d}.pth")
                about.size = len(buffer.getvalue())
                tar.addfile(about, io.BytesIO(buffer.getvalue()))
        self.entries = {
            (kind, n): Entry(b"", "", 4096 + n * size, size, checksum(self.view(kind, n)), grid, 0)
            for kind, (_, grid, size) in PARTS.items()
            for n in range(self.samples)
        }
        self.buffer = torch.empty(BATCH * SAMPLE, dtype=torch.uint8)

    def places(self, which: Sequence[int]) -> list[tuple[str, int, memoryview]]:
        """For each entry of a batch: kind, number, and its place in the consumer's buffer."""
        whole, at = memoryview(self.buffer.numpy()), 0  # type: ignore[arg-type]
        found: list[tuple[str, int, memoryview]] = []
        for kind, (_, _, size) in PARTS.items():
            for number in which:
                found.append((kind, number, whole[at : at + size]))
                at += size
        return found

    def read_raw(self, which: Sequence[int], check: bool = False, told: bool = False) -> None:
        """preadv of the same bytes into the same buffer. ``told``: as of shards, the system need not read ahead."""
        files = self.told if told else self.raw
        for kind, number, view in self.places(which):
            if os.preadv(files[kind], [view], 4096 + number * PARTS[kind][2]) != len(view):
                raise EOFError
            if check and checksum(view) != self.entries[kind, number].sum:
                raise EOFError

    def read_raw_checked(self, which: Sequence[int]) -> None:
        """And the checksum of each."""
        self.read_raw(which, check=True)

    def read_raw_told(self, which: Sequence[int]) -> None:
        """Without readahead."""
        self.read_raw(which, told=True)

    def forget(self) -> None:
        """What the system has in its memory of shards."""
        for path in self.folder.rglob(f"*{DATA}"):
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)

    def read_shards(self, which: Sequence[int]) -> None:
        """By entries that are known, with their checksums."""
        spans: dict[str, list[Span]] = {kind: [] for kind in PARTS}
        for kind, number, view in self.places(which):
            spans[kind].append((self.entries[kind, number], view))
        for kind, own in spans.items():
            if not all(self.reader.read(self.made[kind], own)):
                raise EOFError

    def read_cache(self, which: Sequence[int]) -> None:
        """From ids: found, read, checked."""
        places = self.places(which)
        hits = [hit for hit in self.shelf.find([id_of(kind, n) for kind, n, _ in places]) if hit is not None]
        if not all(self.shelf.read(hits, [view for _, _, view in places])):
            raise EOFError

    def read_stock(self, which: Sequence[int]) -> None:
        """safetensors.safe_open, and into the buffer."""
        with safe_open(self.folder / "stock.safetensors", framework="pt") as file:
            self.fill([file.get_tensor(f"{kind} {n}") for kind in PARTS for n in which])

    def read_pt(self, which: Sequence[int]) -> None:
        """A file of torch.save a sample."""
        loaded = [torch.load(self.folder / f"{n}.pt", weights_only=True) for n in which]
        self.fill([sample[kind] for kind in PARTS for sample in loaded])

    def read_tar(self, which: Sequence[int]) -> None:
        """webdataset: in the tar's order, for it has no other."""
        import webdataset

        samples = webdataset.WebDataset(str(self.folder / "samples.tar"), shardshuffle=False, empty_check=False)
        taken = samples.decode().slice(len(which))
        loaded = [sample["pth"] for sample in taken]
        self.fill([sample[kind] for kind in PARTS for sample in loaded])

    def fill(self, tensors: Sequence[torch.Tensor]) -> None:
        """Into the consumer's buffer."""
        at = 0
        for tensor in tensors:
            self.buffer[at : at + tensor.nbytes] = tensor.view(-1).view(torch.uint8)
            at += tensor.nbytes


def lookups(folder: Path, count: int) -> dict[str, float]:
    """Many rows: microseconds a look-up, and megabytes that the process grows by."""
    path = folder / "many.index"
    step = np.uint64((1 << 64) // count)

    def rows() -> object:
        for start in range(0, count, 1 << 16):
            part = np.zeros(min(1 << 16, count - start), dtype=ROW)
            part["high"] = part["low"] = np.arange(start, start + len(part), dtype=np.uint64) * step
            yield part

    with path.open("wb") as file:
        write_run(file, ["0" * 40], rows())  # type: ignore[arg-type]
    before = resident()
    run, chosen = Run(path), np.random.default_rng(1)
    clock = Clock()
    for _ in range(50):
        ids = chosen.integers(0, count, 256).astype(np.uint64) * step
        run.find(ids, ids)
    spent = clock.read()
    grown = resident() - before
    run.close()
    size = path.stat().st_size
    path.unlink()
    return {"rows": count, "file_gb": size / 1e9, "microseconds": spent.cpu / 50 / 256 * 1e6, "grown_mb": grown / 1e6}


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def per_gb(timing: Timing, size: int) -> tuple[float, float]:
    """(CPU, wall) seconds a GB."""
    return timing.cpu / size * 1e9, timing.wall / size * 1e9


def show(title: str, taken: dict[str, Timing], size: int, limits: dict[str, float]) -> dict[str, dict[str, float]]:
    """A table of one comparison; the first way is what others are held against."""
    first = next(iter(taken.values()))
    rows: list[list[str]] = []
    for name, timing in taken.items():
        cpu, wall = per_gb(timing, size)
        aim = f"<= {limits[name]}" if name in limits else ""
        ratios = [f"{timing.cpu / first.cpu:.2f}", f"{timing.wall / first.wall:.2f}"]
        rows.append([name, f"{cpu:.2f}", f"{wall:.2f}", *ratios, aim])
    table(title, ("", "CPU-s/GB", "wall s/GB", "CPU, times", "wall, times", "aim"), rows)
    return {name: asdict(timing) for name, timing in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=192)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="on the disk that is meant; default: the system's temporary folder")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        bench = Bench(Path(folder), args.samples)
        writes: dict[str, Callable[[], object]] = {
            "raw write, fsync": bench.write_raw,
            "shards, streamed": bench.write_shards,
            "safetensors save_file": bench.write_stock,
        }
        written = {name: median(times) for name, times in in_turn(writes, args.rounds).items()}
        shown = {"write": show("Writing", written, bench.bytes, {"shards, streamed": WRITE_AIM})}
        bench.prepare()
        dice = random.Random(0)

        def way(read: Callable[[Sequence[int]], None]) -> Callable[[], object]:
            return lambda: [read(dice.sample(range(args.samples), BATCH)) for _ in range(4)]

        reads = {
            "raw preadv": way(bench.read_raw),
            "raw preadv, then checksums": way(bench.read_raw_checked),
            "shard, checked": way(bench.read_shards),
            "cache: look-up, shard, checked": way(bench.read_cache),
            "safetensors safe_open": way(bench.read_stock),
            "a .pt file a sample": way(bench.read_pt),
            "tar, webdataset": way(bench.read_tar),
        }
        limits = {"shard, checked": READ_AIM}
        read = {name: median(times) for name, times in in_turn(reads, args.rounds, warmup=2).items()}
        title = f"Random batches of {BATCH} out of the system's memory, into the consumer's buffer"
        shown["read"] = show(title, read, 4 * BATCH * SAMPLE, limits)
        if hasattr(os, "posix_fadvise"):
            reads = {name: reads[name] for name in list(reads)[:4]} | {
                "raw preadv, no readahead": way(bench.read_raw_told)
            }
            read = {name: median(times) for name, times in in_turn(reads, args.rounds, before=bench.forget).items()}
            shown["read from disk"] = show("The same from the disk", read, 4 * BATCH * SAMPLE, limits)
        found = lookups(Path(folder), args.rows)
        table(
            "Look-ups in one index",
            ("rows", "its file, GB", "CPU-us a look-up", "memory, MB"),
            [[f"{args.rows:,}", f"{found['file_gb']:.2f}", f"{found['microseconds']:.0f}", f"{found['grown_mb']:.0f}"]],
        )
        bench.shelf.close()
    write(args.json, {"samples": args.samples, "rounds": args.rounds, "seconds": shown, "lookups": found})
    print(machine())


if __name__ == "__main__":
    main()
