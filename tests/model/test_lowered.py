"""The faster form of the network for CPUs beside the plain one."""

import copy
import os
import subprocess
import sys

import pytest
import torch

from r2plus1d.model import lowered
from r2plus1d.model.lowered import Fast, Lowered, Plain, for_inference, for_training
from r2plus1d.model.network import CONVS, OuterNorm, build
from r2plus1d.system.arithmetic import PINNED, flags
from r2plus1d.video.views import to_input
from tests.support.networks import trained_a_little
from tests.support.project import ROOT

CPU = torch.device("cpu")


@pytest.mark.parametrize("conv", CONVS)
def test_network_for_inference_computes_what_the_plain_one_does(conv):
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(64, 64), (64, 50), (63, 64), (2, 4096)])
def test_pooling_large_frames_gives_what_torch_gives(size, dtype):
    x = torch.randn(3, *size, 64).to(dtype)
    x[1, 10 % size[0], 20] = -float("nan")
    expected = torch.nn.functional.max_pool2d(x.permute(0, 3, 1, 2), 3, 2, 1).permute(0, 2, 3, 1)
    assert x[0].numel() >= lowered.POOL_FROM
    torch.testing.assert_close(lowered._pooled(x), expected, rtol=0, atol=0, equal_nan=True)
    assert expected.isnan().any()


@pytest.mark.parametrize(("limit", "half"), [("PIXELS_AT_ONCE", ()), ("PIXELS_AT_ONCE_HALF", (torch.float32,))])
def test_clips_come_out_the_same_in_parts(monkeypatch, limit, half):
    monkeypatch.setattr(lowered, "HALF", half)
    fast = for_inference(trained_a_little(depth=10, num_classes=5, width=4), CPU)
    frames, places = torch.randint(0, 256, (12, 32, 40, 3), dtype=torch.uint8), torch.randint(0, 12, (7, 8))
    with torch.inference_mode():
        whole, parts = fast.from_frames(frames, places), []
        monkeypatch.setattr(lowered, limit, 3 * 8 * 32 * 40)
        fast.blocks[0].register_forward_hook(lambda _, given, made: parts.append(len(made)))
        torch.testing.assert_close(fast.from_frames(frames, places), whole, rtol=1e-5, atol=1e-6)
        assert parts == [3, 2, 2]
        torch.testing.assert_close(fast(to_input(frames[places], CPU)), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("frames", [8, 32])
@pytest.mark.parametrize("conv", CONVS)
def test_training_step_of_the_rewritten_network_is_the_plain_one_s(conv, frames):
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


def test_switch_leaves_the_network_plain():
    model, cpu = build(depth=10, num_classes=5, width=4), torch.device("cpu")
    assert for_training(model, cpu, lowered=False) is model
    assert isinstance(for_inference(model, cpu, lowered=False), Plain)


# ---- Half precision, whose logic on GPUs is that of the CPU's autocast ----


def test_half_by_autocast_has_nearly_the_plain_logits_in_float32():
    model = trained_a_little(depth=18, num_classes=5, width=8)
    frames, places = torch.randint(0, 256, (12, 48, 40, 3), dtype=torch.uint8), torch.randint(0, 12, (3, 8))
    fast = for_inference(model, CPU, lowered=False, arithmetic="half")
    assert isinstance(fast, Plain)
    assert isinstance(fast.model, Fast)
    with torch.inference_mode():
        plain, half = model(to_input(frames[places], CPU)), fast.from_frames(frames, places)
        assert half.dtype == torch.float32
        assert 0 < (half - plain).abs().max() < 0.05 * plain.std(), "as near as bfloat16 comes, and not float32"
        torch.testing.assert_close(fast(to_input(frames[places], CPU)), half, rtol=0, atol=0)
    weights = [weight for weight in fast.parameters() if weight.dim() == 5]
    assert all(weight.is_contiguous(memory_format=torch.channels_last_3d) for weight in weights)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32, torch.int64}


