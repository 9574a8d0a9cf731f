"""How long the command takes to start: ``qi --help``, ``qi list``, ``qi check`` beside a bare interpreter.

    python benchmarks/startup.py [--rounds 20] [--recipe recipes/pretrain.toml] [--json FILE]

The commands take turns; medians are told. CPU seconds are those of the started process.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from attrs import asdict
from common import Timing, median, table, write

AIM = 0.15
"""Seconds for ``qi --help``."""


def start(command: list[str]) -> Timing:
    """Run a command to its end. A command that fails ends the benchmark: its time would mean nothing."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - began
    if process.returncode:
        sys.exit(f"{' '.join(command)}: exit code {process.returncode}")
    return Timing(wall=wall, cpu=used.ru_utime + used.ru_stime)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--recipe", default="recipes/pretrain.toml", help="what qi check reads")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    args = parser.parse_args()
    qi = str(Path(sys.executable).with_name("qi"))
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "qi --help": [qi, "--help"],
        "qi list": [qi, "list"],
        f"qi check {Path(args.recipe).name}": [qi, "check", args.recipe],
        "python -c 'import torch'": [sys.executable, "-c", "import torch"],
    }
    taken: dict[str, list[Timing]] = {name: [] for name in commands}
    for counted in range(-1, args.rounds):  # the first round fills the disk's cache
        for name, command in commands.items():
            timing = start(command)
            if counted >= 0:
                taken[name].append(timing)
    middle = {name: median(times) for name, times in taken.items()}
    table(
        "Start of the command, seconds",
        ("", "CPU", "wall", "quickest wall", "aim (wall)"),
        (
            (
                name,
                f"{each.cpu:.3f}",
                f"{each.wall:.3f}",
                f"{min(t.wall for t in taken[name]):.3f}",
                f"<= {AIM}" if name == "qi --help" else "",
            )
            for name, each in middle.items()
        ),
        caption=f"medians of {args.rounds}",
    )
    write(
        args.json,
        {
            "rounds": args.rounds,
            "aim": AIM,
            "median": {name: asdict(each) for name, each in middle.items()},
            "quickest_wall": {name: min(t.wall for t in times) for name, times in taken.items()},
        },
    )


if __name__ == "__main__":
    main()
