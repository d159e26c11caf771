"""The network for NVIDIA GPUs beside the plain one, in float32, its kernels interpreted on the CPU."""

import pytest
import torch
from torch.nn import functional

pytest.importorskip("triton", reason="Triton is there on Linux only")

from r2plus1d import cuda_kernels, cuda_norm
from r2plus1d.cuda_inference import Inference, fits
from r2plus1d.cuda_training import Training
from r2plus1d.model import build
from r2plus1d.views import to_input

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="Triton interprets kernels for the CPU only")


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("size", [(16, 16), (15, 18)])
def test_stem_equals_the_convolution_of_7_x_7(size):
    frames, weight = torch.randint(0, 256, (3, *size, 3), dtype=torch.uint8), torch.randn(5, 3, 7, 7)
    x = to_input(frames[:, None], CPU).squeeze(2)
    expected = functional.conv2d(x, weight, stride=2, padding=3)
    for source in (frames, x.permute(0, 2, 3, 1)):
        packed = cuda_kernels.pack(source, torch.float32)
        got = cuda_kernels.stem(packed, cuda_kernels.packed_weight(weight)).permute(0, 3, 1, 2)
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-4)


def test_stem_passes_the_gradient_of_its_weight():
    packed = cuda_kernels.pack(torch.randint(0, 256, (2, 12, 14, 3), dtype=torch.uint8), torch.float32)
    weight = torch.randn(4, 64, 40, requires_grad=True)
    windows = packed.unfold(1, 4, 1).unfold(2, 4, 1).permute(0, 1, 2, 4, 5, 3).flatten(4)
    expected = torch.einsum("shwjk,jko->shwo", windows, weight)
    got = cuda_kernels.Stem.apply(packed, weight)
    grad = torch.randn_like(got)
    gradients = [torch.autograd.grad(y, weight, grad)[0] for y in (got, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-3)


def test_pooling_and_its_gradient_equal_torchs():
    x = torch.randn(2, 13, 12, 20, requires_grad=True)
    expected = functional.max_pool2d(x.permute(0, 3, 1, 2), 3, 2, 1).permute(0, 2, 3, 1)
    got = cuda_kernels.MaxPool.apply(x)
    grad = torch.randn_like(got)
    assert torch.equal(got, expected)
    assert torch.equal(*(torch.autograd.grad(y, x, grad)[0] for y in (got, expected)))


def test_convolution_in_time_reads_the_planes_of_its_table():
    x, weight, bias = torch.randn(6, 5, 7, 24), torch.randn(3, 24, 10), torch.randn(10)
    sources = torch.tensor([[-1, 0, 1], [0, 1, 2], [4, 5, -1]], dtype=torch.int32)
    residual, places = torch.randn(4, 5, 7, 10), torch.tensor([3, 1, 0], dtype=torch.int32)
    padded = torch.cat([x, torch.zeros(1, 5, 7, 24)])
    expected = torch.stack([sum(padded[s] @ weight[tap] for tap, s in enumerate(row)) for row in sources]) + bias
    got = cuda_kernels.temporal(x, weight, bias, sources, (residual, places))
    torch.testing.assert_close(got, (expected + residual[places]).relu(), rtol=1e-5, atol=1e-5)
    got = cuda_kernels.temporal(x, weight, bias, sources, relu=False)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("relu", "residual"), [(True, False), (True, True), (False, False)])
def test_batch_norm_equals_torchs_and_leaves_padding_zero(relu, residual):
    channels, real = 24, 21
    own, plain = (torch.nn.BatchNorm3d(real, eps=1e-3) for _ in range(2))
    for norm in (own, plain):
        norm.weight.data = torch.linspace(0.5, 2, real)
        norm.bias.data = torch.linspace(-1, 1, real)
    x = functional.pad(torch.randn(3, 4, 5, 6, real) * 2 + 1, (0, channels - real)).requires_grad_()
    other = functional.pad(torch.randn(3, 4, 5, 6, real), (0, channels - real)).requires_grad_() if residual else None
    running = own.running_mean, own.running_var, own.momentum, own.eps
    got = cuda_norm.NormReLU.apply(x, own.weight, own.bias, *running, other, relu)
    expected = plain(x[..., :real].movedim(-1, 1)).movedim(1, -1)
    expected = expected if other is None else expected + other[..., :real]
    expected = functional.pad(expected.relu() if relu else expected, (0, channels - real))
    grad = functional.pad(torch.randn(3, 4, 5, 6, real), (0, channels - real))
    inputs = [x, *([] if other is None else [other])]
    ours = torch.autograd.grad(got, [*inputs, own.weight, own.bias], grad)
    theirs = torch.autograd.grad(expected, [*inputs, plain.weight, plain.bias], grad)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(own.running_var, plain.running_var)
    torch.testing.assert_close(own.running_mean, plain.running_mean)


@pytest.mark.parametrize(("depth", "frames", "shift"), [(18, 8, 1), (10, 8, 2)])
def test_network_for_inference_gives_the_plain_logits_of_clips_that_share_frames(depth, frames, shift):
    model = settled(depth)
    indices = torch.arange(frames) + shift * torch.arange(2)[:, None]
    video = torch.randint(0, 256, (int(indices.max()) + 1, 16, 16, 3), dtype=torch.uint8)
    fast = Inference(model, torch.float32)
    x = to_input(video[indices], CPU).contiguous()
    with torch.inference_mode():
        expected = model(x)
        torch.testing.assert_close(fast.from_frames(video, indices), expected, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(fast(x), expected, rtol=1e-4, atol=1e-6)
    shared = fast.tables(indices, CPU)[0]
    assert len(shared) < indices.numel(), "clips that share frames share no plane"


@pytest.mark.slow
def test_bottleneck_network_for_inference_gives_the_plain_logits():
    test_network_for_inference_gives_the_plain_logits_of_clips_that_share_frames(50, 8, 1)


def test_network_for_training_has_the_plain_loss_gradients_and_statistics():
    model, other = settled(10), settled(10)
    other.load_state_dict(model.state_dict())
    clips, labels = torch.randint(0, 256, (3, 2, 32, 32, 3), dtype=torch.uint8), torch.tensor([1, 2, 3])
    plain = functional.cross_entropy(model.train()(to_input(clips, CPU).contiguous()), labels)
    fast = functional.cross_entropy(Training(other.train(), torch.float32)(clips), labels)
    torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-6)
    gradients = [
        torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(network.parameters()))])
        for loss, network in ((plain, model), (fast, other))
    ]
    assert (gradients[0] - gradients[1]).norm() < 1e-2 * gradients[0].norm()
    for ours, theirs in zip(other.buffers(), model.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_networks_with_other_convolutions_are_left_to_the_plain_path():
    assert fits(build(depth=10, width=4))
    assert not fits(build(depth=10, width=4, conv="r3d"))


def settled(depth: int) -> torch.nn.Module:
    """A narrow network without dropout whose running statistics are those of some clips."""
    model = build(depth=depth, width=4, num_classes=7, dropout=0.0)
    with torch.no_grad():
        model(torch.randn(2, 3, 8, 32, 32))
    return model.eval()
