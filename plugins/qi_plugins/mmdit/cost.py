"""What the network costs: operations, memory kept for the backward pass, bytes sent by tensor parallelism.

*Operations*: matrix products and attention, two a multiply-add, and nothing else (no norms, no activations, no
optimizer). A training step is three forward passes: the backward pass has two products for each one of the forward
pass. Blocks that are computed again to save memory are not counted: their time is spent, but nothing is gained by it.

*Activations* are told layer by layer, as torch's autograd keeps them. In bytes a token and channel, with b bytes of a
product's value and n of a norm's (2 and 4 under bf16 autocast), for a block of long runs in full training:

    norms, twice            2 n     their inputs (in fp32 under autocast: copies)
    q, k, v                 b       their input; under autocast a copy each: 3 b
    norms of q and k        2 n     their inputs
    attention               4 b     q, k, v and its output
    output projection       b       its input, weaved apart again
    gates, twice            2 b     what they multiply
    MLP                     b + 2 r b   its input, and before and after GELU (r: ratio of hidden features)

54 bytes under autocast, 42 in pure bf16. Selective checkpointing keeps the block's input, the results of products and
the output of attention: (7 + r) b, 22 bytes. What is between a column- and a row-parallel product (2 n + 5 b + 2 r b)
is divided by tensor parallelism, the rest only by sequence parallelism (Korthikanti et al. 2022, arXiv 2205.05198,
section 4, for GPT), which keeps the inputs of products gathered, 2 b, to spare sending them twice. Tests hold all but
the last two divisions to torch's own counts.

Shapes: B samples, L text tokens, N image tokens with references, M target tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from attrs import frozen

from qi_core.planning import Layout, Tokens
from qi_plugins.mmdit.architecture import Architecture

if TYPE_CHECKING:
    from qi_core import DenoiserModule
    from qi_plugins.mmdit.network import Checkpointing

SINUSOID = 256
LONG_RUN = 1 << 20
"""Values in a run of tokens, on average, from which it is modulated by itself on CUDA (see ``runs``)."""


def forward_flops(arch: Architecture, samples: Sequence[Tokens], tensor: int = 1) -> int:
    """One forward pass of a packed batch, on one of ``tensor`` ranks. Attention never crosses samples."""
    *blocks, last = block_flops(arch, samples, tensor)
    return sum(blocks) + last + _ends(arch, samples)


def training_flops(arch: Architecture, samples: Sequence[Tokens], tensor: int = 1) -> int:
    """Forward and backward."""
    return 3 * forward_flops(arch, samples, tensor)


def block_flops(arch: Architecture, samples: Sequence[Tokens], tensor: int = 1) -> list[int]:
    """Of each block. All its products are divided over tensor-parallel ranks."""
    width, hidden = arch.width, arch.width * arch.mlp_ratio
    text = sum(s.text for s in samples)
    target = sum(s.target for s in samples)
    image = target + sum(s.references for s in samples)
    pairs = sum((s.text + s.target + s.references) ** 2 for s in samples)
    pairs_last = sum(s.target * (s.text + s.target + s.references) for s in samples)

    # Multiply-adds.
    square, mlp = width * width, 2 * width * hidden
    modulation = 6 * square * (_times(arch, samples) + len(samples))
    block = modulation + (4 * square + mlp) * (image + text) + 2 * width * pairs
    # In the last block targets alone ask and go on; text gives keys and values.
    last = modulation + 2 * square * (image + text) + (2 * square + mlp) * target + 2 * width * pairs_last
    return [2 * block // tensor] * (arch.layers - 1) + [2 * last // tensor]


def _ends(arch: Architecture, samples: Sequence[Tokens]) -> int:
    """Before and after the blocks: on every rank."""
    width, times = arch.width, _times(arch, samples)
    target = sum(s.target for s in samples)
    return 2 * (
        (target + sum(s.references for s in samples)) * arch.in_channels * width
        + sum(s.text for s in samples) * arch.text_width * width
        + times * (SINUSOID * width + width * width)
        + len(samples) * 2 * width * width
        + target * width * arch.out_channels
    )


def _times(arch: Architecture, samples: Sequence[Tokens]) -> int:
    return len(samples) * (2 if arch.zero_cond_t else 1)


@frozen(kw_only=True)
class Stretch:
    """Tokens of one stream, and the runs of one modulation in which they stand."""

    tokens: int
    long: bool
    """Each run by itself: nothing is spread over tokens."""
    ragged: bool
    """Runs of different lengths."""

    @staticmethod
    def of(lengths: Sequence[int], width: int) -> Stretch:
        """The empty ones left out."""
        kept = [length for length in lengths if length]
        tokens = sum(kept)
        return Stretch(tokens=tokens, long=tokens * width >= len(kept) * LONG_RUN, ragged=len(set(kept)) > 1)


@frozen(kw_only=True)
class Kept:
    """What one block keeps, in bytes of one rank, where its tokens stand as told."""

    arch: Architecture
    samples: Sequence[Tokens]
    layout: Layout
    fed: frozenset[str]
    """Linear layers of the block whose inputs are kept: weights, or something beside them, are trained."""

    @property
    def bytes(self) -> int:
        """In a block that is not the last."""
        image, text = self._image, self._text
        attention = self._entry(image, "attn.to_q", "attn.to_k", "attn.to_v")
        attention += self._entry(text, "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")
        both = image.tokens + text.tokens
        attention += 2 * self._head_norm(both) + self._attention(both, both)
        attention += self._inner(image.tokens, "attn.to_out.0") + self._inner(text.tokens, "attn.to_add_out")
        return (
            attention
            + self._modulated(image, "img_mod.1")
            + self._modulated(text, "txt_mod.1")
            + self._second_half(image, "img")
            + self._second_half(text, "txt")
            + self._modulation("img_mod.1", _times(self.arch, self.samples))
            + self._modulation("txt_mod.1", len(self.samples))
        )

    @property
    def last(self) -> int:
        """In the last block: targets ask and go on, text gives keys and values."""
        image, text = self._image, self._text
        target = Stretch.of([s.target for s in self.samples], self.arch.width)
        both = image.tokens + text.tokens
        alone = target.tokens == image.tokens
        attention = self._entry(image, "attn.to_k", "attn.to_v", *(["attn.to_q"] if alone else []))
        attention += 0 if alone else self._entry(target, "attn.to_q")
        attention += self._entry(text, "attn.add_k_proj", "attn.add_v_proj")
        attention += self._head_norm(target.tokens) + self._head_norm(both) + self._attention(target.tokens, both)
        if self._groups > 1:
            attention += self._inner(target.tokens, "attn.to_out.0")
        return (
            attention
            + self._modulated(image, "img_mod.1")
            + self._modulated(text, "txt_mod.1")
            + self._second_half(target, "img")
            + self._modulation("img_mod.1", _times(self.arch, self.samples))
            + self._modulation("txt_mod.1", len(self.samples))
        )

    def selective(self, *, last: bool) -> int:
        """With the pieces between products computed again (see ``again``). What is frozen keeps as much."""
        text, image = self._text.tokens, self._image.tokens
        queries = sum(s.target for s in self.samples) if last else image + text
        onward, layout = sum(s.target for s in self.samples) if last else image + text, self.layout
        b = layout.product_bytes
        kept = self.inputs + 2 * self._whole(onward, b) + self._part(onward, self.arch.mlp_ratio * b)
        kept += self._part(queries + image + text, b)  # what q and k are made of
        kept += self._part(queries + image + text, b) + 4 * queries * self.arch.heads // layout.tensor  # output and v
        kept += 2 * self._whole(queries, b) if last and queries < image else 0  # targets picked out, twice
        if layout.sequence:  # gathered, which is not computed again
            kept += (image + text + onward) * self.arch.width * b
        kept += self._modulation("img_mod.1", _times(self.arch, self.samples))
        return kept + self._modulation("txt_mod.1", len(self.samples))

    @property
    def inputs(self) -> int:
        """All that is kept of a block that is computed again: what goes in."""
        return self._whole(self._image.tokens + self._text.tokens, self.layout.product_bytes)

    @property
    def _groups(self) -> int:
        """Calls of attention: one for each run of equally long samples."""
        return sum(1 for _ in groupby((s.target, s.text + s.target + s.references) for s in self.samples))

    @property
    def _image(self) -> Stretch:
        if self.arch.zero_cond_t:  # references have a modulation of their own
            return Stretch.of([n for s in self.samples for n in (s.target, s.references)], self.arch.width)
        return Stretch.of([s.target + s.references for s in self.samples], self.arch.width)

    @property
    def _text(self) -> Stretch:
        return Stretch.of([s.text for s in self.samples], self.arch.width)

    def _whole(self, tokens: int, size: int) -> int:
        """(tokens, D) on every tensor-parallel rank, or divided by tokens."""
        return tokens * self.arch.width * size // (self.layout.tensor if self.layout.sequence else 1)

    def _part(self, tokens: int, size: int) -> int:
        """(tokens, D) divided by heads or features."""
        return tokens * self.arch.width * size // self.layout.tensor

    def _modulated(self, x: Stretch, modulation: str) -> int:
        """A norm without weights, then scale and shift."""
        kept = self._whole(x.tokens, self.layout.norm_bytes) + 8 * x.tokens
        if not x.long:
            kept += self._whole(x.tokens, self.layout.norm_bytes) if modulation in self.fed else 0
            kept += self._whole(x.tokens, 2 * self.layout.product_bytes) if x.ragged else 0
        return kept

    def _gated(self, x: Stretch, modulation: str) -> int:
        kept = self._whole(x.tokens, self.layout.product_bytes) if modulation in self.fed else 0
        return kept + (self._whole(x.tokens, self.layout.product_bytes) if x.ragged and not x.long else 0)

    def _entry(self, x: Stretch, *names: str) -> int:
        """What goes into linear layers that share their input. Autocast makes a copy for each; tensor-parallel ones
        share theirs, gathered from the ranks that divide the tokens."""
        layout, fed = self.layout, sum(name in self.fed for name in names)
        apart = layout.norm_bytes != layout.product_bytes and layout.tensor == 1
        return x.tokens * self.arch.width * layout.product_bytes * (fed if apart else min(fed, 1))

    def _inner(self, tokens: int, name: str) -> int:
        return self._part(tokens, self.layout.product_bytes) if name in self.fed else 0

    def _head_norm(self, tokens: int) -> int:
        return self._part(tokens, self.layout.norm_bytes) + 4 * tokens * self.arch.heads // self.layout.tensor

    def _attention(self, queries: int, keys: int) -> int:
        """q, k, v, the output, and the logarithm of a sum for each query and head (Dao et al. 2022, algorithm 2)."""
        kept = self._part(2 * queries + 2 * keys, self.layout.product_bytes)
        return kept + 4 * queries * self.arch.heads // self.layout.tensor

    def _second_half(self, x: Stretch, stream: str) -> int:
        modulation = f"{stream}_mod.1"
        hidden = self._part(x.tokens, self.arch.mlp_ratio * self.layout.product_bytes)
        return (
            2 * self._gated(x, modulation)
            + self._modulated(x, modulation)
            + self._entry(x, f"{stream}_mlp.net.0.proj")
            + hidden
            + (hidden if f"{stream}_mlp.net.2" in self.fed else 0)
        )

    def _modulation(self, name: str, rows: int) -> int:
        """SiLU's output, the six of a row, and 1 + scale twice."""
        return 9 * rows * self.arch.width * self.layout.product_bytes if name in self.fed else 0


