"""qi set"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path


class Set:
    """Change a run that is going on, at its next step: sampler, learning rate, previews, guidance."""

    def configure(self, parser: ArgumentParser) -> None:
        parser.add_argument("run", help="the folder of the run")
        parser.add_argument("setting", help="a line of TOML, as with --set: sampler=heun, optimizer.lr=1e-4")
        parser.add_argument("--wait", type=float, default=60, metavar="SECONDS", help="patience for the run's answer")

    def run(self, args: Namespace) -> int:
        from qi_core.errors import QiError
        from qi_core.files import is_locked
        from qi_core.live import Channel
        from qi_registry.assemble import refuse_if_fixed
        from qi_registry.changes import apply_setting
        from qi_registry.runs import read_run_now

        folder = Path(args.run)
        refuse_if_fixed(args.setting)
        apply_setting(read_run_now(folder), args.setting)  # mistakes are told here, before the run is bothered
        if not is_locked(folder):
            raise QiError(f"{folder}: no run is going on there; resume it with 'qi run {folder} --set {args.setting}'")
        step = Channel(folder).ask(args.setting, args.wait)
        print(f"{args.setting}: in effect after step {step}")
        return 0
