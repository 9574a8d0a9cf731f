"""qi check"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any


class Check:
    """Read a recipe: print what it comes to, or every mistake with its line."""

    def configure(self, parser: ArgumentParser) -> None:
        parser.add_argument("recipe", help="a TOML file, or a recipe that comes with qi: recipes/pretrain.toml")
        parser.add_argument(
            "--set", action="append", default=[], metavar="KEY=VALUE", dest="sets", help="a line of TOML laid on top"
        )
        parser.add_argument("--resolved", action="store_true", help="print the whole recipe, every default filled in")

    def run(self, args: Namespace) -> int:
        import attrs

        from qi_registry.kinds import SECTIONS
        from qi_registry.reader import read
        from qi_registry.recipe import Recipe, to_toml
        from qi_registry.registry import installed

        recipe = read(args.recipe, args.sets)
        if args.resolved:
            print(to_toml(recipe), end="")
            return 0
        print(f"{args.recipe}: no mistakes; what differs from the defaults stands in brackets")
        for field in attrs.fields(Recipe):
            value = getattr(recipe, field.name)
            if value is None:
                text = "none"
            elif kind := SECTIONS.get(field.name):
                parts = value if kind.many else (value,)
                text = ", ".join(f"{installed().name_of(part, kind)} {_own(part)}".strip() for part in parts) or "none"
            elif field.name == "folder":
                text = str(recipe.path)
            else:
                text = (_own(value) or "defaults") if attrs.has(type(value)) else value or "none"
            print(f"  {field.name:<12} {text}")
        return 0


def _own(record: Any) -> str:
    """The settings that differ from their defaults."""
    from qi_registry.describe import fields
    from qi_registry.mistakes import show

    told = [
        f"{field.name} = {show(getattr(record, field.name))}"
        for field in fields(type(record))
        if getattr(record, field.name) != field.default
    ]
    return f"[{', '.join(told)}]" if told else ""
