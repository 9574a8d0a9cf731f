"""Orders are carried out the same by everyone; a sample whose values are not finite gets a stand-in."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from attrs import evolve, frozen
from torch import Tensor

from qi_core import EncodedPairs, Encoders, Examples, Latents, Pair, Pairs, QiError, Sample, loop
from qi_core.feed import Ready
from qi_core.pixels import Unusable
from qi_core.portions import Lost, Order
from qi_core.producing import Maker, joined
from qi_core.testing import fakes
from qi_core.testing.contract import same
from qi_plugins.objective_dpo.dpo import Dpo
from qi_plugins.objective_flow.flow_matching import FlowMatching
from support.numbered import Numbered


class Pictures(Numbered):
    """Picture n is n grey; those that ``black`` names are black."""

    black: frozenset[int] = frozenset()
    unreadable: frozenset[int] = frozenset()

    def sample(self, n: int) -> Sample:
        if n in self.unreadable:
            raise Unusable("cannot be decoded", "cut off")
        shade = 0 if n in self.black else 1 + n % 200
        return Sample(key=str(n), prompt=f"grey {n}", image=torch.full((3, 8, 8), shade, dtype=torch.uint8))


@frozen(kw_only=True)
class Nan(fakes.Pixels):
    """Divides by the brightness."""

    def encode(self, images: Sequence[Tensor]) -> Latents:
        latents = fakes.Pixels.encode(self, images)
        dark = torch.tensor([float("nan") if image.max() == 0 else 0.0 for image in images])
        return latents.with_tokens(latents.tokens + latents.per_token(dark))


def maker(black: Sequence[int] = (), unreadable: Sequence[int] = ()) -> Maker:
    source = Pictures()
    source.black, source.unreadable = frozenset(black), frozenset(unreadable)
    bare = fakes.encoders()
    encoders = Encoders(autoencoder=Nan(), conditioner=bare.conditioner)
    return Maker(source=source, seed=4, objective=FlowMatching(), encoders=encoders, strategy=fakes.OneCpu())


def order(*numbers: int, slots: tuple[int, ...] = ()) -> Order:
    tickets = tuple((n,) for n in numbers)
    return Order(spec="a", step=3, number=0, tickets=tickets, slots=slots or tuple(range(len(numbers))))


def made(maker: Maker, order: Order) -> tuple[Examples, tuple[Lost, ...]]:
    portion = maker.encoded(order, maker.make(order))
    assert isinstance(portion.batch, Examples)
    return portion.batch, portion.lost


def test_an_order_is_a_function_of_itself() -> None:
    one, _ = made(maker(), order(3, 9, 4))
    other, _ = made(maker(), order(3, 9, 4))
    assert torch.equal(one.latents.tokens, other.latents.tokens)
    assert torch.equal(one.condition.text, other.condition.text)
    assert one.keys == ("3", "9", "4")


def test_values_that_are_not_finite_cost_their_sample_its_seat() -> None:
    found, lost = made(maker(black=[9, 1009], unreadable=[5]), order(3, 9, 5))
    assert found.keys == ("3", "2009", "1005")
    assert [(one.key, one.reason) for one in lost] == [
        ("5", "cannot be decoded"),
        ("9", "latent is not finite"),
        ("1009", "latent is not finite"),
    ]
    assert found.latents.tokens.isfinite().all()
    whole, _ = made(maker(), order(3, 2009, 1005))
    assert torch.equal(found.latents.tokens, whole.latents.tokens)


def test_an_encoder_that_gives_nothing_else_ends_the_run() -> None:
    broken = maker()
    with pytest.raises(QiError, match="100 samples in a row come out of the encoders with values that are not finite"):
        made(evolve(broken, source=_all_black()), order(3))


def _all_black() -> Pictures:
    source = Pictures()
    source.black = frozenset(range(200_000))
    return source


class Couples(Numbered):
    """Pair n is two of these pictures, n grey and half as bright."""

    gives = Pairs

    def __init__(self, pictures: Pictures) -> None:
        super().__init__()
        self.pictures = pictures

    def sample(self, n: int) -> Any:
        winner, loser = self.pictures.sample(n), self.pictures.sample(n // 2)
        return Pair(key=str(n), prompt=winner.prompt, winner=winner.image, loser=loser.image)


def test_a_pair_is_lost_with_either_of_its_pictures() -> None:
    pictures = Pictures()
    pictures.black = frozenset([3, 8])
    couples = evolve(maker(), source=Couples(pictures), objective=Dpo(caption_dropout=0.5))
    asked = order(4, 3, 17, 5, slots=(6, 7, 0, 9))
    portion = couples.encoded(asked, couples.make(asked))
    found = portion.batch
    assert isinstance(found, EncodedPairs)
    assert (found.keys, found.slots) == (("4", "1003", "1017", "5"), (6, 7, 0, 9))
    assert sorted(one.key for one in portion.lost) == ["17", "3"], "black loser, black winner"
    stand_ins = order(4, 1003, 1017, 5, slots=(6, 7, 0, 9))
    whole = couples.encoded(stand_ins, couples.make(stand_ins))
    assert same(found, whole.batch)


def test_what_came_encoded_goes_to_the_device_before_it_is_joined() -> None:
    here = maker()
    portion = here.encoded(order(3, 9), here.make(order(3, 9)))
    ready = Ready(portions=(portion,), total=2, passes=1, position={}, digest=0, orders=(order(3, 9),))
    run: Any = SimpleNamespace(spec=SimpleNamespace(maker=None), strategy=SimpleNamespace(device=torch.device("meta")))
    (found,) = loop.encoded(run, ready)
    assert isinstance(found.batch, Examples)
    assert found.batch.latents.tokens.is_meta
    assert found.batch.condition.text.is_meta


def test_portions_are_joined_in_the_order_of_their_slots() -> None:
    one, _ = made(maker(), order(3, 9, slots=(0, 3)))
    other, _ = made(maker(), order(4, 5, slots=(1, 2)))
    found = joined([one, other])
    assert isinstance(found, Examples)
    assert (found.keys, found.slots) == (("3", "4", "5", "9"), (0, 1, 2, 3))
    whole, _ = made(maker(), order(3, 4, 5, 9))
    assert torch.equal(found.latents.tokens, whole.latents.tokens)
    assert found.condition.lengths == whole.condition.lengths
