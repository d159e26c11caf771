"""The network: its layers, its parameters, its cost, and its norms over several processes."""

import math
import os
import socket
from typing import get_args

import pytest
import torch

from r2plus1d.config import schema
from r2plus1d.model.cost import cost
from r2plus1d.model.network import BLOCKS, CONVS, Conv2plus1d, OuterNorm, build
from tests.support.commands import printed


@pytest.mark.parametrize("depth", BLOCKS)
def test_depth_is_the_number_of_layers_and_each_clip_has_its_logits(depth):
    model = build(depth=depth, num_classes=7, width=4)
    convolutions = [m for name, m in model.named_modules() if isinstance(m, Conv2plus1d) and "downsample" not in name]
    assert len(convolutions) + 1 == depth
    with torch.no_grad():
        assert model.eval()(torch.zeros(2, 3, 8, 32, 32)).shape == (2, 7)


def test_width_between_the_convolutions_keeps_the_parameter_count_of_a_3d_kernel():
    for channels, out, mid in ((64, 64, 144), (64, 128, 230), (128, 128, 288), (256, 512, 921), (512, 512, 1152)):
        conv = Conv2plus1d(channels, out, (3, 3, 3), (1, 1, 1), (1, 1, 1))
        assert conv.conv_s.out_channels == mid
        parameters = conv.conv_s.weight.numel() + conv.conv_t.weight.numel()
        assert parameters <= 27 * channels * out < parameters + 9 * channels + 3 * out


# Section 3 of the paper: which groups convolve in time (1 is the stem), and the millions of parameters that it gives
# for 18 layers and 400 classes. R2D's stem joins 8 frames.
PAPER = {
    "r3d": ("12345", 33.4),
    "r2d": ("", 11.4),
    "f_r2d": ("", 11.4),
    "mc2": ("1", 11.4),
    "mc3": ("12", 11.7),
    "mc4": ("123", 12.7),
    "mc5": ("1234", 16.9),
    "rmc2": ("2345", 33.3),
    "rmc3": ("345", 33.1),
    "rmc4": ("45", 32.0),
    "rmc5": ("5", 27.9),
    "r2plus1d": ("12345", 33.3),
}


def paper_count(conv: str, depth: int, classes: int) -> int:
    """Parameters of a residual network (He et al. 2016, table 1, shortcuts by projection) whose kernels are 3 frames
    deep in the paper's groups and 1 frame deep in the others; those of R(2+1)D are split as section 3.5 says."""
    groups, _ = PAPER[conv]

    def weights(group: int, channels: int, out: int, side: int) -> int:
        if conv == "r2plus1d":
            mid = 3 * side**2 * channels * out // (side**2 * channels + 3 * out)
            return mid * (side**2 * channels + (3 if side > 1 else 1) * out) + 2 * mid + 2 * out
        deep = 3 if str(group) in groups and side > 1 else 1
        return channels * out * side**2 * (8 if conv == "r2d" and group == 1 else deep) + 2 * out

    spread = 4 if depth >= 50 else 1
    total, channels = weights(1, 3, 64, 7), 64
    for group, (blocks, width) in enumerate(zip(BLOCKS[depth], (64, 128, 256, 512), strict=True), 2):
        for block in range(blocks):
            sides = (1, 3, 1) if spread == 4 else (3, 3)
            widths = (width, width, 4 * width) if spread == 4 else (width, width)
            for side, before, after in zip(sides, (channels, *widths), widths, strict=False):
                total += weights(group, before, after, side)
            if block == 0 and channels != spread * width:
                total += weights(group, channels, spread * width, 1)
            channels = spread * width
    return total + channels * classes + classes


@pytest.mark.parametrize("conv", CONVS)
@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_parameters_of_a_convolution_are_those_that_the_paper_gives(conv, depth):
    with torch.device("meta"):
        model = build(depth=depth, conv=conv)
    count = sum(p.numel() for p in model.parameters())
    assert count == paper_count(conv, depth, 400)
    if depth == 18:  # our R(2+1)D splits the shortcuts too, as the published rows do
        assert abs(count / 1e6 - PAPER[conv][1]) < (0.15 if conv == "r2plus1d" else 0.06)


def test_stem_that_joins_all_frames_is_a_convolution_over_3_l_channels():
    model, clip = build(depth=18, width=4, num_classes=5, conv="r2d", frames=6).eval(), torch.randn(2, 3, 6, 32, 32)
    stem = model.backbone.conv1.conv
    flat = torch.nn.functional.conv2d(clip.flatten(1, 2), stem.weight.flatten(1, 2), stride=2, padding=3)
    with torch.no_grad():
        torch.testing.assert_close(stem(clip)[:, :, 0], flat)
        assert model(clip).shape == (2, 5)
        with pytest.raises(ValueError, match="built for clips of 6 frames, not of 8"):
            model(torch.zeros(1, 3, 8, 32, 32))


@pytest.mark.parametrize(
    ("conv", "frames"), [("r2plus1d", 2), ("r3d", 2), ("r2d", 1), ("f_r2d", 16), ("mc4", 8), ("rmc4", 4)]
)
def test_clip_is_shortened_by_convolutions_in_time_alone(conv, frames):
    model = build(depth=18, width=4, conv=conv, frames=16).eval()
    with torch.no_grad():
        assert model.backbone(torch.zeros(1, 3, 16, 64, 64)).shape == (1, 32, frames, 2, 2)


