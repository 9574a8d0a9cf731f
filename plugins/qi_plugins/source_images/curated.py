"""The component: a curated set, balanced over its categories and held to a bar of quality."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from attrs import Attribute, field, frozen, validators

from qi_core.data import Samples
from qi_core.entries import cleaned
from qi_core.place import Place
from qi_core.source import Source, SourceComponent
from qi_plugins.source_images.balance import Rule, capped, shares
from qi_plugins.source_images.images import Images
from qi_plugins.source_images.quality import Quality

if TYPE_CHECKING:
    from qi_plugins.source_images.curating import Stock


def _path(_: object, attribute: Attribute[str], value: str) -> None:
    if not value or cleaned(value) != value:
        raise ValueError(f"'{attribute.name}' is {value!r}; wanted a path such as people/portrait")


def _samples(_: object, attribute: Attribute[Any], value: SourceComponent[Any]) -> None:
    if value.gives is not Samples:
        raise ValueError(f"{type(value).__name__} gives {value.gives.__name__}; wanted a source of Samples")


def _either(instance: Curated, _: Attribute[Any], value: tuple[Category, ...]) -> None:
    if bool(value) == (instance.images is not None):
        found = "both" if value else "neither"
        raise ValueError(f"{found} of 'images' and 'categories' given; wanted files ([source.images]) or sources")
    names = [category.category for category in value]
    if twins := {name for name in names if names.count(name) > 1}:
        raise ValueError(
            f"two categories are called {min(twins)!r}; give each a path of its own, or join their sources"
        )


def _files_only(instance: Curated, attribute: Attribute[Any], value: float) -> None:
    if value != attribute.default and instance.categories:
        raise ValueError(f"'{attribute.name}' counts files, and sources have none to count; leave it out")


def _repeats(_: object, attribute: Attribute[float], value: float) -> None:
    if value and value < 1:
        raise ValueError(f"'{attribute.name}' is {value:g}; wanted at least 1, or 0 for no limit")


@frozen(kw_only=True)
class Category:
    """A category whose samples a source of its own gives."""

    category: str = field(validator=_path)
    """Its place in the hierarchy, such as people/portrait."""
    weight: float = field(default=1.0, validator=validators.gt(0))
    """Stands in for the number of its samples, which a source without an end has none of."""
    source: SourceComponent[Any] = field(validator=_samples)
    """A source: a table with its name and its keys."""


@frozen(kw_only=True)
class Curated:
    """A hierarchy of categories, balanced by rule, of pictures that are clear, rich in detail and bright.

    The data of supervised fine-tuning as the report has it (section 4). A picture below the bar is passed over when it
    is first decoded, and counted by its category and by what it lacked.
    """

    gives: ClassVar[type] = Samples

    balance: Rule
    """How siblings share: as they are many ("natural"), alike ("uniform") or by many ** ``exponent`` ("power")."""
    exponent: float = field(default=0.5, validator=[validators.ge(0), validators.le(1)])
    """Of balance = "power": 1 is natural, 0 is uniform."""
    across: Literal["levels", "categories"] = "levels"
    """Who are siblings: those under one parent, level by level, or all categories, however deep they stand."""
    images: Images | None = None
    """Files: the keys of the source ``images``. A category is the subfolder, or ``category`` ("people/portrait") in the
    JSONL or in the .json of a shard."""
    categories: tuple[Category, ...] = field(default=(), validator=_either)
    """In place of files: a source for each category."""
    repeats: float = field(default=0.0, validator=[_repeats, _files_only])
    """No category is drawn more than so many times as often as its number alone would have it, so that a handful of
    pictures is not learned by heart; what is cut off goes to the others. 0: no limit."""
    least: int = field(default=1, validator=[validators.gt(0), _files_only])
    """A category with fewer samples is left out, and told."""
    uncategorised: Literal["keep", "skip"] = "keep"
    """Samples without a category are one called "uncategorised", or are skipped and counted."""
    quality: Quality = field(factory=Quality)
    """What a picture must have; nothing by default."""

    def build(self, place: Place, multiple: int) -> Source[Samples]:
        """Finds the samples, leaves out categories with nothing usable in them, and shares out the rest.

        Raises QiError if nothing is left. Samples and share of each category are told in ``curation.json``.
        """
        from qi_core.skipped import Skipped
        from qi_plugins.source_images.curating import CuratedSource, files, sources, tell

        stock: Stock
        label = self.images.path if self.images else "categories"
        skipped = Skipped(place.folder, label)
        if self.images is not None:
            fit, weights = self.images.fit(place.seed, multiple), self.images.weighing(place.even)
            stock = files(self, self.images, fit, skipped, weights)
        else:
            stock = sources(self, place, multiple)
        found = self.shares(stock.counts)
        tell(place.folder, label, stock.counts, found)
        workers = self.images.workers if self.images else 1
        return CuratedSource(stock, found, place.seed, workers, skipped)

    def shares(self, counts: Mapping[str, Fraction]) -> dict[str, Fraction]:
        """The share of each category, together 1, by how many samples there are of each."""
        found = shares(counts, self.balance, self.exponent, self.across == "levels")
        return capped(found, counts, Fraction(repr(self.repeats))) if self.repeats else found
