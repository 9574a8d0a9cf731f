"""The settings of ``image-text``, ``aesthetic`` and ``nsfw``. No torch here; models come from local folders alone."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from attrs import Attribute, field, frozen, validators

from qi_core.bar import Bar, in_order
from qi_core.errors import QiError

if TYPE_CHECKING:
    from qi_core import Filter, Place


@frozen(kw_only=True)
class _Model:
    """A local model that looks at pictures."""

    batch: ClassVar[int] = 1

    path: Path
    """A folder with config.json and safetensors weights in transformers' layout. Nothing is downloaded."""
    processor: Path | None = None
    """The folder of tokenizer and preprocessor_config.json, if not the same."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """In what the model computes."""
    device: Literal["run", "cpu"] = "run"
    """"run": where the run, or the producer, computes. "cpu" leaves that device's memory alone."""


@frozen(kw_only=True)
class ImageText(_Model):
    """How well picture and caption go together, by a CLIP or SigLIP model: the cosine of their embeddings, -1 to 1.

    Stage S3 of the report, which asks it of raw captions. What matching pairs have depends on the model: LAION-5B kept
    English pairs of 0.28 or more under CLIP ViT-B/32 (Schuhmann et al. 2022). Of a caption that is longer than the
    model reads (77 tokens for CLIP), the end does not count. Nothing is said of samples without a caption.
    """

    least: float = field(default=-1.0, validator=[validators.ge(-1), validators.le(1)])
    """-1: not asked."""
    most: float = field(default=1.0, validator=[validators.ge(-1), validators.le(1), in_order])
    """1: not asked. What is near 1 is often text alone: the caption, written."""

    def build(self, place: Place) -> Filter:
        _needs_transformers("image-text")
        from qi_plugins.filter_likeness.live import cosine

        return Bar(
            measuring=cosine(self, place),
            least=self.least,
            most=self.most,
            below="caption does not match",
            above="caption matches too well",
        )


@frozen(kw_only=True)
class Aesthetic(_Model):
    """How beautiful the picture is, about 1 to 10, by a head on CLIP's embedding such as LAION's aesthetic predictors.

    Stage S5 of the report. The heads are published as pickles, which are not read here: save their state_dict by
    safetensors first. The model must be the one that the head was trained on (CLIP ViT-L/14).
    """

    head: Path
    """A .safetensors file: ``weight`` and ``bias`` of one linear layer, or those of several (``layers.0.weight``,
    ``layers.0.bias``, ...), which follow each other without anything between them, as in LAION's MLP."""
    least: float = -100.0
    """-100: not asked."""
    most: float = field(default=100.0, validator=in_order)
    """100: not asked."""

    def build(self, place: Place) -> Filter:
        _needs_transformers("aesthetic")
        from qi_plugins.filter_likeness.live import beauty

        return Bar(
            measuring=beauty(self, place),
            least=self.least,
            most=self.most,
            below="not beautiful enough",
            above="too beautiful",
        )


def _some(_: object, attribute: Attribute[Any], value: tuple[str, ...]) -> None:
    if not value:
        raise ValueError(f"'{attribute.name}' is empty; wanted labels of the classifier")


@frozen(kw_only=True)
class Nsfw(_Model):
    """How likely it is that the picture should not be shown, 0 to 1, by an image classifier. Stage S1 of the report.

    The value is the sum of the probabilities of the classes named in ``labels``, so any classifier will do for
    whatever it knows.
    """

    labels: tuple[str, ...] = field(default=("nsfw",), validator=_some)
    """Classes that are not wanted, as the model's config.json calls them (id2label)."""
    most: float = field(default=0.5, validator=[validators.ge(0), validators.le(1)])
    """1: not asked."""

    def build(self, place: Place) -> Filter:
        _needs_transformers("nsfw")
        from qi_plugins.filter_likeness.live import likelihood

        return Bar(measuring=likelihood(self, place), most=self.most, above="not to be shown")


def _needs_transformers(name: str) -> None:
    if find_spec("transformers") is None:
        raise QiError(
            f"filter {name}: the package transformers is not installed; wanted for its model; pip install 'qi[qwen]'"
        )