def test_cost_of_the_published_networks_is_the_published_one():
    with torch.device("meta"):
        model = build()
    short, long = cost(model, 8, 256, 256), cost(model, 32, 256, 256)
    assert (short.parameters, short.macs, long.macs) == (63_759_281, 52_977_868_800, 211_910_860_800)
    assert [round(c.published_flops / 1e9, 2) for c in (short, long)] == [53.18, 212.70]
    assert cost(model, 8, 224, 224).macs == 40_561_228_800


@pytest.fixture(scope="module")
def in_two_processes(tmp_path_factory):
    """What the functions below returned, each in two processes of one gloo group: of each function a pair."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(one_of_two, (str(folder), port), nprocs=2)
    return list(zip(*(torch.load(folder / str(rank)) for rank in (0, 1)), strict=True))


def one_of_two(rank: int, folder: str, port: int) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    torch.save((statistics_of_one_process(rank), gradients_of_one_process(rank)), f"{folder}/{rank}")
    torch.distributed.destroy_process_group()


def statistics_of_one_process(rank: int) -> tuple[dict, dict]:
    """Half of a batch in one of two processes."""
    network, clips = small_network()
    block = network.backbone.layer1
    block(clips[2 * rank : 2 * rank + 2]).square().sum().backward()
    return {n: p.grad for n, p in block.named_parameters()}, dict(block.named_buffers())


def small_network():
    torch.manual_seed(0)
    return build(depth=10, width=4).train(), torch.randn(4, 4, 4, 8, 8)


def test_outer_batch_norm_is_synchronised_over_processes_and_the_inner_one_apart(in_two_processes):
    (first, buffers), (second, others) = in_two_processes[0]
    for name in buffers:
        same = torch.equal(buffers[name], others[name])
        assert same == ("bn_s.running" not in name), name
    network, clips = small_network()
    inner = network.backbone.layer1[0].conv1.conv
    halves = [inner.conv_s(clips[i : i + 2]) for i in (0, 2)]
    for half, found in zip(halves, (buffers, others), strict=True):
        expected = 0.1 * half.mean((0, 2, 3, 4))
        torch.testing.assert_close(found["0.conv1.conv.bn_s.running_mean"], expected, rtol=1e-4, atol=1e-6)
    whole = torch.cat([inner.conv_t(torch.relu(batch_norm(half))) for half in halves])
    outer = network.backbone.layer1[0].conv1.bn
    mean, var = whole.mean((0, 2, 3, 4)), whole.var((0, 2, 3, 4))
    torch.testing.assert_close(buffers["0.conv1.bn.running_mean"], 0.1 * mean, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(buffers["0.conv1.bn.running_var"], 0.9 + 0.1 * var, rtol=1e-4, atol=1e-6)
    assert outer.eps == 1e-3
    assert all(torch.isfinite(first[name] + second[name]).all() for name in first)


def batch_norm(x):
    return torch.nn.functional.batch_norm(x, None, None, training=True, eps=1e-5)


def test_gradients_through_a_synchronised_norm_are_those_of_the_whole_batch(in_two_processes):
    first, second = in_two_processes[1]
    norm, x, weight = norm_and_batch()
    (norm(x) * weight).pow(3).sum().backward()
    torch.testing.assert_close(torch.cat([first["x"], second["x"]]), x.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(first["weight"] + second["weight"], norm.weight.grad, rtol=1e-4, atol=1e-5)
    assert first["apart"], "two norms of a block share a gradient, which clipping would scale twice"


def norm_and_batch():
    torch.manual_seed(0)
    norm = OuterNorm(4)
    torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
    return norm, torch.randn(4, 4, 2, 3, 3, requires_grad=True), torch.randn(4, 4, 2, 3, 3)


def gradients_of_one_process(rank: int) -> dict:
    norm, x, weight = norm_and_batch()
    own = slice(2 * rank, 2 * rank + 2)
    part = x[own].detach().requires_grad_()
    (norm(part) * weight[own]).pow(3).sum().backward()
    pair, value = (OuterNorm(4), OuterNorm(4)), torch.randn(1, 4, 1, 1, 1)
    torch.relu(pair[0](value) + pair[1](value) + 1).sum().backward()
    apart = pair[0].bias.grad.data_ptr() != pair[1].bias.grad.data_ptr()
    return {"x": part.grad, "weight": norm.weight.grad, "apart": apart}


def test_every_convolution_and_depth_of_the_builder_can_be_asked_for():
    assert set(get_args(schema.Convolution)) == set(CONVS)
    assert set(get_args(schema.Depth)) == set(BLOCKS)


def test_fresh_weights_are_drawn_as_widely_as_the_original_s():
    """MMAction's: the convolutions He et al.'s for what goes out of them, the last layer 0.01."""
    torch.manual_seed(0)
    model = build(depth=10, width=16)
    last = model.cls_head.fc_cls
    assert last.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not last.bias.any()
    for module in model.modules():
        if isinstance(module, torch.nn.Conv3d):
            out = module.out_channels * math.prod(module.kernel_size)
            assert module.weight.std().item() == pytest.approx(math.sqrt(2 / out), rel=0.1)


def test_unknown_depth_or_convolution_is_an_error():
    with pytest.raises(ValueError, match="depth 33"):
        build(depth=33)
    with pytest.raises(ValueError, match="'r4d'"):
        build(conv="r4d")


def test_shapes_are_told_without_the_compiler_of_torch():
    """Which takes seconds to load, and which drawing weights on the meta device would load."""
    code = (
        "import sys, torch; from r2plus1d.model.network import build\n"
        "with torch.device('meta'): state = build(depth=10).state_dict()\n"
        "print(len(state) > 50, 'torch._dynamo' in sys.modules)"
    )
    assert printed(code) == "True False\n"
