"""The live sources: everything of the n-th sample follows from (settings, seed, n)."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import numpy as np
import torch
from attrs import define, field

from qi_core import Place, QiError, Sample, Samples, Ticket, material, typeface
from qi_core.drawing import Passed, drawn
from qi_core.sizes import Size, shaped
from qi_core.skipped import Skipped
from qi_core.strings import lines_of, read_lines
from qi_plugins.source_synthetic.component import ComposedText, Synthetic, Templates
from qi_plugins.source_synthetic.painted import Painter
from qi_plugins.source_synthetic.photos import Photos
from qi_plugins.source_synthetic.vocabulary import vocabularies


@define(kw_only=True, eq=False)
class SyntheticSource:
    """A live ``composed-text`` or ``templates``. A ticket is (n, attempt)."""

    settings: Synthetic
    seed: int
    painter: Painter
    skipped: Counter[str]
    passed: Passed
    material: dict[str, str]
    """See ``made_of``."""
    gives: type[Samples] = field(default=Samples, init=False)
    _n: int = 0

    def plan(self, count: int) -> list[Ticket]:
        """See ``Planned.plan``."""
        self._n += count
        return [(n, 0) for n in range(self._n - count, self._n)]

    def cost(self, ticket: Ticket) -> int:
        size = self.painter.size(self._dice(ticket, "form"))
        return size.height * size.width

    def called(self, ticket: Ticket) -> str:
        n, attempt = ticket
        return f"{self.settings.split}-{n}" + (f"-{attempt}" if attempt else "")

    def make(self, ticket: Ticket) -> Sample:
        n, attempt = ticket
        painted = self.painter.paint(-1 if attempt else n, self._dice(ticket, "form"), self._dice(ticket, "rest"))
        pixels = np.asarray(painted.picture).transpose(2, 0, 1)
        return Sample(
            key=self.called(ticket),
            prompt=painted.prompt,
            image=torch.from_numpy(np.ascontiguousarray(pixels)),
            text=painted.text,
            category=painted.category,
        )

    def other(self, ticket: Ticket, attempt: int) -> Ticket:
        return ticket[0], ticket[1] + attempt

    def draw(self, count: int) -> Samples:
        """See ``Source.draw``."""
        return drawn(self, count, self.passed)  # type: ignore[no-any-return]

    def made_of(self) -> dict[str, str]:
        """See ``qi_core.source.OfFiles``."""
        return self.material

    def state_dict(self) -> dict[str, Any]:
        return {"n": self._n, "files": self.material}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position. Raises QiError if the files are not what they were and ``changed`` refuses that."""
        material.unchanged(state.get("files"), self.material, self.settings.changed)
        self._n = int(state["n"])

    def report(self) -> dict[str, int]:
        return dict(self.skipped + self.passed.counts)

    def _dice(self, ticket: Ticket, what: str) -> Random:
        n, attempt = ticket
        return Random(f"{self.seed}/{self.settings.split}/{n}/{attempt}/{what}")


def composed(settings: ComposedText, place: Place, multiple: int) -> SyntheticSource:
    """Raises QiError where fonts, files or folders don't fit the settings."""
    from qi_plugins.source_synthetic.scene import Scenes

    skipped: Counter[str] = Counter()
    photos = None
    if settings.backgrounds is not None:
        photos = Photos.of(settings.backgrounds, settings.max_pixels, "backgrounds")
    if photos is not None and settings.things == ("wall",) and settings.computed < 1:
        raise QiError(
            "composed-text: things = ['wall'] with 'backgrounds': letters on the ground itself need a computed one; "
            "name other things too, or leave backgrounds out"
        )
    lines = _lines(settings)
    painter = Scenes(
        settings=settings,
        vocabularies=vocabularies(settings, place.seed, skipped, lines, forms=False),
        sizes=_sizes(settings, multiple),
        photos=photos,
    )
    folders = {f"backgrounds = '{settings.backgrounds}'": photos.found.digest} if photos else {}
    return _source(settings, place, "composed-text", painter, skipped, lines, folders)


def templated(settings: Templates, place: Place, multiple: int) -> SyntheticSource:
    """Raises QiError where fonts, files or folders don't fit the settings, or a template is wrong."""
    from qi_plugins.source_synthetic.filling import Forms
    from qi_plugins.source_synthetic.template import chosen, own_templates

    skipped: Counter[str] = Counter()
    lines = _lines(settings)
    own = {} if settings.folder is None else own_templates(settings.folder)
    photos = None if settings.pictures is None else Photos.of(settings.pictures, settings.max_pixels, "pictures")
    painter = Forms(
        vocabularies=vocabularies(settings, place.seed, skipped, lines),
        choices=chosen(settings, own, _sizes(settings, multiple), skipped),
        photos=photos,
        skipped=skipped,
    )
    folders = {f"pictures = '{settings.pictures}'": photos.found.digest} if photos else {}
    if own:
        folders[f"folder = '{settings.folder}'"] = material.digest(f"{name} {one!r}" for name, one in own.items())
    return _source(settings, place, "templates", painter, skipped, lines, folders)


def _source(
    settings: Synthetic,
    place: Place,
    name: str,
    painter: Painter,
    skipped: Counter[str],
    lines: list[str],
    folders: dict[str, str],
) -> SyntheticSource:
    text = {lines_of(settings.text): material.digest(lines)} if settings.text is not None else {}
    return SyntheticSource(
        settings=settings,
        seed=place.seed,
        painter=painter,
        skipped=skipped,
        passed=Passed(Skipped(place.folder, name)),
        material={**text, **typeface.told(settings.fonts), **folders},
    )


def _lines(settings: Synthetic) -> list[str]:
    """Of its file, if it names one."""
    return [] if settings.text is None else read_lines(settings.text)


def _sizes(settings: Synthetic, multiple: int) -> tuple[Size, ...]:
    return tuple(shaped(ratio, settings.side**2, multiple) for ratio in settings.ratios)
