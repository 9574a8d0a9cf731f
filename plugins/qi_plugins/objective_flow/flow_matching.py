"""The loss of pretraining and of supervised fine-tuning (Qwen-Image report, equations 1 and 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from attrs import field, frozen, validators

from qi_core import Examples, Loss, Mean, Samples, Shift
from qi_core.settings import above_zero

if TYPE_CHECKING:
    from torch import Tensor

    from qi_core import DenoiserModule, Dice, Encoders, Latents, Models

BINS = 5


@frozen(kw_only=True)
class FlowMatching:
    """Mean squared error of the velocity, the mean over each sample and then over samples (eq. 2)."""

    takes: ClassVar[type] = Samples

    times: Literal["logit-normal", "uniform"] = "logit-normal"
    """How t is drawn. The report says logit-normal (section 4)."""
    mean: float = 0.0
    """Logit-normal: t = sigmoid(mean + std * n), n ~ N(0, 1). t = 1 is data; the report gives no value."""
    std: float = field(default=1.0, validator=validators.gt(0))
    """Logit-normal: spread; the report gives no value."""
    shift: Shift = field(default="none", validator=above_zero)
    """Moves drawn times toward noise: a factor, or "qwen-image" for the released shift by number of image tokens."""
    caption_dropout: float = field(default=0.1, validator=[validators.ge(0), validators.le(1)])
    """Share of samples that see ``dropped`` instead of their own prompt, drawn for each sample at each visit."""
    dropped: str = ""
    """The prompt that stands for none: the same as ``guidance.negative``, which guides away from it. The released
    models use a single space."""

    def prepare(self, batch: Samples | Examples, models: Models, dice: Dice) -> Examples:
        """Encode, unless that is done; on the device of the text."""
        if isinstance(batch, Examples):
            return batch.to(models.strategy.device)
        return self.encode(batch, models.encoders, dice)

    def encode(self, batch: Samples, encoders: Encoders, dice: Dice) -> Examples:
        """Encode pictures and captions; a dropped caption is a real prompt too, encoded (with its references)."""
        import torch

        prompts: list[str] = []
        for slot, sample in zip(batch.slots, batch, strict=True):
            drops = torch.rand((), generator=dice.roll(slot, "caption")).item() < self.caption_dropout
            prompts.append(self.dropped if drops else sample.prompt)
        references = [sample.references for sample in batch]
        condition = encoders.condition(prompts, references if any(references) else ())
        device = condition.text.device
        return Examples(
            latents=encoders.latents(batch.items).to(device),
            condition=condition,
            slots=batch.slots,
            keys=tuple(sample.key for sample in batch),
        )

    def loss(self, denoiser: DenoiserModule, prepared: Examples, dice: Dice) -> Loss:
        """Eq. 2 with fresh noise and a fresh t for each sample."""
        import torch

        from qi_core import flow

        data = prepared.latents
        t, noise = self._draw(data, prepared.slots, dice)
        t_tokens = data.per_token(t)
        x_t = data.with_tokens(flow.interpolate(data.tokens, noise, t_tokens))
        v = denoiser(x_t, t, prepared.condition).tokens.float()
        errors = data.sample_mean((v - flow.velocity_target(data.tokens, noise)).square())
        parts: dict[str, Mean] = {}
        for i in range(BINS):
            inside = ((t * BINS).long().clamp(max=BINS - 1) == i).float()
            low, high = i / BINS, (i + 1) / BINS
            parts[f"loss_t/{low:.1f}-{high:.1f}"] = Mean((errors.detach() * inside).sum(), inside.sum())
        return Loss(value=torch.mean(errors), parts=parts)

    def _draw(self, data: Latents, slots: tuple[int, ...], dice: Dice) -> tuple[Tensor, Tensor]:
        """(t, noise): (B,) and (N, D). Each sample's draws depend on its slot alone."""
        from qi_core import flow

        generators = [dice.roll(slot) for slot in slots]
        return flow.draw(data, generators, self.times, self.mean, self.std, self.shift)
