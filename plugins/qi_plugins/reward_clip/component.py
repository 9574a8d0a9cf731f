"""The settings of ``pickscore``, ``hps`` and ``clip-similarity``. No torch here."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from attrs import field, frozen, validators

from qi_core.errors import QiError

if TYPE_CHECKING:
    from qi_core import Place
    from qi_plugins.reward_clip.towers import Scoring


@frozen(kw_only=True)
class ClipSimilarity:
    """How well picture and prompt go together, by a CLIP or SigLIP model: the cosine of their embeddings, -1 to 1.

    Part ``cut``: 1 where the prompt is longer than the model reads (77 tokens for CLIP) and its end did not count.
    """

    groupwise: ClassVar[bool] = False

    path: Path
    """A folder with config.json and safetensors weights in transformers' layout. Nothing is downloaded."""
    processor: Path | None = None
    """The folder of tokenizer and preprocessor_config.json, if not the same."""
    batch: int = field(default=16, validator=validators.gt(0))
    """Pictures at once."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """In what the towers compute."""
    device: Literal["run", "cpu"] = "run"
    """"run": where the run computes. "cpu" leaves that device's memory alone."""

    def build(self, place: Place) -> Scoring:
        if find_spec("transformers") is None:
            raise QiError(
                "reward: the package transformers is not installed; wanted for CLIP models; pip install 'qi[qwen]'"
            )
        from qi_plugins.reward_clip.towers import Scoring

        return Scoring(self, place)

    def value(self, cosine: float, scale: float) -> float:
        """The reward. ``scale``: the factor that the model has learned for its logits."""
        return cosine


@frozen(kw_only=True)
class PickScore(ClipSimilarity):
    """What people prefer, by PickScore: the cosine of picture and prompt times the model's logit scale.

    Kirstain et al. 2023 (arXiv 2305.01569), equation 1, divided so that it comes near 1. Weights:
    yuvalkirstain/PickScore_v1; where its folder has no tokenizer, give ``processor`` that of
    laion/CLIP-ViT-H-14-laion2B-s32B-b79K.
    """

    divide: float = field(default=26.0, validator=validators.gt(0))
    """Logits are divided by it; 26 is flow_grpo's."""

    def value(self, cosine: float, scale: float) -> float:
        return scale * cosine / self.divide


@frozen(kw_only=True)
class Hps(ClipSimilarity):
    """What people prefer, by HPSv2: the cosine of picture and prompt under its weights.

    Wu et al. 2023 (arXiv 2306.09341). The weights are published in open_clip's layout, as a pickle: convert them to
    transformers' CLIP layout first.
    """
