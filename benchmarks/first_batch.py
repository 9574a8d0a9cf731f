"""How soon a run on many small pictures has its first batch, and what it costs to plan one of a billion samples.

    python benchmarks/first_batch.py [--pictures 100000] [--rounds 3] [--json FILE]

The pictures lie in a folder (hard links to a hundred files of 64 x 64 pixels, a caption each, a thousand to a
subfolder). Each start is a process of its own; what Python and torch take to load is not counted. Listed: files are
listed, and each sample is judged when it is drawn, as by default above 20 000. Opened: captions and headers of all are
read first (checked = "start").
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from attrs import asdict
from common import Timing, median, table, write

AIM, PLAN_AIM, MEMORY_AIM = 10.0, 0.005, 300
"""Seconds to the first batch; seconds of a plan of 512; MB of its process beside what it had loaded."""
START = """
import sys, tempfile, time
from pathlib import Path
import torch
from qi_core.place import Place
from qi_plugins.source_images.images import Images
with tempfile.TemporaryDirectory() as run:
    wall, cpu = time.perf_counter(), time.process_time()
    place = Place(device=torch.device("cpu"), dtype=torch.float32, seed=0, folder=Path(run))
    live = Images(path=sys.argv[1], checked=sys.argv[2], side=64).build(place, 16)
    assert len(live.draw(64)) == 64
    print([time.perf_counter() - wall, time.process_time() - cpu])
"""
PLAN = """
import sys, time
from collections.abc import Sequence
from pathlib import Path
from qi_core.shuffling import Deck, Fingerprint
class Numbers(Sequence):
    def __len__(self): return 10**9
    def __getitem__(self, number): return number
def memory(): return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6
before = memory()
deck = Deck(where="", entries=Numbers(), fingerprint=Fingerprint(keys="", contents=""), seed=0, changed="refuse")
wall, cpu = time.perf_counter(), time.process_time()
for _ in range(200): deck.plan(512)
print([(time.perf_counter() - wall) / 200, (time.process_time() - cpu) / 200, memory() - before])
"""


def fill(root: Path, count: int) -> None:
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    (root / "few").mkdir()
    for number in range(100):
        pixels = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "few" / f"{number}.png")
        (root / "few" / f"{number}.txt").write_text(f"noise number {number}")
    for number in range(count):
        folder = root / "many" / f"{number // 1000:04}"
        if number % 1000 == 0:
            folder.mkdir(parents=True)
        for kind in ("png", "txt"):
            os.link(root / "few" / f"{number % 100}.{kind}", folder / f"{number:07}.{kind}")


def told(*command: str) -> list[float]:
    done = subprocess.run([sys.executable, "-c", *command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return [float(figure) for figure in json.loads(done.stdout)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    args = parser.parse_args()
    taken: dict[str, list[Timing]] = {"listed": [], "opened": []}
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder), args.pictures)
        for _ in range(args.rounds):
            for name, checked in (("listed", "drawn"), ("opened", "start")):
                taken[name].append(Timing(*told(START, f"{folder}/many", checked)))
    middle = {name: median(times) for name, times in taken.items()}
    wall, cpu, memory = told(PLAN)
    table(
        f"First batch of 64 from {args.pictures} pictures, seconds",
        ("", "CPU", "wall", "aim (wall)"),
        (
            (name, f"{each.cpu:.2f}", f"{each.wall:.2f}", f"<= {AIM:g}" if name == "listed" else "")
            for name, each in middle.items()
        ),
        caption=f"medians of {args.rounds}",
    )
    table(
        "A plan of 512 from a billion samples",
        ("", "found", "aim"),
        (
            ("CPU, ms", f"{cpu * 1e3:.2f}", f"<= {PLAN_AIM * 1e3:g}"),
            ("wall, ms", f"{wall * 1e3:.2f}", ""),
            ("memory, MB", f"{memory:.1f}", f"<= {MEMORY_AIM}"),
        ),
    )
    write(
        args.json,
        {
            "pictures": args.pictures,
            "rounds": args.rounds,
            "median": {name: asdict(each) for name, each in middle.items()},
            "plan": {"cpu": cpu, "wall": wall, "memory_mb": memory},
        },
    )


if __name__ == "__main__":
    main()
