"""What a plugin can offer: one hook a kind, each giving name -> class.

Import the classes inside the hook, so that naming a plugin costs nothing; and import torch inside methods, so that
``qi list`` and ``qi check`` answer at once. A plugin is registered by an entry point of the group ``qi``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from qi_core.adapter import AdapterComponent
    from qi_core.command import Command
    from qi_core.curriculum import CurriculumComponent
    from qi_core.denoiser import DenoiserComponent
    from qi_core.encoder import Autoencoder, Conditioner
    from qi_core.engine import EngineComponent
    from qi_core.evaluation import EvaluationComponent
    from qi_core.filter import FilterComponent
    from qi_core.objective import Objective
    from qi_core.optimizer import OptimizerComponent
    from qi_core.parallel import ParallelComponent
    from qi_core.place import Component
    from qi_core.reward import RewardComponent
    from qi_core.sampler import Sampler
    from qi_core.source import SourceComponent
    from qi_core.store import StoreComponent
    from qi_core.tracker import TrackerComponent

PROJECT = "qi"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def qi_autoencoders() -> Mapping[str, type[Component[Autoencoder]]]:  # type: ignore[empty-body]
    """Pixels <-> latents."""


@hookspec
def qi_conditioners() -> Mapping[str, type[Component[Conditioner]]]:  # type: ignore[empty-body]
    """Text and reference pictures -> tokens."""


@hookspec
def qi_denoisers() -> Mapping[str, type[DenoiserComponent]]:  # type: ignore[empty-body]
    """Networks that give the velocity."""


@hookspec
def qi_adapters() -> Mapping[str, type[AdapterComponent]]:  # type: ignore[empty-body]
    """A few trained weights on top of a frozen denoiser."""


@hookspec
def qi_objectives() -> Mapping[str, type[Objective[Any]]]:  # type: ignore[empty-body]
    """What a step minimises."""


@hookspec
def qi_samplers() -> Mapping[str, type[Sampler]]:  # type: ignore[empty-body]
    """From noise to latents."""


@hookspec
def qi_parallels() -> Mapping[str, type[ParallelComponent]]:  # type: ignore[empty-body]
    """Where the model lives and how a step is carried out."""


@hookspec
def qi_sources() -> Mapping[str, type[SourceComponent[Any]]]:  # type: ignore[empty-body]
    """Where batches come from."""


@hookspec
def qi_curriculums() -> Mapping[str, type[CurriculumComponent]]:  # type: ignore[empty-body]
    """Which settings hold at which step."""


@hookspec
def qi_optimizers() -> Mapping[str, type[OptimizerComponent]]:  # type: ignore[empty-body]
    """The update and its schedule."""


@hookspec
def qi_stores() -> Mapping[str, type[StoreComponent]]:  # type: ignore[empty-body]
    """Where checkpoints are kept."""


@hookspec
def qi_trackers() -> Mapping[str, type[TrackerComponent]]:  # type: ignore[empty-body]
    """Whoever wants to know what a run does."""


@hookspec
def qi_evaluations() -> Mapping[str, type[EvaluationComponent]]:  # type: ignore[empty-body]
    """What is measured now and then."""


@hookspec
def qi_rewards() -> Mapping[str, type[RewardComponent]]:  # type: ignore[empty-body]
    """What a picture is worth."""


@hookspec
def qi_engines() -> Mapping[str, type[EngineComponent]]:  # type: ignore[empty-body]
    """Who makes and encodes samples."""


@hookspec
def qi_filters() -> Mapping[str, type[FilterComponent]]:  # type: ignore[empty-body]
    """What a sample must have to be trained on."""


@hookspec
def qi_commands() -> Mapping[str, type[Command]]:  # type: ignore[empty-body]
    """Verbs of the command ``qi``."""
