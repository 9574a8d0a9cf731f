"""Direct preference optimization (Qwen-Image report, arXiv 2508.02324, eq. 3; Diffusion-DPO, arXiv 2311.12908)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from attrs import Attribute, evolve, field, frozen, validators

from qi_core import EncodedPairs, Fixed, Loss, Mean, Pairs, QiError, Refreshed, Rule, Shift
from qi_core.settings import above_zero

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from qi_core import DenoiserModule, Dice, Encoders, Latents, Models
    from qi_plugins.objective_dpo.noised import Noised

BINS = 5
SHADOW = "reference"


def _errors(instance: Dpo, _: Attribute[Path | None], value: Path | None) -> None:
    if value is not None and instance.reference != "stored":
        raise ValueError(f"'errors' is read only with reference = \"stored\", not {instance.reference!r}; leave it out")


@frozen(kw_only=True)
class Dpo:
    """Moves the model toward the winners of pairs and away from their losers, measured against a reference model.

    With m the model's and r the reference's squared error of the velocity, the mean over the picture's values, of the
    winner (w) and the loser (l) at one time and with one noise:
    loss = -log sigmoid(margin), margin = -beta / 2 ((m_w - m_l) - (r_w - r_l)).
    """

    takes: ClassVar[type] = Pairs

    beta: float = field(default=2000.0, validator=validators.gt(0))
    """How strongly the reference holds, on the scale of Diffusion-DPO, whose errors are means over a picture's values
    and halved. The beta of eq. 3, whose errors are sums, is beta / 2 / (values of the picture): with the released
    VAE, 2000 is 1.5e-2 at 512 x 512 pixels and 2.3e-3 at 1328 x 1328."""
    loss_form: Literal["sigmoid", "ipo"] = "sigmoid"
    """"sigmoid": eq. 3. "ipo": (margin - 1/2)^2, which stops at a margin of 1/2 instead of pushing on for ever (IPO,
    arXiv 2310.12036, eq. 17, times beta^2 with its tau = beta)."""
    label_smoothing: float = field(default=0.0, validator=[validators.ge(0), validators.lt(0.5)])
    """Share of pairs that are taken to be the wrong way round (conservative DPO); with "sigmoid"."""
    sft: float = field(default=0.0, validator=validators.ge(0))
    """Weight of the winner's own error, added to the loss: an anchor for when rewards/chosen sinks far below 0."""
    reference: Literal["start", "base", "stored", "refreshed"] = "start"
    """"start": the trained weights as they were when the run began, kept beside the model (with an adapter: a copy of
    the adapter). "base": the denoiser without its adapter; costs no memory. "stored": errors that were measured
    beforehand; costs no memory and no time, but each pair is seen at a few times and noises only. "refreshed": the
    trained weights of some updates ago; for pairs that the model draws itself (online DPO)."""
    every: int = field(default=40, validator=validators.gt(0))
    """"refreshed": updates between two copies."""
    errors: Path | None = field(default=None, validator=_errors)
    """"stored": the file that the evaluation reference-errors wrote; not needed where pairs bring their errors."""
    times: Literal["uniform", "logit-normal"] = "uniform"
    """How t is drawn; one for both pictures of a pair and for the reference, like the noise. The report: uniform."""
    mean: float = 0.0
    """Logit-normal: t = sigmoid(mean + std * n), n ~ N(0, 1). t = 1 is data."""
    std: float = field(default=1.0, validator=validators.gt(0))
    """Logit-normal: spread."""
    shift: Shift = field(default="none", validator=above_zero)
    """Moves drawn times toward noise: a factor, or "qwen-image" for the released shift by number of image tokens."""
    caption_dropout: float = field(default=0.0, validator=[validators.ge(0), validators.le(1)])
    """Share of pairs that see ``dropped`` instead of their own prompt."""
    dropped: str = ""
    """The prompt that stands for none: the same as ``guidance.negative``."""

    def shadows(self) -> Mapping[str, Rule]:
        """See ``qi_core.Shadowed``."""
        if self.reference == "start":
            return {SHADOW: Fixed()}
        return {SHADOW: Refreshed(self.every)} if self.reference == "refreshed" else {}

    def prepare(self, batch: Pairs | EncodedPairs, models: Models, dice: Dice) -> Noised:
        """Encode, unless that is done; draw one time and one noise a pair, and ask the reference: all 2B pictures in
        one packed batch."""
        import torch

        from qi_plugins.objective_dpo import stored
        from qi_plugins.objective_dpo.noised import noised, squared_errors

        encoded = batch if isinstance(batch, EncodedPairs) else self.encode(batch, models.encoders, dice)
        encoded = encoded.to(models.strategy.device)
        if self.reference == "stored":
            drawn = stored.choose(encoded, self.errors, dice)
            pairs = noised(encoded, [stored.generator(one.seed) for one in drawn], self._draw)
            return evolve(pairs, reference=stored.told(drawn, pairs.t))
        pairs = noised(encoded, [dice.roll(slot) for slot in encoded.slots], self._draw)
        with torch.no_grad(), models.as_of(self._weights(models)) as reference:
            return evolve(pairs, reference=squared_errors(reference, pairs))

    def encode(self, batch: Pairs, encoders: Encoders, dice: Dice) -> EncodedPairs:
        """See ``qi_core.producing.Encodes``. A dropped prompt is a real one too, encoded with the references."""
        import torch

        from qi_plugins.objective_dpo.noised import encode

        rolls = [torch.rand((), generator=dice.roll(slot, "caption")).item() for slot in batch.slots]
        drops = [roll < self.caption_dropout for roll in rolls]
        prompts = [self.dropped if gone else pair.prompt for gone, pair in zip(drops, batch, strict=True)]
        return encode(batch, prompts, encoders)

    def loss(self, denoiser: DenoiserModule, prepared: Noised, dice: Dice) -> Loss:
        """Eq. 3, the mean over pairs; and what tells whether it goes well."""
        from torch.nn.functional import logsigmoid

        from qi_plugins.objective_dpo.noised import squared_errors

        errors = squared_errors(denoiser, prepared)
        # Rewards as in Diffusion-DPO: how much better than the reference. The reference itself has exactly 0.
        chosen, rejected = (-self.beta / 2 * (errors - prepared.reference)).chunk(2)
        margin = chosen - rejected
        if self.loss_form == "ipo":
            losses = (margin - 0.5).square()
        else:
            smooth = self.label_smoothing
            losses = -(1 - smooth) * logsigmoid(margin) - smooth * logsigmoid(-margin)
        if self.sft:
            losses = losses + self.sft * errors.chunk(2)[0]
        return Loss(value=losses.mean(), parts=_parts(prepared, errors, chosen, rejected))

    def _weights(self, models: Models) -> str:
        if self.reference != "base":
            return SHADOW
        if models.adapter is None:
            raise QiError(
                'objective.reference = "base": the run has no adapter that could be switched off; give it one, or use '
                'reference = "start"'
            )
        return "base"

    def _draw(self, data: Latents, generators: list[torch.Generator]) -> tuple[Tensor, Tensor]:
        from qi_core import flow

        return flow.draw(data, generators, self.times, self.mean, self.std, self.shift)


