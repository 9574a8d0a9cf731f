"""The strategy "single": the device and precision that were asked for, gradients clipped as one vector."""

from __future__ import annotations

import math
import shutil

import pytest
import torch
from torch import Tensor, nn

from qi_core import QiError
from qi_core.denoiser import DenoiserModule, Sharding
from qi_plugins.parallel_single import qi_parallels
from qi_plugins.parallel_single.component import Single


class Block(nn.Linear):
    pass


class Net(DenoiserModule):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(3, 3), Block(3, 3)])
        self.base = nn.Parameter(torch.ones(2, dtype=torch.bfloat16), requires_grad=False)

    def velocity(self, latents: Tensor, t: object = None, condition: object = None) -> Tensor:  # type: ignore[override]
        for block in self.blocks:
            latents = block(latents)
        return latents

    def sharding(self) -> Sharding:
        return Sharding(weights={}, heads=1, blocks="blocks")


def gradients(*values: list[float] | None) -> list[nn.Parameter]:
    parameters = []
    for value in values:
        parameter = nn.Parameter(torch.zeros(len(value or [0.0])))
        parameter.grad = None if value is None else torch.tensor(value)
        parameters.append(parameter)
    return parameters


def test_the_hook_gives_it() -> None:
    assert qi_parallels() == {"single": Single}


def test_auto_is_float32_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    live = Single().build()
    assert (live.device, live.dtype, live.team.ranks) == (torch.device("cpu"), torch.float32, 1)


def test_a_gpu_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(QiError, match=r"parallel.device: 'cuda:1' .* 0 CUDA device"):
        Single(device="cuda:1").build()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(QiError, match=r"parallel.device: 'cuda:1' .* 1 CUDA device"):
        Single(device="cuda:1").build()


def test_fp16_is_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match=r"NaN or black pictures; use bfloat16"):
        Single(precision="fp16")


@pytest.mark.parametrize("field", [{"device": "gpu"}, {"device": "cuda:x"}, {"precision": "fp64"}, {"threads": -1}])
def test_settings_that_mean_nothing_are_refused_by_name(field: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(field))):
        Single(**field)  # type: ignore[arg-type]


def test_bf16_multiplies_in_bfloat16_and_keeps_weights_and_gradients_in_float32() -> None:
    live = Single(device="cpu", precision="bf16").build()
    net = live.place(Net().to(torch.bfloat16))
    assert {p.dtype for p in net.blocks.parameters()} == {torch.float32}
    assert net.base.dtype == torch.bfloat16  # frozen parts stay as they are
    with live.autocast():
        out = net(torch.ones(2, 3), None, None)
    assert (live.dtype, out.dtype) == (torch.bfloat16, torch.bfloat16)
    live.backward(out.float().sum())
    assert {p.grad.dtype for p in net.blocks.parameters() if p.grad is not None} == {torch.float32}


def test_fp32_computes_in_float32() -> None:
    live = Single(device="cpu", precision="fp32").build()
    with live.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


@pytest.mark.usefixtures("no_tf32")  # which puts back what it found
def test_fp32_on_a_gpu_is_float32_in_convolutions_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qi_core.devices.device", lambda asked: torch.device("cuda", 0))
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    Single(device="cuda", precision="fp32").build()
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


def test_backward_adds_to_what_is_there() -> None:
    live = Single(device="cpu").build()
    weight = nn.Parameter(torch.ones(1))
    live.backward((2 * weight).sum())
    live.backward((3 * weight).sum())
    assert weight.grad is not None
    assert weight.grad.item() == 5


def test_clip_scales_all_gradients_as_one_vector_and_tells_the_norm_before() -> None:
    parameters = gradients([3.0], None, [0.0, 4.0])
    assert Single(device="cpu").build().clip(parameters, 1.0) == 5.0
    assert parameters[1].grad is None
    torch.testing.assert_close(parameters[0].grad, torch.tensor([0.6]))
    torch.testing.assert_close(parameters[2].grad, torch.tensor([0.0, 0.8]))


@pytest.mark.parametrize("limit", [0.0, 5.1])
def test_clip_leaves_gradients_below_the_limit_and_without_one(limit: float) -> None:
    parameters = gradients([3.0], [4.0])
    assert Single(device="cpu").build().clip(parameters, limit) == 5.0
    assert [p.grad for p in parameters] == [torch.tensor([3.0]), torch.tensor([4.0])]


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_norm_that_is_not_finite_is_told_and_nothing_is_scaled(value: float) -> None:
    parameters = gradients([2.0], [value])
    assert not math.isfinite(Single(device="cpu").build().clip(parameters, 1.0))
    assert parameters[0].grad is not None
    assert parameters[0].grad.item() == 2.0


def test_clip_of_no_gradients_is_zero() -> None:
    assert Single(device="cpu").build().clip(gradients(None), 1.0) == 0.0


def test_one_of_several_processes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(QiError, match=r"'single' is for one process, but 2 were started; use --set parallel=fsdp"):
        Single(device="cpu").build()


def test_compile_keeps_the_names_of_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(Block, "compile", lambda self: compiled.append(self))
    monkeypatch.setattr(shutil, "which", lambda name: name)
    net = Net()
    names = [name for name, _ in net.named_parameters()]
    Single(device="cpu", compile=True).build().place(net)
    assert compiled == list(net.blocks)
    assert [name for name, _ in net.named_parameters()] == names


def test_compiled_blocks_compute_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    # The backend "eager" traces and guards as the real one does, and needs no C++ compiler on the machine.
    monkeypatch.setattr(Block, "compile", lambda self: nn.Module.compile(self, backend="eager"))
    monkeypatch.setattr(shutil, "which", lambda name: name)
    net = Net()
    x_ND = torch.randn(5, 3)
    wanted = net(x_ND, None, None)
    Single(device="cpu", compile=True).build().place(net)
    torch.testing.assert_close(net(x_ND, None, None), wanted)


def test_compile_without_a_compiler_is_told_before_the_run_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(QiError, match=r"parallel.compile: .* no C\+\+ compiler"):
        Single(device="cpu", compile=True).build()


def test_threads_are_set() -> None:
    before = torch.get_num_threads()
    try:
        Single(device="cpu", threads=before + 1).build()
        assert torch.get_num_threads() == before + 1
        Single(device="cpu").build()
        assert torch.get_num_threads() == before + 1  # 0 leaves it
    finally:
        torch.set_num_threads(before)
