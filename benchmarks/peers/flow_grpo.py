"""Flow-GRPO's training loop for Qwen-Image (arXiv 2505.05470 and its public script), written anew and straight, on
diffusers' network, in float32: the other side of benchmarks/rl.py.

Captions are padded to the longest of the batch; rewards are handed to a pool of threads batch by batch; an update goes
batch by batch and, within it, step by step. Noise is added in every step but the last, which is not trained.

Its convention: sigma = 1 - t falls from 1 to 0, the network gives u = noise - data = -v.
Shapes: P pictures of a rollout, B of a batch, S steps, N tokens of a picture, D values of one; L text tokens of the
longest caption, W values of one.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal

import torch
import torch.nn.functional as F
from attrs import evolve, frozen
from diffusers import QwenImageTransformer2DModel
from torch import Tensor

from qi_core import Candidate, Encoders, Latents, Reward, Scores
from qi_core.generate import eight_bits


@frozen(kw_only=True)
class Settings:
    """As in the script's configuration."""

    batch: int
    """B, in rollouts and in training."""
    grid: tuple[int, int]
    """Tokens of a picture, (rows, columns)."""
    sigmas: tuple[float, ...]
    """S + 1, from 1 to 0."""
    level: float
    """Of noise: a."""
    guidance: float | None
    """Scale, in rollouts and in training; None: no guidance."""
    branches: Literal["one batch", "two passes"] = "one batch"
    """With guidance: both captions padded to one length, in one forward pass of twice the batch, as the script has it;
    or each with the padding that it needs by itself, one after the other."""
    updates: int
    """In a rollout."""
    clip: float
    beta: float
    lr: float
    betas: tuple[float, float]
    eps: float
    max_norm: float
    advantage_eps: float = 1e-4
    advantage_clip: float = 5.0


@frozen(kw_only=True, eq=False)
class Text:
    """Captions of a batch, padded."""

    tokens: Tensor
    """(B, L, W)."""
    mask: Tensor | None
    """(B, L) bool; None where nothing is padded, as in diffusers' pipeline."""

    @staticmethod
    def padded(captions: Sequence[Tensor], longest: int) -> Text:
        lengths = torch.tensor([len(caption) for caption in captions])
        mask = torch.arange(longest) < lengths[:, None]
        tokens = torch.stack([F.pad(caption, (0, 0, 0, longest - len(caption))) for caption in captions])
        return Text(tokens=tokens, mask=None if bool(mask.all()) else mask)


@frozen(kw_only=True, eq=False)
class Batch:
    """What training gets of a batch of pictures."""

    texts: tuple[Text, ...]
    """For each forward pass of the network, see ``Settings.branches``."""
    before: Tensor
    """(B, S - 1, N, D) states before the noisy steps."""
    after: Tensor
    """(B, S - 1, N, D) states after them."""
    log_probs: Tensor
    """(B, S - 1)."""
    drawn: Tensor
    """(B, N, D) the picture."""
    rewards: Tensor
    """(B,)."""
    advantages: Tensor
    """(B,)."""