def _parts(prepared: Noised, errors: Tensor, chosen: Tensor, rejected: Tensor) -> dict[str, Mean]:
    """Pairs whose margin is exactly 0 say nothing of accuracy: the model is still the reference."""
    import torch

    errors, chosen, rejected = errors.detach(), chosen.detach(), rejected.detach()
    winner, loser = errors.chunk(2)
    reference_winner, reference_loser = prepared.reference.chunk(2)
    margin = chosen - rejected
    told, right = (margin != 0).float(), (margin > 0).float()
    figures = {
        "margin": margin,
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "error/winner": winner,
        "error/loser": loser,
        "error/reference_winner": reference_winner,
        "error/reference_loser": reference_loser,
        "t": prepared.t.chunk(2)[0],
    }
    count = torch.full((), float(len(margin)), device=margin.device)
    parts = {"accuracy": Mean(right.sum(), told.sum())}
    parts |= {name: Mean(values.sum(), count) for name, values in figures.items()}
    place = (prepared.t.chunk(2)[0] * BINS).long().clamp(max=BINS - 1)
    for i in range(BINS):
        inside = (place == i).float()
        name = f"accuracy_t/{i / BINS:.1f}-{(i + 1) / BINS:.1f}"
        parts[name] = Mean((right * inside).sum(), (told * inside).sum())
    return parts
