"""Every contract, kept by the components that come with qi: found by entry point where their settings have defaults."""

from __future__ import annotations

from importlib.metadata import distribution
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from attrs import evolve
from PIL import Image

from qi_core import Place, Samples
from qi_core.curriculum import Outset
from qi_core.testing import (
    check_adapter,
    check_autoencoder,
    check_component,
    check_conditioner,
    check_curriculum,
    check_denoiser,
    check_engine,
    check_evaluation,
    check_filter,
    check_objective,
    check_optimizer,
    check_parallel,
    check_sampler,
    check_source,
    check_store,
    check_tracker,
)
from qi_plugins.adapter_lora.component import LoRA
from qi_plugins.autoencoder_patchify.component import Patchify
from qi_plugins.cond_qwen25vl.component import Qwen25VL
from qi_plugins.conditioner_characters.component import Characters
from qi_plugins.curriculum_stages import component as curriculum
from qi_plugins.engine_inline.component import InlineEngine
from qi_plugins.eval_glyphs.component import GlyphMatch
from qi_plugins.eval_held_out.component import HeldOut
from qi_plugins.mmdit.component import MMDiT
from qi_plugins.optimizer_adamw.component import AdamW
from qi_plugins.parallel_fsdp.component import Fsdp
from qi_plugins.parallel_single.component import Single
from qi_plugins.source_images.images import Images
from qi_plugins.source_mixture.mixture import Mixture, Part
from qi_plugins.source_mixture.stages import Stage, Stages
from qi_plugins.source_synthetic.component import ComposedText, Templates
from qi_plugins.source_text.component import RenderedPairs, RenderedText
from qi_plugins.vae_qwen.component import VaeQwen
from support.tiny_pipeline import make_pipeline

WORDS = RenderedText(height=16, width=32, lengths=(1, 2))
BOTH = RenderedText(height=16, width=48, alphabet="both", jitter=1, lengths=(1, 2))


def offered(hook: str) -> list[Any]:
    """What the plugins of qi give to a hook."""
    plugins = [point.load() for point in distribution("qi").entry_points.select(group="qi")]
    given = [getattr(plugin, hook)() for plugin in plugins if hasattr(plugin, hook)]
    return [pytest.param(component, id=name) for names in given for name, component in names.items()]


def all_offered() -> list[Any]:
    kinds = (
        "adapter autoencoder conditioner curriculum denoiser engine evaluation filter objective optimizer parallel "
        "reward sampler source store tracker"
    )
    return [component for kind in kinds.split() for component in offered(f"qi_{kind}s")]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(device=torch.device("cpu"), dtype=torch.float32, seed=0, folder=tmp_path)


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random checkpoint in the layout of the released ones."""
    return make_pipeline(tmp_path_factory.mktemp("released"))


@pytest.mark.parametrize("component", all_offered())
def test_components(component: type[Any]) -> None:
    check_component(component)


@pytest.mark.parametrize("component", offered("qi_samplers"))
def test_samplers(component: type[Any]) -> None:
    check_sampler(component())


@pytest.mark.parametrize("component", offered("qi_objectives"))
def test_objectives(component: type[Any]) -> None:
    if component.takes is Samples:  # those that take something else are checked beside their own tests' batches
        check_objective(component())


@pytest.mark.parametrize("component", offered("qi_optimizers"))
def test_optimizers(component: type[Any]) -> None:
    check_optimizer(component())


def test_an_optimizer_with_warm_up_decay_and_cosine() -> None:
    check_optimizer(AdamW(warmup=5, weight_decay=0.1, schedule="cosine"))


@pytest.mark.parametrize("component", offered("qi_filters"))
def test_filters(component: type[Any]) -> None:
    if component.__name__ == "SmallText":  # it wants pictures with text: checked beside its own tests
        return
    try:
        live = component()
    except TypeError:  # it must be told where its weights or its list are
        return
    check_filter(live)


@pytest.mark.parametrize("component", offered("qi_stores"))
def test_stores(component: type[Any]) -> None:
    check_store(component())


@pytest.mark.parametrize("component", offered("qi_trackers"))
def test_trackers(component: type[Any]) -> None:
    check_tracker(component())


def test_engines() -> None:
    """Those that start processes are checked by whole runs (tests/runs/test_engines.py)."""
    check_engine(InlineEngine())


def test_curricula() -> None:
    words = curriculum.Stage(name="words", steps=40, mixture={"plain": 1.0})
    more = curriculum.Stage(steps=60, transition=20, mixture={"plain": 1.0, "new": 2.0}, lr=0.5, shift=3.0, tokens=512)
    last = curriculum.Stage(set=("preview.every = 7",))
    outset = Outset(mixture={"plain": 1.0, "new": 1.0}, shift=1.0)
    check_curriculum(curriculum.Stages(stages=(words, more, last)), outset=outset)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_parallels(precision: str) -> None:
    check_parallel(Single(device="cpu", precision=precision))
    check_parallel(Fsdp(device="cpu", precision=precision))


@pytest.mark.parametrize("variant", [{}, {"predicts": "data", "checkpointing": "all"}, {"zero_cond_t": True}])
def test_denoisers(variant: dict[str, Any]) -> None:
    check_denoiser(MMDiT(layers=2, heads=2, head_dim=16, axes_dims_rope=(4, 6, 6), **variant))


def test_a_denoiser_read_from_a_checkpoint(released: Path) -> None:
    component = MMDiT(weights=released / "transformer")
    check_denoiser(component, latent_width=64, text_width=64, seeded=False)


def test_autoencoders(place: Place, released: Path) -> None:
    check_autoencoder(Patchify(patch=4).build(place), round_trip=1e-6)
    check_autoencoder(VaeQwen(path=released).build(place))


def test_conditioners(place: Place, released: Path) -> None:
    check_conditioner(Characters().build(place))
    check_conditioner(Characters(positions=True).build(place))
    check_conditioner(Qwen25VL(path=released).build(place), references=True)


@pytest.mark.parametrize(
    ("component", "count"),
    [
        pytest.param(WORDS, 12, id="rendered-text"),
        pytest.param(BOTH, 12, id="rendered-text in both alphabets"),
        pytest.param(RenderedPairs(text=evolve(WORDS, look_alikes=("OQ", "EF"))), 12, id="rendered-pairs"),
        pytest.param(Mixture(parts=(Part(source=WORDS), Part(weight=3.0, source=BOTH))), 70, id="mixture"),
        pytest.param(ComposedText(side=128), 6, id="composed-text"),
        pytest.param(Templates(side=256), 6, id="templates"),
        pytest.param(Stages(stages=(Stage(samples=5, source=WORDS), Stage(source=BOTH))), 12, id="stages"),
    ],
)
def test_sources(component: Any, count: int) -> None:
    check_source(component, count=count)


def test_a_source_of_files_over_three_epochs(tmp_path: Path) -> None:
    for i in range(5):
        Image.new("RGB", (40 + 8 * i, 48), (50 * i, 0, 90)).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text(f"picture {i}")
    check_source(Images(path=str(tmp_path), side=32, crop="random", flip=True, workers=2), multiple=16, count=13)


def test_evaluations() -> None:
    check_evaluation(GlyphMatch(source=WORDS, count=6, shown=3))
    check_evaluation(HeldOut(source=WORDS, count=6, batch=4))


@pytest.mark.parametrize("init", ["kaiming", "gaussian"])
def test_adapters(init: Literal["kaiming", "gaussian"]) -> None:
    check_adapter(LoRA(rank=2, alpha=4.0, targets=("*",), init=init))
