"""Verbs that stand under another: ``qi data lint``, ``qi bench checkpointing``."""

from __future__ import annotations

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Mapping
from importlib import import_module
from inspect import cleandoc
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from qi_core.command import Command


def configure(parser: ArgumentParser, verbs: Mapping[str, str], dest: str, metavar: str) -> None:
    """``verbs``: name -> module:class, each a ``qi_core.command.Command``. Which one was named is kept as ``dest``."""
    names = parser.add_subparsers(dest=dest, metavar=metavar)
    for name in verbs:
        verb = found(verbs, name)
        own = names.add_parser(
            name,
            help=first_line(verb).replace("%", "%%"),
            description=cleandoc(verb.__doc__ or ""),
            formatter_class=RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        verb().configure(own)


def found(verbs: Mapping[str, str], name: str) -> type[Command]:
    """One of them by its name."""
    module, own = verbs[name].split(":")
    return cast("type[Command]", getattr(import_module(module), own))


def first_line(verb: type[Command]) -> str:
    """What it is for."""
    return cleandoc(verb.__doc__ or "").partition("\n")[0]
