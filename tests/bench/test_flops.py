"""The counted work of things whose work is known."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from aime.bench.flops import count_flops
from aime.bench.probe import FLOP, product


def test_a_linear_layer_forward_and_backward():
    """A product forward, and one for each of the two gradients; the bias adds nothing."""
    layer, x = nn.Linear(7, 5), torch.randn(11, 7, requires_grad=True)
    once = 2 * 11 * 7 * 5
    assert count_flops(lambda: layer(x)) == once
    assert count_flops(lambda: layer(x).sum().backward()) == 3 * once


def test_each_of_several_backward_passes_counts():
    """`torch.autograd.grad`, of which a step is made, for one parameter at a time."""
    layer, x = nn.Linear(7, 5, bias=False), torch.randn(11, 7)

    def run() -> None:
        y = layer(x)
        for loss in (y.sum(), y.square().sum()):
            torch.autograd.grad(loss, [layer.weight], retain_graph=True)

    assert count_flops(run) == 3 * 2 * 11 * 7 * 5


def test_a_convolution():
    """Each output pixel is a product of a patch with every filter."""
    convolution, x = nn.Conv2d(3, 8, kernel_size=3, padding=1), torch.randn(2, 3, 6, 6)
    assert count_flops(lambda: convolution(x)) == 2 * (2 * 6 * 6) * (3 * 3 * 3) * 8


def test_an_lstm_though_libraries_do_it_in_one_call():
    lstm, x = nn.LSTM(6, 4, batch_first=True), torch.randn(3, 5, 6, requires_grad=True)
    once = 2 * (3 * 5) * (6 * 16 + 4 * 16)
    assert count_flops(lambda: lstm(x)) == once
    # The gradient of the state before the first frame is the only one that nobody asks for.
    backward = 2 * once - 2 * 3 * 4 * 16
    assert count_flops(lambda: lstm(x)[0].sum().backward()) in (once + backward, 3 * once)


def test_attention_though_libraries_do_it_in_one_call():
    q = torch.randn(2, 4, 10, 8)
    assert count_flops(lambda: F.scaled_dot_product_attention(q, q, q)) == 2 * (2 * 2 * 4 * 10 * 10 * 8)


def test_counting_leaves_the_kernels_as_they_were():
    before = torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled
    count_flops(lambda: None)
    assert (torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled) == before


def test_the_probe_does_what_it_says():
    assert count_flops(product("float32", torch.device("cpu"))) == FLOP