def test_half_training_by_autocast_keeps_weights_statistics_and_logits_in_float32():
    torch.manual_seed(0)
    plain = build(depth=10, num_classes=5, width=4, dropout=0.0).train()
    model = copy.deepcopy(plain)
    fast = for_training(model, CPU, lowered=False, arithmetic="half")
    clips, labels = torch.randn(4, 3, 8, 32, 32), torch.randint(5, (4,))
    inputs = []
    for network in (plain, model):
        network.cls_head.fc_cls.register_forward_hook(
            lambda _, given, made: inputs.append((given[0].dtype, made.dtype))
        )
        network.backbone.layer1.register_forward_hook(lambda _, given, made: inputs.append((made.dtype,)))
    for network in (plain, fast):
        logits = network(clips)
        torch.nn.functional.cross_entropy(logits, labels).backward()
    whole = (torch.float32, torch.float32)
    assert inputs == [(torch.float32,), whole, (torch.bfloat16,), whole], "the head computes in float32"
    for ours, theirs in zip(fast.parameters(), model.parameters(), strict=True):
        assert ours is theirs, "the optimizer would train other parameters"
        assert ours.grad.dtype == ours.dtype == torch.float32
        assert ours.is_contiguous(), "a file of weights would hold them in another order"
    ours, reference = (torch.cat([p.grad.flatten() for p in network.parameters()]) for network in (model, plain))
    assert torch.cosine_similarity(ours, reference, dim=0) > 0.8  # through batch norms of so few values
    ours, reference = (network.cls_head.fc_cls.weight.grad for network in (model, plain))
    assert 0 < (ours - reference).norm() < 0.15 * reference.norm()
    for ours, reference in zip(model.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(ours, reference, rtol=0.05, atol=0.01)


def test_native_and_exact_are_the_same_networks_on_a_cpu():
    """On a GPU native has its channels last in memory, and the same weights."""
    model = build(depth=10, num_classes=5, width=4)
    assert for_training(model, CPU, lowered=False, arithmetic="native") is model
    assert {type(for_inference(model, CPU, arithmetic=kind)) for kind in ("exact", "native")} == {Lowered}
    clips = torch.randn(2, 3, 8, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(Fast(model.eval())(clips), model(clips), rtol=1e-4, atol=1e-5)


HALF = """
import torch
from r2plus1d.model.lowered import for_inference
from r2plus1d.model.network import CONVS
from r2plus1d.video.views import to_input
from tests.support.networks import trained_a_little

cpu = torch.device("cpu")
for conv in CONVS:
    model = trained_a_little(depth=18, num_classes=5, width=8, conv=conv)
    frames, places = torch.randint(0, 256, (12, 48, 40, 3), dtype=torch.uint8), torch.randint(0, 12, (3, 8))
    fast = for_inference(model, cpu, arithmetic="half")
    with torch.inference_mode():
        plain = model(to_input(frames[places], cpu))
        for half in (fast.from_frames(frames, places), fast(to_input(frames[places], cpu))):
            assert half.dtype == torch.float32
            assert 0 < (half - plain).abs().max() < 0.15 * plain.std(), conv
        before = fast.from_frames(frames, places)
        assert fast.from_frames(frames, places).equal(before)
        for convolution in fast.modules():
            if hasattr(convolution, "bias") and convolution is not fast.last:
                convolution.bias.copy_(convolution.bias.bfloat16())
        assert not fast.from_frames(frames, places).equal(before), "biases were rounded before"
"""


@pytest.mark.skipif(not {"avx512bw", "avx512vl", "avx512dq"} <= flags(), reason="this processor has no AVX-512")
def test_half_in_bfloat16_has_nearly_the_plain_logits():
    """In a process whose arithmetic is not pinned; without AMX and AVX512-BF16, oneDNN imitates it on AVX-512."""
    free = {key: value for key, value in os.environ.items() if key not in PINNED}
    done = subprocess.run(
        [sys.executable, "-c", HALF],
        env=free | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("three", [None, lambda axes, channels: True, lambda axes, channels: False])
def test_network_as_amx_wants_it_gives_the_same_logits(monkeypatch, three):
    """As half has it: weights reordered, channels filled up, convolutions over all axes where those are faster, frames
    copied first; here in float32, which every processor can compute."""
    model, clips = trained_a_little(depth=18, num_classes=5, width=8), torch.randn(3, 3, 8, 48, 40)
    frames, places = torch.randint(0, 256, (12, 48, 40, 3), dtype=torch.uint8), torch.randint(0, 12, (3, 8))
    plain = for_inference(model, CPU)
    seen = []
    plain.stem[0].register_forward_hook(lambda _, given, made: seen.append(given[0].shape[:2].numel()))
    monkeypatch.setattr(lowered, "HALF", (torch.float32,))
    if three is not None:
        monkeypatch.setattr(lowered, "_faster_in_three", three)
    fast = for_inference(model, CPU)
    fast.stem[0].register_forward_hook(lambda _, given, made: seen.append(given[0].shape[:2].numel()))
    shapes = [[weight.shape for weight in network.state_dict().values()] for network in (plain, fast)]
    assert shapes[0] != shapes[1], "no convolution of this network has so many channels"
    axes = [{module.axes for module in network.modules() if hasattr(module, "axes")} for network in (plain, fast)]
    assert axes[0] == {"space", "time"}
    assert axes[1] == ({"space", "time", "all"} if three is None else {"all"} if three("", 0) else axes[0])
    with torch.inference_mode():
        for some in (clips, clips[:1], torch.randn(2, 3, 8, 40, 40), clips):
            torch.testing.assert_close(fast(some), model(some), rtol=1e-4, atol=1e-5)
        seen.clear()
        found = fast.from_frames(frames, places)
        saved = copy.deepcopy(fast)  # with weights in oneDNN's order, which torch does not copy
        torch.testing.assert_close(saved.from_frames(frames, places), found, rtol=0, atol=0)
    monkeypatch.undo()
    with torch.inference_mode():
        torch.testing.assert_close(plain.from_frames(frames, places), found, rtol=1e-4, atol=1e-5)
    assert seen == [places.numel()] * 2 + [len(frames)], "frames that clips share, worked on for each clip, or once"
