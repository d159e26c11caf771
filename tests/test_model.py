"""The network, its faster form, its file, and the accuracies."""

import copy
import os
import socket
from typing import get_args

import numpy as np
import pytest
import torch

from r2plus1d.config import schema
from r2plus1d.model import checkpoint, lowered
from r2plus1d.model.cost import cost
from r2plus1d.model.lowered import Lowered, Plain, for_inference, for_training
from r2plus1d.model.network import BLOCKS, CONVS, Conv2plus1d, OuterNorm, build
from r2plus1d.video.views import to_input
from r2plus1d.zoo import accuracy

CPU = torch.device("cpu")


def trained_a_little(**arguments):
    """Batch norms with statistics and scales other than 0 and 1, as after training."""
    torch.manual_seed(0)
    model = build(**arguments)
    model(torch.randn(4, 3, 8, 32, 32))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm3d | OuterNorm):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.5, 0.5)
    return model.eval()


@pytest.mark.parametrize("depth", BLOCKS)
def test_depth_is_not_the_number_of_layers_or_the_logits_have_another_shape(depth):
    model = build(depth=depth, num_classes=7, width=4)
    convolutions = [m for name, m in model.named_modules() if isinstance(m, Conv2plus1d) and "downsample" not in name]
    assert len(convolutions) + 1 == depth
    with torch.no_grad():
        assert model.eval()(torch.zeros(2, 3, 8, 32, 32)).shape == (2, 7)


def test_width_between_the_convolutions_changes_the_parameter_count_of_a_3d_kernel():
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
def test_parameters_of_a_convolution_are_not_those_that_the_paper_gives(conv, depth):
    with torch.device("meta"):
        model = build(depth=depth, conv=conv)
    count = sum(p.numel() for p in model.parameters())
    assert count == paper_count(conv, depth, 400)
    if depth == 18:  # our R(2+1)D splits the shortcuts too, as the published rows do
        assert abs(count / 1e6 - PAPER[conv][1]) < (0.15 if conv == "r2plus1d" else 0.06)


def test_stem_that_joins_all_frames_is_not_a_convolution_over_3_l_channels():
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
def test_convolution_in_space_alone_shortens_the_clip(conv, frames):
    model = build(depth=18, width=4, conv=conv, frames=16).eval()
    with torch.no_grad():
        assert model.backbone(torch.zeros(1, 3, 16, 64, 64)).shape == (1, 32, frames, 2, 2)


def test_cost_of_the_published_networks_is_not_the_published_one():
    with torch.device("meta"):
        model = build()
    short, long = cost(model, 8, 256, 256), cost(model, 32, 256, 256)
    assert (short.parameters, short.macs, long.macs) == (63_759_281, 52_977_868_800, 211_910_860_800)
    assert [round(c.published_flops / 1e9, 2) for c in (short, long)] == [53.18, 212.70]
    assert cost(model, 8, 224, 224).macs == 40_561_228_800


