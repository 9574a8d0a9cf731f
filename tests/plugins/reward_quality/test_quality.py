"""Rewards of the picture alone."""

from __future__ import annotations

import asyncio
import os
import pickle
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor

from qi_core import Candidate, Place, QiError, Scores
from qi_core.testing import check_component, check_reward
from qi_plugins.reward_quality.brisque import features, fitted, mean
from qi_plugins.reward_quality.component import Brisque, Compressibility, Incompressibility
from qi_plugins.reward_quality.machine import literals, load

PLACE = Place(device=torch.device("cpu"), dtype=torch.float32, seed=5, folder=Path())


def scene(size: int = 64, seed: int = 0) -> Image.Image:
    """Discs over each other, few large and many small ones: edges and surfaces as photographs have them (the dead
    leaves of Lee, Mumford and Huang 2001), with some grain."""
    dice = np.random.default_rng(seed)
    image = Image.new("L", (4 * size, 4 * size), 128)
    radii = 8 / np.sqrt(dice.uniform(8**2 / (2 * size) ** 2, 1, size=40 * size))
    for radius, x, y, grey in zip(
        radii, *dice.uniform(0, 4 * size, (2, len(radii))), dice.integers(20, 235, len(radii)), strict=True
    ):
        ImageDraw.Draw(image).ellipse((x - radius, y - radius, x + radius, y + radius), fill=int(grey))
    values = np.asarray(image.resize((size, size), Image.Resampling.BOX)) + dice.normal(0, 2, (size, size))
    return Image.fromarray(np.repeat(values.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2))


def tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)


def judged(component: Any, *images: Tensor) -> Scores:
    candidates = [Candidate(key=str(n), group="g", prompt="", image=image) for n, image in enumerate(images)]
    scores: Scores = asyncio.run(component.build(PLACE).score(candidates))
    return scores


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A machine of two vectors, as the package keeps its own."""
    (tmp_path / "svm.txt").write_text(
        "svm_type epsilon_svr\nkernel_type rbf\ngamma 0.5\nnr_class 2\ntotal_sv 2\nrho -40\nSV\n"
        "20 1:0.25 36:-1 \n-10 2:0.5 \n",
        encoding="ascii",
    )
    (tmp_path / "normalize.pickle").write_bytes(pickle.dumps({"min_": [-1.0] * 36, "max_": [3.0] * 36}))
    return tmp_path


def test_they_keep_the_contract(model: Path) -> None:
    for component in (Compressibility, Incompressibility, Brisque):
        check_component(component)
    candidates = [Candidate(key=str(n), group=str(n // 2), prompt="", image=tensor(scene(seed=n))) for n in range(4)]
    for live in (Compressibility(), Incompressibility(), Brisque(model=model)):
        check_reward(live, candidates=candidates)


def test_the_size_of_the_jpeg_file_counts_in_thousands_of_bytes() -> None:
    stream = BytesIO()
    scene().save(stream, format="JPEG", quality=95)
    size = len(stream.getvalue()) / 1000
    assert judged(Compressibility(), tensor(scene())).values == (-size,)
    assert judged(Incompressibility(), tensor(scene())).values == (size,)


def test_detail_and_quality_make_the_file_larger() -> None:
    plain = torch.full((3, 64, 64), 128, dtype=torch.uint8)
    flat, detailed = judged(Compressibility(), plain, tensor(scene())).values
    (coarse,) = judged(Compressibility(quality=20), tensor(scene())).values
    assert flat is not None
    assert detailed is not None
    assert coarse is not None
    assert flat > coarse > detailed


def test_shape_and_spread_are_found_again_in_what_was_drawn_by_them() -> None:
    dice = np.random.default_rng(7)
    assert fitted(dice.normal(scale=1.5, size=400_000)) == pytest.approx((2.0, 2.25, 2.25), rel=0.02)
    assert fitted(dice.laplace(scale=1.0, size=400_000)) == pytest.approx((1.0, 2.0, 2.0), rel=0.02)
    side = dice.laplace(size=400_000)
    uneven = np.where(side < 0, side, 3 * side)[dice.random(400_000) < np.where(side < 0, 1 / 3, 1)]  # 1 to 3 of mass
    alpha, left, right = fitted(uneven)
    assert (alpha, left, right) == pytest.approx((1.0, 2.0, 18.0), rel=0.03)
    assert mean(alpha, left, right) == pytest.approx(uneven.mean(), rel=0.03)


def test_a_mirrored_picture_has_the_same_features_with_the_diagonals_changed_over() -> None:
    told, mirrored = (features(picture) for picture in (scene(), scene().transpose(Image.Transpose.FLIP_LEFT_RIGHT)))
    across = np.r_[0:10, 14:18, 10:14]
    assert mirrored == pytest.approx(told[np.r_[across, across + 18]], rel=1e-6)
    assert not np.allclose(told[10:14], told[14:18])


def test_the_machine_computes_what_its_file_says(model: Path) -> None:
    x = np.linspace(-1, 3, 36)
    scaled = -1 + 2 * (x + 1) / 4
    one, two = np.zeros(36), np.zeros(36)
    one[0], one[35], two[1] = 0.25, -1.0, 0.5
    by_hand = 20 * np.exp(-0.5 * ((scaled - one) ** 2).sum()) - 10 * np.exp(-0.5 * ((scaled - two) ** 2).sum()) + 40
    assert load(model).score(x) == pytest.approx(by_hand)


def test_flat_and_tiny_pictures_are_left_out_and_counted(model: Path) -> None:
    flat, tiny = torch.full((3, 64, 64), 9, dtype=torch.uint8), tensor(scene())[:, :16]
    found = judged(Brisque(model=model), tensor(scene()), flat, tiny)
    assert found.values[0] is not None
    assert found.values[1:] == (None, None)
    assert found.failures == {"a picture without variation": 1, "a picture with a side below 32 pixels": 1}


def test_a_pickle_that_would_do_anything_is_refused_and_does_nothing(model: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    (model / "normalize.pickle").write_bytes(pickle.dumps({"min_": Trap(), "max_": [1.0] * 36}))
    with pytest.raises(QiError, match=r"a pickle with .*; wanted svm.txt with an epsilon_svr"):
        load(model)
    assert not (tmp_path / "sprung").exists()
    for protocol in (2, 3, 4, 5):
        assert literals(pickle.dumps({"min_": [1.0, 2], "max_": [3.5]}, protocol)) == {"min_": [1, 2], "max_": [3.5]}


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("qi_plugins.reward_quality.machine.find_spec", lambda name: None)
    with pytest.raises(QiError, match=r"not installed; .* pip install --no-deps brisque"):
        Brisque().build(PLACE)
    with pytest.raises(QiError, match=r"FileNotFoundError"):
        Brisque(model=tmp_path / "nowhere").build(PLACE)


@pytest.mark.skipif(find_spec("brisque") is None, reason="the package brisque, which carries the model, is absent")
def test_the_real_machine_finds_blur_and_noise_unnatural() -> None:
    whole = scene(256)
    dice = np.random.default_rng(1)
    noisy = (np.asarray(whole) + dice.normal(0, 25, (256, 256, 1))).clip(0, 255).astype(np.uint8)
    found = judged(
        Brisque(), tensor(whole), tensor(whole.filter(ImageFilter.GaussianBlur(2))), tensor(Image.fromarray(noisy))
    )
    sharp, blurred, grainy = found.values
    assert sharp is not None
    assert blurred is not None
    assert grainy is not None
    assert sharp > 0.6, found
    assert max(blurred, grainy) < sharp - 0.2, found
