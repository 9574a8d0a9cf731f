"""Verbs that a plugin adds to the command ``qi``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Protocol


class Command(Protocol):
    """One verb. Its docstring's first line stands in ``qi --help``."""

    def configure(self, parser: ArgumentParser) -> None:
        """Add arguments."""
        ...

    def run(self, args: Namespace) -> int:
        """Do it; the exit code. Raise QiError for mistakes of the user's."""
        ...
