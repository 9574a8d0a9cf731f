"""Encoders behind a cache: the same values whether they were read or encoded, and nothing encoded twice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from attrs import define, field
from torch import Tensor

from qi_core.cache.encoders import CachedAutoencoder, CachedConditioner, NotFinite, cached
from qi_core.cache.names import Known, Names
from qi_core.data import Condition, Latents
from qi_core.encoder import Encoders
from support.caching import shards_of, shelf_at
from support.thirds import Thirds


@define(eq=False)
class Letters:
    """A conditioner that gives a letter a token, and a picture one."""

    width: int = 2
    calls: list[int] = field(factory=list)

    def encode(self, prompts: Sequence[str], references: Sequence[Sequence[Tensor]] = ()) -> Condition:
        self.calls.append(len(prompts))
        shown = references or [()] * len(prompts)
        told = [
            [ord(letter) / 7 for letter in prompt] + [float(image.float().mean()) for image in own]
            for prompt, own in zip(prompts, shown, strict=True)
        ]
        rows = [[value, -value] for own in told for value in own]
        return Condition(text=torch.tensor(rows, dtype=torch.float64).reshape(-1, 2), lengths=tuple(map(len, told)))


def picture(seed: int, height: int = 8, width: int = 12) -> Tensor:
    return torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def rounded(values: Tensor) -> Tensor:
    return values.to(torch.bfloat16).to(values.dtype)


def test_latents_are_rounded_alike_whether_they_were_encoded_or_read(tmp_path: Path) -> None:
    images = [picture(1), picture(2, 4, 4), picture(3)]
    exact = Thirds().encode(images)
    shelf = shelf_at(tmp_path)
    one = CachedAutoencoder(Thirds(), shelf, b"thirds")
    first, second = one.encode(images), one.encode(images)
    shelf.close()
    again = shelf_at(tmp_path)
    bare = Thirds()
    third = CachedAutoencoder(bare, again, b"thirds").encode(images[::-1])
    assert bare.calls == [1]  # a black picture, for dtype and device
    assert first.grids == second.grids == exact.grids == third.grids[::-1]
    assert first.tokens.dtype == second.tokens.dtype == third.tokens.dtype == torch.float32
    assert not torch.equal(exact.tokens, rounded(exact.tokens))
    for found in (first, second, Latents.cat(third.split()[::-1])):
        assert torch.equal(found.tokens, rounded(exact.tokens))
    again.close()


def test_only_what_is_missing_is_encoded_and_in_one_call(tmp_path: Path) -> None:
    shelf, bare = shelf_at(tmp_path), Thirds()
    one = CachedAutoencoder(bare, shelf, b"thirds")
    one.encode([picture(1), picture(2)])
    mixed = one.encode([picture(3), picture(1), picture(4), picture(3)])
    assert bare.calls == [2, 2]  # and what comes twice, once
    exact = Thirds().encode([picture(3), picture(1), picture(4), picture(3)])
    assert torch.equal(mixed.tokens, rounded(exact.tokens))
    shelf.close()


def test_one_by_one_no_value_depends_on_what_else_was_missing(tmp_path: Path) -> None:
    shelf, bare = shelf_at(tmp_path, one_by_one=True), Thirds()
    CachedAutoencoder(bare, shelf, b"thirds").encode([picture(1), picture(2)])
    assert bare.calls == [1, 1]
    shelf.close()


def test_what_decides_the_values_decides_what_is_found(tmp_path: Path) -> None:
    shelf, bare = shelf_at(tmp_path), Thirds()
    CachedAutoencoder(bare, shelf, b"version 1").encode([picture(1)])
    CachedAutoencoder(bare, shelf, b"version 2").encode([picture(1)])
    CachedAutoencoder(bare, shelf, b"version 1").encode([picture(1).float() / 255])
    CachedAutoencoder(bare, shelf, b"version 1").encode([picture(1).reshape(3, 12, 8)])
    assert bare.calls == [1, 1, 1, 1]
    shelf.close()


def test_fp32_is_kept_as_it_is(tmp_path: Path) -> None:
    shelf = shelf_at(tmp_path, dtype="fp32")
    one = CachedAutoencoder(Thirds(), shelf, b"thirds")
    one.encode([picture(1)])
    assert torch.equal(one.encode([picture(1)]).tokens, Thirds().encode([picture(1)]).tokens)
    shelf.close()


def test_captions_are_told_apart_by_their_pictures_too(tmp_path: Path) -> None:
    shelf, bare = shelf_at(tmp_path), Letters()
    one = CachedConditioner(bare, shelf, b"letters")
    prompts, shown = ["a cat", "a cat", "", "猫"], [[picture(1)], [picture(2), picture(1)], [], []]
    exact = Letters().encode(prompts, shown)
    for _ in range(2):
        found = one.encode(prompts, shown)
        assert found.lengths == exact.lengths == (6, 7, 0, 1)
        assert found.text.dtype == torch.float64
        assert torch.equal(found.text, rounded(exact.text))
    assert bare.calls == [4]
    assert one.encode(["a cat"]).lengths == (5,)
    assert bare.calls == [4, 1]
    shelf.close()


def test_latents_and_text_lie_in_files_of_their_own_and_either_may_be_left_out(tmp_path: Path) -> None:
    for wanted in ({"latents": True, "text": True}, {"latents": True, "text": False}, {"latents": False, "text": True}):
        folder = tmp_path / "-".join(f"{k}{v}" for k, v in wanted.items())
        shelf = shelf_at(folder, **wanted)
        both = cached(Encoders(autoencoder=Thirds(), conditioner=Letters()), shelf, b"thirds", b"letters")
        both.autoencoder.encode([picture(1), picture(2, 4, 4)])
        condition = both.condition(["a", "b"], [[picture(5)], []])  # references are pictures too
        assert condition.references is not None
        shelf.close()
        assert len(shards_of(folder)) == 2 * wanted["latents"] + wanted["text"]
        kinds = [path.read_bytes()[:200].count(b'"kind":"latents"') for path in shards_of(folder)]
        assert sum(kinds) == 2 * wanted["latents"]


def test_a_latent_that_is_not_finite_is_refused_by_place_and_remembered_and_the_others_are_kept(tmp_path: Path) -> None:
    class Broken(Thirds):
        def encode(self, images: Sequence[Tensor]) -> Latents:
            found = super().encode(images)
            parts = [one.tokens.clone() for one in found.split()]
            for image, part in zip(images, parts, strict=True):
                if torch.equal(image, picture(2)):
                    part[1, 1] = float("nan")
                if torch.equal(image, picture(4)):
                    part[0, 0] = 3.4e38  # finite, and infinite in bf16
            return found.with_tokens(torch.cat(parts))

    shelf, bare = shelf_at(tmp_path), Broken()
    one = CachedAutoencoder(bare, shelf, b"broken")
    for _ in range(2):
        with pytest.raises(NotFinite, match=r"picture 2 of 4, 12x8") as error:
            one.encode([picture(1), picture(2), picture(3), picture(4)])
        assert error.value.reason == "latent is not finite"
        assert error.value.which == (1, 3)
    one.encode([picture(1), picture(3)])
    assert bare.calls == [4]
    shelf.close()


def test_a_damaged_shard_costs_time_and_changes_nothing(tmp_path: Path) -> None:
    images = [picture(n) for n in range(6)]
    shelf = shelf_at(tmp_path)
    before = CachedAutoencoder(Thirds(), shelf, b"thirds").encode(images)
    shelf.close()
    path = shards_of(tmp_path)[0]
    data = bytearray(path.read_bytes())
    data[4096 + 5] ^= 16
    path.write_bytes(data)
    told: list[str] = []
    again, bare = shelf_at(tmp_path, told), Thirds()
    assert torch.equal(CachedAutoencoder(bare, again, b"thirds").encode(images).tokens, before.tokens)
    assert bare.calls == [1]
    assert len(told) == 1
    again.close()


def test_by_name_a_sample_is_had_without_its_pixels(tmp_path: Path) -> None:
    shelf = shelf_at(tmp_path)
    autoencoder, conditioner = CachedAutoencoder(Thirds(), shelf, b"a"), CachedConditioner(Letters(), shelf, b"c")
    names = Names(shelf, b"pipeline")
    latents, condition = autoencoder.encode([picture(1)]), conditioner.encode(["a cat"])
    known = Known(
        key="1.png",
        prompt="a cat",
        height=8,
        width=12,
        latents=autoencoder.id(picture(1)),
        text=conditioner.id("a cat"),
    )
    names.put(b"1.png", known)
    shelf.close()
    again = shelf_at(tmp_path)
    assert Names(again, b"another pipeline").get([b"1.png"]) == [None]
    assert Names(again, b"pipeline").get([b"2.png", b"1.png"]) == [None, known]
    autoencoder, conditioner = CachedAutoencoder(Thirds(), again, b"a"), CachedConditioner(Letters(), again, b"c")
    blocks, texts = autoencoder.take([known.latents]), conditioner.take([known.text])
    assert blocks[0] is not None
    assert texts[0] is not None
    assert torch.equal(autoencoder.packed([blocks[0]]).tokens, latents.tokens)
    assert torch.equal(conditioner.packed([texts[0]]).text, condition.text)
    assert autoencoder.take([b"?" * 16]) == [None]
    again.close()
