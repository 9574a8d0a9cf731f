"""Errors that a person reads: one line each, with what was found, what was wanted and what to do."""

from __future__ import annotations

from collections.abc import Iterable


class QiError(Exception):
    """A mistake of the user's or of the world's, not of the program's.

    The command prints the message alone (no traceback) and exits with 2. Write it as
    ``where: what was found; what was wanted; what to do``.
    """

    code = 2
    """With which the command exits."""


class LostError(QiError):
    """Other ranks are gone, or did not come: no mistake of anybody's, and another attempt may go well."""

    code = 1


class RecipeError(QiError):
    """Every mistake of one recipe at once, a line each."""

    def __init__(self, mistakes: Iterable[str]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(self.mistakes))
