"""qi set"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path


class Set:
    """Change a run that is going on, at its next step: data, mixture, filters, learning rate, sampler, previews.

    curriculum=next begins its next stage.
    """

    def configure(self, parser: ArgumentParser) -> None:
        parser.add_argument("run", help="the folder of the run")
        parser.add_argument("setting", help="a line of TOML, as with --set: data.mixture.synthetic=0.3")
        parser.add_argument("--wait", type=float, default=60, metavar="SECONDS", help="patience for the run's answer")

    def run(self, args: Namespace) -> int:
        from qi_core.errors import QiError
        from qi_core.files import is_locked
        from qi_core.live import Channel
        from qi_registry.changer import refuse_if_fixed
        from qi_registry.changes import apply_setting
        from qi_registry.runs import read_run_now

        folder = Path(args.run)
        refuse_if_fixed(args.setting)
        recipe = read_run_now(folder)
        if recipe.curriculum is None:  # else only the run knows what is in effect
            apply_setting(recipe, args.setting)  # mistakes are told here, before the run is bothered
        if not is_locked(folder):
            raise QiError(f"{folder}: no run is going on there; resume it with 'qi run {folder} --set {args.setting}'")
        step = Channel(folder).ask(args.setting, args.wait)
        print(f"{args.setting}: in effect after step {step}")
        return 0
