"""The faster form of the network for CPUs beside the plain one."""

import copy

import pytest
import torch

from r2plus1d.model import lowered
from r2plus1d.model.lowered import Lowered, Plain, for_inference, for_training
from r2plus1d.model.network import CONVS, OuterNorm, build
from r2plus1d.video.views import to_input
from tests.support.networks import trained_a_little

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


def test_clips_come_out_the_same_in_parts(monkeypatch):
    fast = for_inference(trained_a_little(depth=10, num_classes=5, width=4), CPU)
    frames, places = torch.randint(0, 256, (12, 32, 40, 3), dtype=torch.uint8), torch.randint(0, 12, (7, 8))
    with torch.inference_mode():
        whole = fast.from_frames(frames, places)
        monkeypatch.setattr(lowered, "PIXELS_AT_ONCE", 3 * 8 * 32 * 40)
        torch.testing.assert_close(fast.from_frames(frames, places), whole, rtol=1e-5, atol=1e-6)
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
