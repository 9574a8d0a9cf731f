"""Modulation by runs: one row for all tokens of a run, and gradients that are exact in bfloat16."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from qi_plugins.mmdit import runs
from qi_plugins.mmdit.runs import Runs

CPU, WIDTH = torch.device("cpu"), 16


def gradients(own: Runs | None, lengths: list[int], dtype: torch.dtype) -> torch.Tensor:
    """Of shift, scale and gate; ``own`` None: by definition, in float64."""
    generator = torch.Generator().manual_seed(0)
    x, y, weights = torch.randn(3, sum(lengths), WIDTH, generator=generator).to(dtype)
    rows = torch.randn(3, len(lengths), WIDTH, generator=generator).to(dtype)
    if own is None:
        x, y, weights, rows = (value.double() for value in (x, y, weights, rows))
    rows.requires_grad_()
    shift, scale, gate = rows
    if own is None:
        shift, scale, gate = (row.repeat_interleave(torch.tensor(lengths), 0) for row in (shift, scale, gate))
        out = x + gate * (F.layer_norm(y, (WIDTH,), eps=runs.EPS) * (1 + scale) + shift)
    else:
        out = own.gate(x, gate, own.modulate(y, shift, scale))
    return torch.autograd.grad((out * weights).sum(), rows)[0]


@pytest.mark.parametrize("long_run", [1, 1 << 40], ids=["one by one", "expanded"])
@pytest.mark.parametrize("lengths", [[3000, 1500, 2000], [1500, 1500]], ids=["ragged", "equal"])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.bfloat16, 6e-3), (torch.float32, 1e-5)], ids=["bf16", "fp32"])
def test_gradients_of_long_runs(
    lengths: list[int], long_run: int, dtype: torch.dtype, limit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "LONG_RUN", {"cpu": long_run, "cuda": long_run})
    found = gradients(Runs.of(lengths, CPU), lengths, dtype).double()
    for one, wanted in zip(found, gradients(None, lengths, dtype), strict=True):
        assert (one - wanted).norm() <= limit * wanted.norm()


@pytest.mark.parametrize("parts", [1, 2, 3, 4, 9])
def test_stretches_put_together_are_the_runs(parts: int) -> None:
    own = Runs.of([3, 0, 5, 2], CPU, rows=[0, 1, 4, 3])
    modulation = torch.arange(5.0)[:, None]
    stretches = [own.stretch(part, parts) for part in range(parts)]
    tokens = torch.cat([each.take(modulation).index_select(0, each.index)[:, 0] for each in stretches])
    assert {len(each.index) for each in stretches} == {-(-10 // parts)}
    assert tokens[:10].tolist() == [0, 0, 0, 4, 4, 4, 4, 4, 3, 3]
    assert set(tokens[10:].tolist()) <= {3}
