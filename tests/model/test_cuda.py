"""The network for NVIDIA GPUs beside the plain one, in float32, its kernels interpreted on the CPU."""

import os
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional

pytest.importorskip("triton", reason="Triton is there on Linux only")

from r2plus1d.config import schema
from r2plus1d.model import lowered
from r2plus1d.model.cuda import batch_norm, inference, kernels
from r2plus1d.model.cuda.inference import Inference
from r2plus1d.model.cuda.training import Steps, Training
from r2plus1d.model.network import build
from r2plus1d.video.views import to_input
from r2plus1d.zoo import training, update
from r2plus1d.zoo.rows import open_row
from r2plus1d.zoo.update import step
from tests.support import warm
from tests.support.cases import slow
from tests.support.project import ROOT

CPU, F32 = torch.device("cpu"), torch.float32
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="Triton interprets kernels for the CPU only")


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(("size", "channels"), [((16, 16), 5), ((15, 18), 5), ((6, 290), 130)])
def test_stem_equals_the_convolution_of_7_x_7(size, channels):
    frames, weight = torch.randint(0, 256, (3, *size, 3), dtype=torch.uint8), torch.randn(channels, 3, 7, 7)
    x = to_input(frames[:, None], CPU).squeeze(2)
    expected = functional.conv2d(x, weight, stride=2, padding=3)
    for source in (frames, x.permute(0, 2, 3, 1)):
        packed = kernels.pack(source, torch.float32)
        got = kernels.stem(packed, kernels.packed_weight(weight)).permute(0, 3, 1, 2)
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("shape", [(2, 12, 14, 3), slow((20, 8, 6, 3))])
def test_stem_passes_the_gradient_of_its_weight(shape):
    packed = kernels.pack(torch.randint(0, 256, shape, dtype=torch.uint8), torch.float32)
    weight = torch.randn(4, 64, 40, requires_grad=True)
    windows = packed.unfold(1, 4, 1).unfold(2, 4, 1).permute(0, 1, 2, 4, 5, 3).flatten(4)
    expected = torch.einsum("shwjk,jko->shwo", windows, weight)
    got = kernels.Stem.apply(packed, weight)
    grad = torch.randn_like(got)
    gradients = [torch.autograd.grad(y, weight, grad)[0] for y in (got, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-3)


def test_pooling_and_its_gradient_equal_torchs():
    x = torch.randn(2, 13, 12, 20, requires_grad=True)
    expected = functional.max_pool2d(x.permute(0, 3, 1, 2), 3, 2, 1).permute(0, 2, 3, 1)
    got = kernels.MaxPool.apply(x)
    grad = torch.randn_like(got)
    assert torch.equal(got, expected)
    assert torch.equal(*(torch.autograd.grad(y, x, grad)[0] for y in (got, expected)))


@pytest.mark.parametrize(("size", "inputs", "outputs"), [((5, 7), 24, 10), ((15, 20), 64, 70)])
def test_convolution_in_time_reads_the_planes_of_its_table(size, inputs, outputs):
    x, weight, bias = torch.randn(6, *size, inputs), torch.randn(3, inputs, outputs), torch.randn(outputs)
    sources = torch.tensor([[-1, 0, 1], [0, 1, 2], [4, 5, -1]], dtype=torch.int32)
    residual, places = torch.randn(4, *size, outputs), torch.tensor([3, 1, 0], dtype=torch.int32)
    padded = torch.cat([x, torch.zeros(1, *size, inputs)])
    expected = torch.stack([sum(padded[s] @ weight[tap] for tap, s in enumerate(row)) for row in sources]) + bias
    got = kernels.temporal(x, weight, bias, sources, (residual, places))
    torch.testing.assert_close(got, (expected + residual[places]).relu(), rtol=1e-4, atol=1e-4)
    got = kernels.temporal(x, weight, bias, sources, relu=False)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_what_is_not_a_number_stays_visible():
    x = torch.full((1, 4, 4, 16), torch.nan)
    assert kernels.max_pool(x)[0].isnan().all()
    table = torch.zeros(1, 1, dtype=torch.int32)
    assert kernels.temporal(x, torch.ones(1, 16, 16), torch.zeros(16), table).isnan().all()
    packed, weight = torch.full((1, 5, 5, 16), torch.nan), torch.ones(4, 64, 16)
    assert kernels.stem(packed, weight, torch.zeros(16)).isnan().all()
    norm = torch.nn.BatchNorm3d(16)
    running = norm.running_mean, norm.running_var, norm.momentum, norm.eps
    assert batch_norm.NormReLU.apply(x, norm.weight, norm.bias, *running, None, True).isnan().all()


@pytest.mark.parametrize(("relu", "residual"), [(True, False), (True, True), (False, False)])
@pytest.mark.parametrize(("programs", "channels", "real"), [(1024, 24, 21), (4, 72, 66)])
def test_batch_norm_equals_torchs_and_leaves_padding_zero(monkeypatch, relu, residual, programs, channels, real):
    monkeypatch.setattr(batch_norm, "PROGRAMS", programs)
    shape = 3, 4, 5, 6
    own, plain = (torch.nn.BatchNorm3d(real, eps=1e-3) for _ in range(2))
    for norm in (own, plain):
        norm.weight.data = torch.linspace(0.5, 2, real)
        norm.bias.data = torch.linspace(-1, 1, real)
    x = functional.pad(torch.randn(*shape, real) * 2 + 1, (0, channels - real)).requires_grad_()
    other = functional.pad(torch.randn(*shape, real), (0, channels - real)).requires_grad_() if residual else None
    running = own.running_mean, own.running_var, own.momentum, own.eps
    got = batch_norm.NormReLU.apply(x, own.weight, own.bias, *running, other, relu)
    expected = plain(x[..., :real].movedim(-1, 1)).movedim(1, -1)
    expected = expected if other is None else expected + other[..., :real]
    expected = functional.pad(expected.relu() if relu else expected, (0, channels - real))
    grad = functional.pad(torch.randn(*shape, real), (0, channels - real))
    inputs = [x, *([] if other is None else [other])]
    ours = torch.autograd.grad(got, [*inputs, own.weight, own.bias], grad)
    theirs = torch.autograd.grad(expected, [*inputs, plain.weight, plain.bias], grad)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(own.running_var, plain.running_var)
    torch.testing.assert_close(own.running_mean, plain.running_mean)


@pytest.mark.parametrize(("depth", "frames", "shift"), [(10, 4, 1), slow(10, 6, 2), slow(50, 4, 1)])
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
def test_network_for_training_has_the_plain_loss_gradients_and_statistics():
    model, other = settled(10), settled(10)
    other.load_state_dict(model.state_dict())
    clips, labels = torch.randint(0, 256, (2, 2, 32, 32, 3), dtype=torch.uint8), torch.tensor([1, 2])
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


@pytest.mark.parametrize("max_norm", [40.0, 0.1])
def test_update_on_the_gpu_is_that_of_a_plain_step_also_with_another_learning_rate(max_norm):
    networks, options = [settled(10).train() for _ in range(2)], {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-4}
    networks[1].load_state_dict(networks[0].state_dict())
    plain, own = (torch.optim.SGD(network.parameters(), **options) for network in networks)
    steps = Steps(Training(networks[1], torch.float32), own, max_norm)
    for lr in (0.05, 0.02):
        clips, labels = torch.randint(0, 256, (3, 2, 16, 16, 3), dtype=torch.uint8), torch.tensor([1, 2, 3])
        for optimizer in (plain, own):
            optimizer.param_groups[0]["lr"] = lr
        own.load_state_dict(own.state_dict())  # as a resumed training does, after its network was made
        steps._gradients = lambda *_: gradients_of(networks[0], clips, labels)  # noqa: B023 (used at once)
        steps._renew()
        (loss, norm), _ = steps.update(clips, labels)
        result = step(networks[0], plain, to_input(clips, CPU).contiguous(), labels, max_norm)
        assert norm.item() == pytest.approx(result["grad_norm"], rel=1e-5)
        assert loss.item() == pytest.approx(result["loss"], rel=1e-5)
    for ours, theirs in zip(networks[1].parameters(), networks[0].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def gradients_of(network, clips, labels):
    logits = network(to_input(clips, CPU).contiguous())
    loss = functional.cross_entropy(logits, labels)
    return loss.detach(), logits.detach(), list(torch.autograd.grad(loss, list(network.parameters())))


@pytest.mark.slow
def test_script_for_rows_at_full_size_reaches_its_table_and_removes_its_copy(tmp_path):
    script = ROOT / "benchmarks" / "speed" / "gpu_full_size.py"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "TMPDIR": str(tmp_path)}
    done = warm.run([str(script), "--small"], ROOT, environment, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("360 of 360") == 1  # 12 videos of 30 views
    assert not list(tmp_path.glob("r2plus1d-gpu-*")), "the copy was left behind"  # torch may leave its own folder


def test_update_leaves_the_weights_as_they_are_where_the_loss_is_not_finite():
    network = settled(10).train()
    before = [p.clone() for p in network.parameters()]
    steps = Steps(Training(network), torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9), 40.0)
    bad = [torch.full_like(p, torch.inf) for p in network.parameters()]
    steps._gradients = lambda *_: (torch.tensor(torch.inf), torch.zeros(1), bad)
    steps._renew()
    steps.update(None, None)
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def test_only_videos_of_a_form_met_before_are_recorded_and_no_more_than_there_is_room_for(monkeypatch):
    made = []

    class Recorded:
        def __init__(self, _model, frames, _tables, pool):
            made.append((len(frames), pool))
            self.graph, self.length = SimpleNamespace(pool=lambda: "pool"), len(frames)

        def __call__(self, _frames):
            return f"replayed {self.length}"

    monkeypatch.setattr(inference, "_Recording", Recorded)
    monkeypatch.setattr(inference, "RECORDINGS", 2)
    monkeypatch.setattr(Inference, "compute", lambda *_: "computed")
    fast = Inference(settled(10), torch.float32)

    def give(length: int) -> str:
        members = {"shape": (length, 8, 8, 3), "device": CPU, "is_cuda": True, "__len__": lambda _: length}
        frames = type("Frames", (), members)()
        return fast.from_frames(frames, torch.arange(length)[None])

    assert [give(n) for n in (4, 5, 4, 4)] == ["computed", "computed", "replayed 4", "replayed 4"]
    assert [give(n) for n in (5, 6, 6, 5, 6)] == ["replayed 5", "computed", "computed", "replayed 5", "computed"]
    assert made == [(4, None), (5, "pool")]


@pytest.mark.parametrize(
    ("conv", "device", "where", "expected"),
    [
        ("r2plus1d", "cuda", True, "cuda"),
        ("r2plus1d", "cuda", "auto", None),
        ("r2plus1d", "cuda", False, None),
        ("r3d", "cuda", True, None),
        ("r2plus1d", "cpu", "auto", "cpu"),
        ("r3d", "cpu", True, "cpu"),
        ("r2plus1d", "cpu", False, None),
    ],
)
def test_network_is_rewritten_where_it_was_asked_for_alone(conv, device, where, expected):
    model = build(depth=10, width=4, conv=conv)
    assert lowered._where(model, torch.device(device), where, "half") == expected
    other = None if expected == "cuda" else expected  # the networks for GPUs compute in half alone
    assert lowered._where(model, torch.device(device), where, "native") == other


@pytest.mark.slow
def test_rewritten_step_trains_the_network_that_the_plain_one_does(tmp_path, prepared, monkeypatch):
    """The loop of the stage `train`, with the step for GPUs in it."""
    monkeypatch.chdir(prepared.folder)
    row = open_row(schema.CUSTOM, schema.RowConfig)
    small = {"epochs": 1, "videos_per_gpu": 2, "dropout": 0.0, "crop": 16}
    train_config = row.config.train.model_copy(update=small)
    clip = row.config.clip.model_copy(update={"frames": 4})
    model = row.config.model.model_copy(update={"depth": 10})
    own = row.config.model_copy(update={"train": train_config, "clip": clip, "model": model})
    samples = {"train": row.splits["train"][:4], "val": row.splits["val"][:1]}
    found, start = [], torch.cat([p.flatten() for p in update.build_model(own, len(row.classes)).parameters()])
    for name, rewrite in (("plain", lambda network, *_: network), ("fast", lambda network, *_: Training(network, F32))):
        monkeypatch.setattr(training, "for_training", rewrite)
        made = training.Training(own, samples, row.reader, row.classes, tmp_path / name, 0, print)
        trained, log = made.run()
        losses = [entry["loss"] for entry in log.entries if entry["mode"] == "train"]
        found.append((losses, torch.cat([p.flatten() for p in trained.parameters()]) - start))
    (plain, expected), (fast, got) = found
    assert len(plain) == 1
    assert fast == pytest.approx(plain, rel=1e-3)
    assert (got - expected).norm() < 1e-2 * expected.norm()


def settled(depth: int) -> torch.nn.Module:
    """A narrow network without dropout whose running statistics are those of some clips."""
    model = build(depth=depth, width=4, num_classes=7, dropout=0.0)
    with torch.no_grad():
        model(torch.randn(2, 3, 8, 32, 32))
    return model.eval()