@frozen(eq=False)
class FlowGrpo:
    """The whole script, less its logging."""

    settings: Settings
    network: QwenImageTransformer2DModel
    reference: QwenImageTransformer2DModel
    optimizer: torch.optim.AdamW
    encoders: Encoders
    reward: Reward
    pool: ThreadPoolExecutor

    def rollout(self, prompts: Sequence[str], noise: Tensor) -> list[Batch]:
        """``prompts``: one a picture, those of a batch side by side. ``noise``: (P, S, N, D), what each picture starts
        from and what is added in each noisy step."""
        self.network.eval()
        batches: list[Batch] = []
        judged: list[Future[Scores]] = []
        with torch.no_grad():
            for start in range(0, len(prompts), self.settings.batch):
                own = prompts[start : start + self.settings.batch]
                drawn = self._draw(own, noise[start : start + self.settings.batch])
                batches.append(drawn)
                judged.append(self.pool.submit(self._judge, own, self._decode(drawn.drawn)))
        rewards = [torch.tensor(future.result().values, dtype=torch.float64) for future in judged]
        advantages = self.advantages(prompts, torch.cat(rewards)).chunk(len(batches))
        return [
            evolve(batch, rewards=reward.float(), advantages=advantage)
            for batch, reward, advantage in zip(batches, rewards, advantages, strict=True)
        ]

    def advantages(self, prompts: Sequence[str], rewards: Tensor) -> Tensor:
        """(P,) of each group's rewards, over the group's deviation. Groups are told by the words of the prompt."""
        values = torch.empty_like(rewards)
        for prompt in set(prompts):
            own = torch.tensor([other == prompt for other in prompts])
            spread = rewards[own].std(correction=0)
            values[own] = (rewards[own] - rewards[own].mean()) / (spread + self.settings.advantage_eps)
        return values.clamp(-self.settings.advantage_clip, self.settings.advantage_clip).float()

    def update(self, batches: Sequence[Batch]) -> None:
        """All updates of a rollout."""
        self.network.train()
        each = len(batches) // self.settings.updates
        for start in range(0, len(batches), each):
            for batch in batches[start : start + each]:
                self.backward(batch, share=1 / each)
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.max_norm)
            self.optimizer.step()
            self.optimizer.zero_grad()

    def backward(self, batch: Batch, share: float = 1.0) -> float:
        """Adds the gradient of ``share`` of the batch's loss, step by step, and gives the loss itself."""
        told = 0.0
        count = batch.before.shape[1]
        for step in range(count):
            loss = self._loss(batch, step) / count
            (loss * share).backward()  # type: ignore[no-untyped-call]
            told += loss.item()
        return told

    def _loss(self, batch: Batch, step: int) -> Tensor:
        """Of one noisy step: the clipped policy loss and, from a forward pass of the reference, the KL."""
        settings = self.settings
        x, after, sigmas = batch.before[:, step], batch.after[:, step], settings.sigmas[step : step + 2]
        mean, std = self._law(x, self._predict(self.network, x, sigmas[0], batch.texts), sigmas)
        ratio = torch.exp(_log_prob(after, mean, std * math.sqrt(sigmas[0] - sigmas[1])) - batch.log_probs[:, step])
        clipped = ratio.clamp(1 - settings.clip, 1 + settings.clip)
        policy = torch.maximum(-batch.advantages * ratio, -batch.advantages * clipped).mean()
        if not settings.beta:
            return policy
        with torch.no_grad():
            away, _ = self._law(x, self._predict(self.reference, x, sigmas[0], batch.texts), sigmas)
        # Without the step's length in the variance, as that code has it.
        kl = ((mean - away) ** 2).mean(dim=(1, 2)) / (2 * std**2)
        return policy + settings.beta * kl.mean()

    def _draw(self, prompts: Sequence[str], noise: Tensor) -> Batch:
        """One batch of pictures with their trajectories; rewards come later."""
        settings = self.settings
        texts = self._texts(prompts)
        x, noisy = noise[:, 0], len(settings.sigmas) - 2
        states, log_probs = [x], []
        for step in range(noisy + 1):
            sigmas = settings.sigmas[step : step + 2]
            u = self._predict(self.network, x, sigmas[0], texts)
            if step == noisy:
                x = x + (sigmas[1] - sigmas[0]) * u
                break
            mean, level = self._law(x, u, sigmas)
            std = level * math.sqrt(sigmas[0] - sigmas[1])
            x = mean + std * noise[:, step + 1]
            states.append(x)
            log_probs.append(_log_prob(x, mean, std))
        trajectory, unknown = torch.stack(states, dim=1), torch.full((len(prompts),), math.nan)
        return Batch(
            texts=texts,
            before=trajectory[:, :-1],
            after=trajectory[:, 1:],
            log_probs=torch.stack(log_probs, dim=1),
            drawn=x,
            rewards=unknown,
            advantages=unknown,
        )

    def _texts(self, prompts: Sequence[str]) -> tuple[Text, ...]:
        positive = [own.text for own in self.encoders.condition(list(prompts), ()).split()]
        longest = max(map(len, positive))
        if self.settings.guidance is None:
            return (Text.padded(positive, longest),)
        negative = [own.text for own in self.encoders.condition([" "] * len(prompts), ()).split()]
        other = max(map(len, negative))
        if self.settings.branches == "one batch":
            return (Text.padded([*positive, *negative], max(longest, other)),)
        return Text.padded(positive, longest), Text.padded(negative, other)

    def _predict(self, network: QwenImageTransformer2DModel, x: Tensor, sigma: float, texts: Sequence[Text]) -> Tensor:
        """(B, N, D) u, guided: v_n + s (v_p - v_n), each token brought to the norm of v_p."""
        outputs: list[Tensor] = []
        for text in texts:
            count = len(text.tokens)
            found: Tensor = network(
                hidden_states=x.repeat(count // len(x), 1, 1),
                encoder_hidden_states=text.tokens,
                encoder_hidden_states_mask=text.mask,
                timestep=torch.full((count,), sigma),
                img_shapes=[[(1, *self.settings.grid)]] * count,
                return_dict=False,
            )[0]
            outputs += found.chunk(count // len(x))
        if self.settings.guidance is None:
            return outputs[0]
        positive, negative = outputs
        mixed = negative + self.settings.guidance * (positive - negative)
        size, wanted = (torch.linalg.vector_norm(each, dim=-1, keepdim=True) for each in (mixed, positive))
        guided: Tensor = mixed * (wanted / size)
        return guided

    def _law(self, x: Tensor, u: Tensor, sigmas: tuple[float, ...]) -> tuple[Tensor, float]:
        """Mean of the next state (B, N, D), and the level of the noise: its deviation over the root of the step.

        dx = [u + g^2 / (2 sigma) (x + (1 - sigma) u)] dsigma + g dw with g = a sqrt(sigma / (1 - sigma)); where sigma
        is 1, its next value stands under the fraction.
        """
        sigma, following = sigmas
        squared = self.settings.level**2 * sigma / (1 - (following if sigma == 1 else sigma))
        drift = u + squared / (2 * sigma) * (x + (1 - sigma) * u)
        return x + drift * (following - sigma), math.sqrt(squared)

    def _decode(self, drawn: Tensor) -> list[Tensor | None]:
        """(B, N, D) -> pictures of eight bits."""
        grids = ((1, *self.settings.grid),) * len(drawn)
        images = self.encoders.autoencoder.decode(Latents(tokens=drawn.flatten(0, 1), grids=grids), whole=True)
        return [eight_bits(image) for image in images]

    def _judge(self, prompts: Sequence[str], images: Sequence[Tensor | None]) -> Scores:
        """In a thread of the pool."""
        candidates = [
            Candidate(key=str(i), group=prompt, prompt=prompt, image=image)
            for i, (prompt, image) in enumerate(zip(prompts, images, strict=True))
            if image is not None
        ]
        return asyncio.run(self.reward.score(candidates))


def _log_prob(x: Tensor, mean: Tensor, std: float) -> Tensor:
    """(B,) log N(x; mean, std^2), the mean over a picture's values."""
    each = -((x.detach() - mean) ** 2) / (2 * std**2) - math.log(std) - math.log(math.sqrt(2 * math.pi))
    return each.mean(dim=(1, 2))
