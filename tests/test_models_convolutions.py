"""Convolutions on a CPU whose gradients are computed in another way than PyTorch would."""

from contextlib import nullcontext

import pytest
import timm
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastseg.models import factory, network

GRADIENT = torch.ops.aten.convolution_backward.default


class Gradients(TorchDispatchMode):
    """Store in which dtypes gradients of input and weight are computed, for each convolution."""

    def __init__(self):
        super().__init__()
        self.seen = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is GRADIENT:
            gradient, _, weight, _, stride, _, dilation, *_, groups, wanted = args
            key = weight.shape[-1], stride[0], dilation[0], groups > 1
            found = self.seen.setdefault(key, (set(), set()))
            for dtypes, is_wanted in zip(found, wanted):
                dtypes.update([gradient.dtype] if is_wanted else [])
        return func(*args, **(kwargs or {}))


def small(body):
    """Return a network in bfloat16 around `body`, a module of 8 channels in and out."""
    model = nn.Sequential(nn.Conv2d(3, 8, 1), body, nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1))
    built = network.Network(model, network.Spec("segment", "none", 2, "light"))
    built.precision = "bfloat16"
    return built.train()


def gradients_of(built, size=32):
    """Return the dtypes of the gradients of a step, and the gradients, flat."""
    built.zero_grad()
    x = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with Gradients() as gradients:
        built(x).square().mean().backward()
    return gradients.seen, torch.cat([p.grad.flatten() for p in built.parameters()])


@pytest.mark.parametrize(
    "kernel, stride, dilation, dtypes",
    [
        (3, 1, 1, (torch.bfloat16, torch.bfloat16)),
        (3, 2, 1, (torch.float32, torch.bfloat16)),
        (3, 1, 2, (torch.float32, torch.float32)),
        (5, 1, 1, (torch.float32, torch.float32)),
        (7, 2, 1, (torch.float32, torch.float32)),
    ],
)
@pytest.mark.parametrize("of", [nn.Conv2d, timm.layers.Conv2dSame])
def test_depthwise_gradients_that_are_slow_in_bfloat16_are_float32(
    kernel, stride, dilation, dtypes, of
):
    padding = {} if of is timm.layers.Conv2dSame else {"padding": dilation * (kernel // 2)}
    body = of(8, 8, kernel, stride=stride, dilation=dilation, groups=8, **padding)
    seen, _ = gradients_of(small(body))
    assert seen[kernel, stride, dilation, True] == ({dtypes[0]}, {dtypes[1]})
    assert seen[1, 1, 1, False] == ({torch.bfloat16},) * 2  # others stay as autocast has them


def test_dense_and_grouped_convolutions_stay_in_bfloat16():
    for groups in (1, 4):
        seen, _ = gradients_of(small(nn.Conv2d(8, 8, 3, 2, 1, groups=groups)))
        assert seen[3, 2, 1, groups > 1] == ({torch.bfloat16},) * 2


def test_the_output_has_the_dtype_of_autocast():
    found = []
    body = nn.Conv2d(8, 8, 3, 2, 1, groups=8)
    body.register_forward_hook(lambda module, inputs, output: found.append(output.dtype))
    built = small(body)
    built(torch.rand(2, 3, 32, 32))
    with torch.no_grad():
        built(torch.rand(2, 3, 32, 32))
    built.precision = "float32"
    built(torch.rand(2, 3, 32, 32))
    assert found == [torch.bfloat16, torch.bfloat16, torch.float32]


@pytest.mark.parametrize("kernel, channels", [(3, 8), (3, 16), (5, 8)])
def test_gradients_are_as_exact_as_those_of_plain_autocast(monkeypatch, kernel, channels):
    torch.manual_seed(0)
    depthwise = nn.Conv2d(8, channels, kernel, 2, kernel // 2, groups=8)
    built = small(nn.Sequential(depthwise, nn.Conv2d(channels, 8, 1)))
    _, found = gradients_of(built)
    built.precision = "float32"
    _, exact = gradients_of(built)
    monkeypatch.setattr(network, "cpu_convolutions", lambda device: nullcontext())
    built.precision = "bfloat16"
    _, plain = gradients_of(built)
    # bfloat16 keeps 8 bits: gradients of these networks differ from exact ones by 0.5 % or so
    assert 0 < (plain - exact).norm() < 0.02 * exact.norm()
    assert 0 < (found - exact).norm() < 0.02 * exact.norm()


def test_a_segmenter_trains_with_it():
    built, _ = factory.segmenter("mobilenetv2_035", 3)
    built.precision = "bfloat16"
    seen, found = gradients_of(built.train(), 64)
    assert seen[3, 2, 1, True] == ({torch.float32}, {torch.bfloat16})
    assert seen[3, 1, 1, True] == ({torch.bfloat16},) * 2
    assert torch.isfinite(found).all()


def test_frozen_layers_get_no_gradient():
    built = small(nn.Conv2d(8, 8, 3, 2, 1, groups=8))
    for parameter in built.model[:2].parameters():
        parameter.requires_grad_(False)
    with Gradients() as gradients:
        built(torch.rand(2, 3, 32, 32)).sum().backward()
    assert list(gradients.seen) == [(1, 1, 1, False)]
    assert all(p.grad is None for p in built.model[:2].parameters())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("channels, stride", [(1, 1), (3, 1), (15, 1), (16, 2)])
def test_strided_pointwise_convolutions_of_few_channels_are_computed_without_stride(
    channels, stride, precision
):
    """oneDNN's own gradients of them write past their memory (issue 6035)."""
    torch.manual_seed(0)
    built = small(nn.Sequential(nn.Conv2d(8, channels, 1), nn.Conv2d(channels, 8, 1, (2, 3))))
    built.precision = precision
    seen, found = gradients_of(built)
    assert {key[1] for key in seen} == {1, stride}
    # In float64, PyTorch computes without oneDNN, and outside of the network without replacements.
    built.double().zero_grad()
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    built.model(x.double()).square().mean().backward()
    exact = torch.cat([p.grad.flatten() for p in built.parameters()])
    error = 1e-3 if precision == "float32" else 0.05
    assert (found - exact).norm() < error * exact.norm()
