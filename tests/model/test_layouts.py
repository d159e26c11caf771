"""Networks of other libraries: the same logits from the same weights, and their weights back."""

import pytest
import torch
from torch import nn
from torchvision import transforms
from torchvision.models import video

from r2plus1d.model import layouts
from r2plus1d.model.lowered import for_inference, for_training
from r2plus1d.model.network import CONVS, build
from tests.support.cases import slow
from tests.support.networks import as_trained, to_torchvision

CPU = torch.device("cpu")


def ig65m(classes: int = 400) -> nn.Module:
    """IG-65M's network of 34 layers, from torchvision's parts as its README describes it."""
    parts = video.resnet
    model = parts.VideoResNet(
        parts.BasicBlock, [parts.Conv2Plus1D] * 4, [3, 4, 6, 3], parts.R2Plus1dStem, num_classes=classes
    )
    for stage, (width, mid) in zip(
        (model.layer2, model.layer3, model.layer4), ((128, 288), (256, 576), (512, 1152)), strict=True
    ):
        stage[0].conv2[0] = parts.Conv2Plus1D(width, width, mid)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.eps = 1e-3
    return model


THEIRS = {
    "r2plus1d_18": (video.r2plus1d_18, {"depth": 18, "conv": "r2plus1d", "family": "torchvision"}),
    "r3d_18": (video.r3d_18, {"depth": 18, "conv": "r3d", "family": "torchvision"}),
    "mc3_18": (video.mc3_18, {"depth": 18, "conv": "mc3", "family": "torchvision"}),
    "ig65m": (ig65m, {"depth": 34, "conv": "r2plus1d", "family": "ig65m"}),
}


@pytest.mark.parametrize("name", [name if name in ("r2plus1d_18", "mc3_18") else slow(name) for name in THEIRS])
def test_network_of_another_library_has_the_same_logits_here(name):
    torch.manual_seed(0)
    make, expected = THEIRS[name]
    theirs = as_trained(make())
    state = layouts.from_torchvision(theirs.state_dict())
    arguments = layouts.arguments_of(state, theirs=True)
    assert arguments == {"width": 64, "num_classes": 400, **expected}
    ours = build(**arguments).eval()
    ours.load_state_dict(state)
    x = torch.randn(2, 3, 8, 32, 32)
    with torch.inference_mode():
        logits = theirs(x)
        for network in (ours, for_inference(ours, CPU), for_inference(ours, CPU, lowered=False)):
            torch.testing.assert_close(network(x), logits, rtol=1e-5, atol=1e-5 * logits.abs().max().item())
    back = to_torchvision(ours.state_dict())
    assert list(back) == list(theirs.state_dict())
    assert all(torch.equal(back[key], tensor) for key, tensor in theirs.state_dict().items())


def test_frames_are_normalised_as_torchvision_does():
    torch.manual_seed(0)
    theirs = as_trained(video.mc3_18())
    state = layouts.from_torchvision(theirs.state_dict())
    ours = build(**layouts.arguments_of(state, theirs=True)).eval()
    ours.load_state_dict(state)
    frames = torch.randint(0, 256, (8, 112, 112, 3), dtype=torch.uint8)
    preset = video.MC3_18_Weights.KINETICS400_V1.transforms()
    clip = transforms.Normalize(preset.mean, preset.std)(frames.permute(0, 3, 1, 2) / 255).transpose(0, 1)[None]
    with torch.inference_mode():
        logits = theirs(clip)
        for network in (for_inference(ours, CPU), for_inference(ours, CPU, lowered=False)):
            got = network.from_frames(frames, torch.arange(8)[None])
            torch.testing.assert_close(got, logits, rtol=1e-5, atol=1e-5 * logits.abs().max().item())


@pytest.mark.parametrize("name", [name if name == "r2plus1d_18" else slow(name) for name in THEIRS])
def test_training_step_of_another_library_has_the_same_gradients_here(name):
    torch.manual_seed(0)
    theirs = as_trained(THEIRS[name][0]()).double().train()
    state = layouts.from_torchvision(theirs.state_dict())
    ours = build(**layouts.arguments_of(state, theirs=True), dropout=0.0).double().train()
    ours.load_state_dict(state)
    x, labels = torch.randn(2, 3, 4, 16, 16, dtype=torch.float64), torch.tensor([1, 2])
    for network in (theirs, for_training(ours, CPU)):
        nn.functional.cross_entropy(network(x), labels).backward()
    gradients = to_torchvision({key: parameter.grad for key, parameter in ours.named_parameters()})
    state = to_torchvision(ours.state_dict())
    for key, parameter in theirs.named_parameters():
        torch.testing.assert_close(gradients[key], parameter.grad, rtol=1e-6, atol=1e-8)
    for key, buffer in theirs.named_buffers():
        torch.testing.assert_close(state[key], buffer, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("conv", CONVS)
@pytest.mark.parametrize("depth", [10, 18, 50])
def test_network_is_told_from_its_weights(conv, depth):
    built = {"depth": depth, "conv": conv, "width": 8, "num_classes": 7}
    with torch.device("meta"):
        state = build(**built).state_dict()
    assert layouts.arguments_of(state, theirs=False) == built | ({"frames": 8} if conv == "r2d" else {})
