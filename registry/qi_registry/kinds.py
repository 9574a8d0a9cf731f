"""The kinds of component: what a recipe's section may hold, which hook offers it and what it must be able to do."""

from __future__ import annotations

from typing import Any, NamedTuple, get_args, get_origin


class Kind(NamedTuple):
    """One kind."""

    name: str
    """The recipe's key."""
    hook: str
    protocol: str
    """Where the core says what it is. Named, not imported: some of those modules import torch."""
    needs: tuple[str, ...]
    """What a class must have: the protocol's methods and class variables."""
    doc: str
    default: str | tuple[str, ...] | None = None
    """What a recipe that doesn't say gets; None: it must say."""
    many: bool = False
    """Whether a recipe takes a list of them."""
    optional: bool = False
    """Whether a recipe may go without."""
    section: bool = True
    """Whether a recipe has a section for it; else it stands only within other components."""

    @property
    def a(self) -> str:
        """The kind with its article, for messages."""
        return f"{'an' if self.name[0] in 'aeiou' else 'a'} {self.name}"


KINDS = {
    kind.name: kind
    for kind in (
        Kind("autoencoder", "qi_autoencoders", "qi_core.encoder.Autoencoder", ("build",), "Pixels <-> latents."),
        Kind(
            "conditioner",
            "qi_conditioners",
            "qi_core.encoder.Conditioner",
            ("build",),
            "Text and reference pictures -> tokens.",
        ),
        Kind(
            "denoiser",
            "qi_denoisers",
            "qi_core.denoiser.DenoiserComponent",
            ("build",),
            "The network that gives the velocity.",
        ),
        Kind(
            "adapter",
            "qi_adapters",
            "qi_core.adapter.AdapterComponent",
            ("apply", "merged", "export"),
            "A few trained weights on top of a frozen denoiser.",
            optional=True,
        ),
        Kind(
            "objective",
            "qi_objectives",
            "qi_core.objective.Objective",
            ("takes", "prepare", "loss"),
            "What a step minimises.",
        ),
        Kind("source", "qi_sources", "qi_core.source.SourceComponent", ("gives", "build"), "Where batches come from."),
        Kind(
            "curriculum",
            "qi_curriculums",
            "qi_core.curriculum.CurriculumComponent",
            ("build", "cut_short"),
            "Which settings hold at which step.",
            optional=True,
        ),
        Kind("sampler", "qi_samplers", "qi_core.sampler.Sampler", ("sample",), "From noise to latents.", "euler"),
        Kind(
            "optimizer",
            "qi_optimizers",
            "qi_core.optimizer.OptimizerComponent",
            ("build",),
            "The update and its schedule.",
            "adamw",
        ),
        Kind(
            "parallel",
            "qi_parallels",
            "qi_core.parallel.ParallelComponent",
            ("build",),
            "Where the model lives and how a step is carried out.",
            "single",
        ),
        Kind("store", "qi_stores", "qi_core.store.StoreComponent", ("build",), "Where checkpoints are kept.", "folder"),
        Kind(
            "tracker",
            "qi_trackers",
            "qi_core.tracker.TrackerComponent",
            ("build",),
            "Whoever wants to know what a run does.",
            ("console", "jsonl", "tensorboard"),
            many=True,
        ),
        Kind(
            "evaluation",
            "qi_evaluations",
            "qi_core.evaluation.EvaluationComponent",
            ("every", "build"),
            "What is measured now and then.",
            (),
            many=True,
        ),
        Kind(
            "reward",
            "qi_rewards",
            "qi_core.reward.RewardComponent",
            ("groupwise", "build"),
            "What a picture is worth.",
            section=False,
        ),
        Kind(
            "engine",
            "qi_engines",
            "qi_core.engine.EngineComponent",
            ("build",),
            "Who makes and encodes samples.",
            section=False,
        ),
        Kind(
            "filter",
            "qi_filters",
            "qi_core.filter.FilterComponent",
            ("build",),
            "What a sample must have to be trained on.",
            section=False,
        ),
    )
}
SECTIONS = {name: kind for name, kind in KINDS.items() if kind.section}
"""Those that a recipe has a section for."""
COMMANDS_HOOK = "qi_commands"
NAME = "name"
"""The key that picks a component."""

_BY_PROTOCOL = {kind.protocol: kind for kind in KINDS.values()}


def kind_of(annotation: Any) -> Kind | None:
    """The kind that a field's annotation stands for (``SourceComponent[Any]``, ``Component[Autoencoder]``), or None."""
    origin = get_origin(annotation) or annotation
    if not isinstance(origin, type):
        return None
    if (origin.__module__, origin.__name__) == ("qi_core.place", "Component"):
        (works,) = get_args(annotation) or (None,)
        return kind_of(works) if works is not None else None
    return _BY_PROTOCOL.get(f"{origin.__module__}.{origin.__name__}")


def kinds_in(annotation: Any) -> tuple[Kind, ...]:
    """The kinds that a field's annotation stands for or holds (``tuple[Sampler, ...]``, ``Sampler | None``)."""
    if kind := kind_of(annotation):
        return (kind,)
    return tuple(kind for part in get_args(annotation) for kind in kinds_in(part))
