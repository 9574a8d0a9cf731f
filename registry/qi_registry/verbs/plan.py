"""qi plan"""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

N = TypeVar("N", int, float)


class Plan:
    """Tell before a launch what a recipe needs: memory of a GPU, time of a step, what to change if it does not fit.

    No GPU is needed and nothing is built. Several numbers of GPUs, cards or sizes (8,64 or h100,h200), or --sweep, give
    a table of the best layouts, with the --set that makes each. docs/plan.md tells what is counted.
    """

    def configure(self, parser: ArgumentParser) -> None:
        whole = numbers(int, "whole numbers above 0")
        parser.add_argument(
            "recipe", help="a TOML file, a recipe that comes with qi (recipes/sft_images.toml), or the folder of a run"
        )
        parser.add_argument(
            "--set", action="append", default=[], metavar="KEY=VALUE", dest="sets", help="a line of TOML laid on top"
        )
        parser.add_argument("--gpus", type=whole, metavar="N,...", help="how many in all (default: 1, or --nodes full)")
        parser.add_argument("--nodes", type=whole, metavar="N,...", help="machines, instead of --gpus")
        parser.add_argument("--per-node", type=whole, default=[8], metavar="N", help="GPUs of a machine (default: 8)")
        parser.add_argument("--gpu", default="h100", metavar="NAME,...", help="which (default: h100)")
        parser.add_argument(
            "--pixels", type=whole, metavar="SIDE,...", help="sizes of pictures (default: the source's)"
        )
        parser.add_argument("--text", type=whole, default=[128], metavar="N", help="tokens of a caption (default: 128)")
        parser.add_argument("--references", type=int, default=0, metavar="N", help="reference pictures of a sample")
        parser.add_argument(
            "--samples", type=whole, metavar="N", help="different ones in the data, for the size of data.cache"
        )
        parser.add_argument(
            "--mfu",
            type=numbers(float, "a share of the peak, such as 0.4"),
            metavar="SHARE",
            help="measured, not modelled",
        )
        parser.add_argument("--sweep", action="store_true", help="try every strategy, degree and checkpointing")
        parser.add_argument(
            "-o",
            "--picture",
            metavar="FILE.svg",
            help="draw the stages of the recipe's curriculum: mixture, rate, shift",
        )
        parser.add_argument("--top", type=whole, default=[10], metavar="N", help="how many of them (default: 10)")

    def run(self, args: Namespace) -> int:
        from qi_core.errors import QiError
        from qi_registry import runs
        from qi_registry.planning import stages
        from qi_registry.planning.cards import find_card
        from qi_registry.planning.report import Question, answer
        from qi_registry.reader import read

        if args.gpus and args.nodes:
            raise QiError("--gpus and --nodes are two ways to say one thing; leave one out")
        per_node = args.per_node[0]
        if args.mfu and not args.mfu[0] <= 1:
            raise QiError(f"--mfu: {args.mfu[0]:g} is more than the peak; wanted a share of it, such as 0.4")
        recipe = (
            runs.read_run(Path(args.recipe), tuple(args.sets))
            if runs.is_run(args.recipe)
            else read(args.recipe, args.sets)
        )
        drawn = stages.scheme(recipe)
        if drawn is not None:
            stages.tell(drawn)
        if args.picture and drawn is None:
            raise QiError(f"--picture {args.picture}: the recipe has no [curriculum], so there are no stages to draw")
        if args.picture and drawn is not None:
            stages.draw(drawn, Path(args.picture))
        question = Question(
            where=args.recipe,
            recipe=recipe,
            gpus=tuple(args.gpus or [per_node * nodes for nodes in args.nodes or ()] or [1]),
            cards=tuple(find_card(name) for name in args.gpu.split(",")),
            per_node=per_node,
            pixels=tuple(args.pixels or (stages.all_sides(drawn) if drawn else ())),
            text=args.text[0],
            references=args.references,
            mfu=args.mfu[0] if args.mfu else None,
            top=args.top[0],
            samples=args.samples[0] if args.samples else None,
        )
        return answer(question, sweeping=args.sweep)


def numbers(kind: Callable[[str], N], wanted: str) -> Callable[[str], list[N]]:
    """A list with commas between."""

    def read(text: str) -> list[N]:
        try:
            found = [kind(part) for part in text.split(",")]
        except ValueError:
            found = []
        if not found or not all(number > 0 for number in found):
            raise ArgumentTypeError(f"{text!r}; wanted {wanted}")
        return found

    return read
