"""Copies that follow the weights: by which rule, and that borrowing one leaves no trace."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qi_core import Average, Fixed, Models, Ramp, Refreshed, Shadow
from qi_core.testing.fakes import OneCpu, encoders
from qi_core.weights import load_weights


def net() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[1].weight.requires_grad_(False)
    return model


def shake(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))


def values(model: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("decay", [0.9, 0.15])
def test_the_decay_rises_to_its_setting(decay: float) -> None:
    model = net()
    ema = Shadow(model, Average(decay))
    average = model[0].weight.detach().double()
    for n in range(12):
        shake(model, n)
        ema.update()
        d = min(decay, (1 + n) / (10 + n))
        average = d * average + (1 - d) * model[0].weight.detach().double()
    torch.testing.assert_close(ema.tensors()["0.weight"].double(), average, atol=1e-6, rtol=1e-6)


def test_it_starts_as_the_weights_and_follows_them_without_being_them() -> None:
    model = net()
    ema = Shadow(model, Average(0.99))
    first = values(model)
    shake(model, 1)
    assert torch.equal(ema.tensors()["0.weight"], first[0])


def test_it_gives_a_whole_set_of_weights_with_frozen_ones_as_they_are() -> None:
    model = net()
    ema = Shadow(model, Average(0.9))
    shake(model, 1)
    ema.update()
    assert ema.tensors().keys() == dict(model.named_parameters()).keys()
    assert torch.equal(ema.tensors()["1.weight"], model.get_parameter("1.weight"))
    assert not torch.equal(ema.tensors()["0.weight"], model.get_parameter("0.weight"))


def test_buffers_belong_to_the_whole_set() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))
    ema = Shadow(model, Average(0.9))
    model(torch.ones(2, 3))  # moves the running mean
    other = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))
    load_weights(other, ema.tensors(), "here", "wrong")
    assert torch.equal(other.get_buffer("0.running_mean"), model.get_buffer("0.running_mean"))
    ema.load(ema.tensors(), 1)
    ema.load({name: t for name, t in ema.tensors().items() if "running" not in name}, 1)  # as they were once saved


def test_inside_applied_the_model_holds_the_averages_and_afterwards_its_own_bits() -> None:
    model = net()
    ema = Shadow(model, Average(0.9))
    shake(model, 1)
    ema.update()
    own = values(model)
    average = {name: t.clone() for name, t in ema.tensors().items()}
    with ema.applied():
        assert all(torch.equal(model.get_parameter(name), t) for name, t in average.items())
    assert same(values(model), own)
    assert all(torch.equal(ema.tensors()[name], t) for name, t in average.items())


def test_under_autocast_each_computes_with_its_own_weights() -> None:
    """Autocast keeps bfloat16 copies of parameters; a step asks the reference first and then the policy."""
    model = nn.Linear(3, 2, bias=False)
    fixed = Shadow(model, Fixed())
    with torch.no_grad():
        model.weight.mul_(3)
    x = torch.ones(1, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with torch.no_grad(), fixed.applied():
            before = model(x)
        now = model(x)
        with torch.no_grad(), fixed.applied():
            again = model(x)
    assert torch.allclose(now.float(), 3 * before.float(), rtol=0.02)
    assert torch.equal(again, before)
    now.float().sum().backward()
    assert model.weight.grad is not None
    assert torch.equal(model.weight.grad, torch.ones(2, 3))


def test_nothing_is_recorded_for_a_gradient_with_other_weights() -> None:
    model = net()
    asked = Models(encoders=encoders(), denoiser=model, strategy=OneCpu(), shadows={"old": Shadow(model, Fixed())})  # type: ignore[arg-type]
    with asked.as_of("old"):
        assert not model(torch.ones(1, 3)).requires_grad
    assert model(torch.ones(1, 3)).requires_grad


def test_applied_gives_the_weights_back_when_something_fails_inside() -> None:
    model = net()
    ema = Shadow(model, Average(0.9))
    shake(model, 1)
    ema.update()
    own = values(model)
    with pytest.raises(ZeroDivisionError), ema.applied():
        _ = 1 / 0
    assert same(values(model), own)


def test_the_optimizer_goes_on_with_the_same_tensors_after_applied() -> None:
    """Swapping values must not swap the parameters themselves: an optimizer holds them."""
    model = net()
    ema = Shadow(model, Average(0.9))
    before = [id(p) for p in model.parameters()]
    places = [p.data_ptr() for p in model.parameters()]
    with ema.applied():
        pass
    assert [id(p) for p in model.parameters()] == before
    assert [p.data_ptr() for p in model.parameters()] == places


def test_a_loaded_average_goes_on_bit_for_bit() -> None:
    unbroken, broken = net(), net()
    one, two = Shadow(unbroken, Average(0.9)), Shadow(broken, Average(0.9))
    for n in range(10):
        shake(unbroken, n)
        one.update()
        if n == 5:
            saved = {name: t.clone() for name, t in two.tensors().items()}
            resumed = Shadow(broken, Average(0.9))
            resumed.load(saved, two.updates)
            two = resumed
        shake(broken, n)
        two.update()
    assert two.updates == one.updates == 10
    assert all(torch.equal(t, two.tensors()[name]) for name, t in one.tensors().items())


def test_rules() -> None:
    assert [Fixed().decay(n) for n in range(3)] == [1, 1, 1]
    assert [Refreshed(3).decay(n) for n in range(6)] == [1, 1, 0, 1, 1, 0]
    assert [Ramp(0.25, 0.5).decay(n) for n in range(4)] == [0, 0.25, 0.5, 0.5]


def test_one_that_stands_still_keeps_its_bits_and_a_fresh_copy_is_the_weights() -> None:
    model = net()
    fixed, refreshed = Shadow(model, Fixed()), Shadow(model, Refreshed(2))
    first = values(model)
    for n in range(4):
        shake(model, n)
        fixed.update()
        refreshed.update()
    assert torch.equal(fixed.tensors()["0.weight"], first[0])
    assert torch.equal(refreshed.tensors()["0.weight"], model.get_parameter("0.weight"))