_FED: WeakKeyDictionary[DenoiserModule, list[frozenset[str]]] = WeakKeyDictionary()


def _fed(network: DenoiserModule, layers: int) -> list[frozenset[str]]:
    """Of each block, the modules in which something is trained. Looked up once: a sweep asks a thousand times."""
    if network not in _FED:
        _FED[network] = _trained_in(network, layers)
    return _FED[network]


def _trained_in(network: DenoiserModule, layers: int) -> list[frozenset[str]]:
    found: list[set[str]] = [set() for _ in range(layers)]
    for name, parameter in network.named_parameters():
        if parameter.requires_grad and name.startswith("transformer_blocks."):
            _, number, *path = name.split(".")
            found[int(number)].update(".".join(path[:length]) for length in range(1, len(path)))
    return [frozenset(each) for each in found]


@frozen(kw_only=True)
class MMDiTCosts:
    """See ``qi_core.planning.Costs``."""

    arch: Architecture
    checkpointing: Checkpointing = "none"

    @property
    def heads(self) -> int:
        """See ``Costs``."""
        return self.arch.heads

    def network(self) -> DenoiserModule:
        """See ``Costs``."""
        import torch

        from qi_plugins.mmdit.network import MMDiTNetwork

        with torch.device("meta"):
            return MMDiTNetwork(self.arch, checkpointing=self.checkpointing)

    def flops(self, samples: Sequence[Tokens], tensor: int = 1) -> int:
        """See ``forward_flops``."""
        return forward_flops(self.arch, samples, tensor)

    def again(self, samples: Sequence[Tokens], tensor: int = 1) -> int:
        """Forward passes of the blocks that are computed again whole; selective checkpointing repeats no product."""
        blocks = block_flops(self.arch, samples, tensor)
        return sum(flops for index, flops in enumerate(blocks) if self._again(index))

    def _again(self, index: int) -> bool:
        if isinstance(self.checkpointing, int):
            return index % self.checkpointing == 0
        return self.checkpointing == "all"

    def activations(self, samples: Sequence[Tokens], layout: Layout, network: DenoiserModule) -> tuple[int, int]:
        """Block by block, and what is outside them; beside it a block computed again, and gradients at work."""
        told: dict[tuple[frozenset[str], bool], tuple[Kept, int]] = {}
        kept = beside = 0
        blocks = _fed(network, self.arch.layers)
        for index, fed in enumerate(blocks):
            last = index == len(blocks) - 1
            if (fed, last) not in told:  # nearly all blocks are alike
                one = Kept(arch=self.arch, samples=samples, layout=layout, fed=fed)
                whole = one.last if last else one.bytes
                if self.checkpointing == "selective":
                    whole = min(whole, one.selective(last=last))
                told[fed, last] = one, whole
            one, whole = told[fed, last]
            kept += one.inputs if self._again(index) else whole
            beside = max(beside, whole if self._again(index) else 0)
        return kept + self._ends(samples, layout), beside + self._at_work(samples, layout)

    def _ends(self, samples: Sequence[Tokens], layout: Layout) -> int:
        """Outside the blocks: tokens that go in, the last norm and the projection out, tables of rotations."""
        text, target = sum(s.text for s in samples), sum(s.target for s in samples)
        image = target + sum(s.references for s in samples)
        b, n = layout.product_bytes, layout.norm_bytes
        kept = image * self.arch.in_channels * b + text * self.arch.text_width * (b + n if n != b else b)
        kept += target * self.arch.width * (b + n) + (image + text) * self.arch.head_dim * 4
        if not Stretch.of([s.target for s in samples], self.arch.width).long:
            kept += target * self.arch.width * n
        return kept

    def _at_work(self, samples: Sequence[Tokens], layout: Layout) -> int:
        """Gradients in flight, at their most in the MLP of the longer stream: of its hidden features before and after
        GELU. (Measured on the released width: 13 to 16 bytes a token and channel, and at most 300 MB of weights.)"""
        image, text = sum(s.target + s.references for s in samples), sum(s.text for s in samples)
        hidden = self.arch.width * self.arch.mlp_ratio // layout.tensor
        return 2 * max(image, text) * hidden * layout.product_bytes

    def exchange(self, samples: Sequence[Tokens], layout: Layout) -> int:
        """Forward, an all-reduce of (tokens, D) after attention and one after the MLP, of each stream; backward as
        many. A ring sends 2 (n - 1) / n of it; sequence parallelism makes two halves of each (Megatron)."""
        tokens = sum(s.text + s.target + s.references for s in samples)
        size = tokens * self.arch.width * layout.product_bytes
        return 4 * self.arch.layers * size * 2 * (layout.tensor - 1) // layout.tensor