def in_two_processes(function, folder):
    """What function(0) and function(1) returned, each in a process of one gloo group."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(one_of_two, (function, str(folder), port), nprocs=2)
    return [torch.load(folder / str(rank)) for rank in (0, 1)]


def one_of_two(rank: int, function, folder: str, port: int) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    torch.save(function(rank), f"{folder}/{rank}")
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


def test_outer_batch_norm_is_not_synchronised_over_processes_or_the_inner_one_is(tmp_path):
    (first, buffers), (second, others) = in_two_processes(statistics_of_one_process, tmp_path)
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


def test_gradients_through_a_synchronised_norm_are_not_those_of_the_whole_batch(tmp_path):
    first, second = in_two_processes(gradients_of_one_process, tmp_path)
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


def test_convolution_or_depth_of_the_builder_cannot_be_asked_for():
    assert set(get_args(schema.Convolution)) == set(CONVS)
    assert set(get_args(schema.Depth)) == set(BLOCKS)


def test_unknown_depth_or_convolution_is_built():
    with pytest.raises(ValueError, match="depth 33"):
        build(depth=33)
    with pytest.raises(ValueError, match="'r4d'"):
        build(conv="r4d")


@pytest.mark.parametrize("conv", CONVS)
def test_network_for_inference_computes_something_else(conv):
    model = trained_a_little(depth=18, num_classes=5, width=8, conv=conv)
    frames, places = torch.randint(0, 256, (12, 48, 40, 3), dtype=torch.uint8), torch.randint(0, 12, (3, 8))
    x, fast = to_input(frames[places], CPU), for_inference(model, CPU)
    assert isinstance(fast, Lowered)
    with torch.inference_mode():
        plain = model(x)
        torch.testing.assert_close(fast(x), plain, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(fast.from_frames(frames, places), plain, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(Plain(model).from_frames(frames, places), plain, rtol=0, atol=0)
    assert isinstance(model.backbone.conv1.bn, OuterNorm), "the original was changed"


def test_clips_of_a_later_part_are_lost_or_mixed_up(monkeypatch):
    fast = for_inference(trained_a_little(depth=10, num_classes=5, width=4), CPU)
    frames, places = torch.randint(0, 256, (12, 32, 40, 3), dtype=torch.uint8), torch.randint(0, 12, (7, 8))
    with torch.inference_mode():
        whole = fast.from_frames(frames, places)
        monkeypatch.setattr(lowered, "PIXELS_AT_ONCE", 3 * 8 * 32 * 40)
        torch.testing.assert_close(fast.from_frames(frames, places), whole, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(fast(to_input(frames[places], CPU)), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("frames", [8, 32])
@pytest.mark.parametrize("conv", CONVS)
def test_training_step_of_the_rewritten_network_is_another(conv, frames):
    torch.manual_seed(0)
    plain = build(depth=10, num_classes=5, width=4, conv=conv, frames=frames, dropout=0.0).train()
    model = copy.deepcopy(plain)
    fast = for_training(model, torch.device("cpu"))
    assert fast is not model
    clips, labels = torch.randn(4, 3, frames, 32, 32), torch.randint(5, (4,))
    losses = []
    for network in (plain, fast):
        losses.append(torch.nn.functional.cross_entropy(network(clips), labels))
        losses[-1].backward()
    torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(dict(model.named_buffers()), dict(plain.named_buffers()), rtol=1e-4, atol=1e-6)
    ours, reference = (torch.cat([p.grad.flatten() for p in network.parameters()]) for network in (model, plain))
    assert (ours - reference).norm() < 1e-3 * reference.norm()  # a ReLU may round to the other side
    for ours, reference in zip(fast.parameters(), model.parameters(), strict=True):
        assert ours is reference, "the optimizer would train other parameters"
    with torch.no_grad():
        torch.testing.assert_close(fast.eval()(clips), model(clips), rtol=0, atol=0)


def test_switch_leaves_the_network_rewritten():
    model, cpu = build(depth=10, num_classes=5, width=4), torch.device("cpu")
    assert for_training(model, cpu, lowered=False) is model
    assert isinstance(for_inference(model, cpu, lowered=False), Plain)


def test_weights_file_restores_another_network_or_varies(tmp_path):
    arguments = {"depth": 18, "num_classes": 5, "width": 4, "dropout": 0.1}
    model = trained_a_little(**arguments)
    checkpoint.save(model, tmp_path / "a.safetensors", arguments)
    checkpoint.save(model, tmp_path / "b.safetensors", arguments)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    x = torch.randn(1, 3, 8, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(checkpoint.restore(tmp_path / "a.safetensors")(x), model(x), rtol=0, atol=0)


def test_damaged_weights_file_is_loaded(tmp_path):
    (tmp_path / "bad.safetensors").write_bytes(b"\xff" * 100)
    for name in ("bad", "missing"):
        with pytest.raises(checkpoint.CheckpointError, match=name):
            checkpoint.load(tmp_path / f"{name}.safetensors")


def test_ties_are_ranked_by_chance():
    scores = np.array([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0]])
    assert accuracy.top_k_accuracy(scores, np.array([1, 1]), 1) == 1.0
    assert accuracy.top_k_accuracy(scores, np.array([0, 0]), 1) == 0.0
    assert accuracy.top_k_accuracy(scores, np.array([0, 0]), 2) == 1.0


def test_labels_outside_the_classes_are_counted():
    with pytest.raises(ValueError, match=r"0\.\.2"):
        accuracy.top_k_accuracy(np.zeros((2, 3)), np.array([0, 3]), 1)
    with pytest.raises(ValueError, match="N at least 1"):
        accuracy.mean_class_accuracy(np.zeros((0, 3)), np.zeros(0, int))
