"""qi reward serve"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qi_core.errors import QiError

if TYPE_CHECKING:
    from qi_core.reward import RewardComponent
    from qi_registry.recipe import Recipe

TOKEN_ENV = "QI_REWARD_TOKEN"


class Reward:
    """Serve the rewards that a recipe names to runs elsewhere: qi reward serve RECIPE.

    A run asks for them with the reward "http". Who may call is told by a token, in a file or in the environment
    variable QI_REWARD_TOKEN; without one, only this machine can. SIGINT or SIGTERM ends it.
    """

    def configure(self, parser: ArgumentParser) -> None:
        serve = parser.add_subparsers(dest="what", required=True, metavar="serve").add_parser(
            "serve", help="until it is stopped", allow_abbrev=False
        )
        serve.add_argument("recipe", help="a TOML file, or a recipe that comes with qi, whose rewards are served")
        serve.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key; repeatable")
        serve.add_argument("--only", action="append", default=[], metavar="NAME", help="not all of them; repeatable")
        serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
        serve.add_argument("--port", type=int, default=8471, help="0 takes a free one (default: %(default)s)")
        serve.add_argument("--token-file", metavar="FILE", help="who calls must send the token in it")
        serve.add_argument(
            "--max-body", type=int, default=128, metavar="MIB", help="of a request (default: %(default)s)"
        )

    def run(self, args: Namespace) -> int:
        import asyncio
        import os
        from tempfile import TemporaryDirectory

        from qi_core.calls import clean_token, read_token
        from qi_core.reward_server import Served, is_loopback, serve
        from qi_core.reward_wire import Limits
        from qi_registry.reader import read

        token = ""
        if args.token_file:
            token = read_token(Path(args.token_file))
        elif TOKEN_ENV in os.environ:
            token = clean_token(os.environ[TOKEN_ENV], TOKEN_ENV)
        if not token and not is_loopback(args.host):  # before models are loaded
            raise QiError(f"--host {args.host}: others could call without a token; give --token-file")
        if not 1 <= args.max_body <= 4096:
            raise QiError(f"--max-body {args.max_body}: wanted 1 to 4096 MiB")
        recipe = read(args.recipe, args.set)
        components = chosen(rewards_of(recipe), args.only, args.recipe)
        with TemporaryDirectory(prefix="qi-rewards-") as folder:
            place = _place(recipe, Path(folder))
            rewards = {
                name: Served(reward=component.build(place), groupwise=component.groupwise)
                for name, component in components.items()
            }

            def ready(url: str) -> None:
                print(f"{url}: {', '.join(rewards)} ({'token' if token else 'this machine only'})", flush=True)

            limits = Limits(body=args.max_body * 2**20)
            asyncio.run(serve(rewards, host=args.host, port=args.port, token=token, limits=limits, ready=ready))
        return 0


def rewards_of(recipe: Recipe) -> dict[str, RewardComponent]:
    """Those of its source and its evaluations, by the names that the recipe gives them, else by their components'."""
    from qi_registry.kinds import KINDS
    from qi_registry.registry import installed

    found: dict[str, RewardComponent] = {}
    for part in (recipe.source, *recipe.evaluation):
        for record in _records(part):
            name = getattr(record, "name", "") or installed().name_of(record.reward, KINDS["reward"])
            if found.setdefault(name, record.reward) != record.reward:
                raise QiError(f"two rewards of the recipe are called {name!r} and differ; give one another name")
    return found


def chosen(known: dict[str, RewardComponent], only: Sequence[str], recipe: str) -> dict[str, RewardComponent]:
    """Of those that a recipe has, the ones asked for; all if none is. Raises QiError where there is none."""
    from qi_registry.mistakes import did_you_mean

    if not known:
        raise QiError(f"{recipe}: has no rewards; wanted a recipe whose source or evaluation lists some")
    for name in only:
        if name not in known:
            raise QiError(
                f"--only {name}: no reward of {recipe}{did_you_mean(name, known)} (it has {', '.join(known)})"
            )
    return {name: component for name, component in known.items() if not only or name in only}


def _records(part: Any) -> Iterator[Any]:
    """Whatever in a component's settings has a reward."""
    import attrs

    from qi_registry.kinds import KINDS

    if isinstance(part, tuple | list):
        for each in part:
            yield from _records(each)
    elif attrs.has(type(part)):
        needs = KINDS["reward"].needs
        if all(hasattr(getattr(part, "reward", None), need) for need in needs):
            yield part
            return
        for field in attrs.fields(type(part)):
            yield from _records(getattr(part, field.name))


def _place(recipe: Recipe, folder: Path) -> Any:
    from qi_core.place import Place
    from qi_registry.assemble import alone

    strategy = alone(recipe.parallel).build()
    return Place(device=strategy.device, dtype=strategy.dtype, seed=recipe.train.seed, folder=folder)
