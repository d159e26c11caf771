"""The network, its faster form, its file, and the accuracies."""

import numpy as np
import pytest
import torch

from r2plus1d import checkpoint, metrics
from r2plus1d.lowering import for_inference
from r2plus1d.model import BLOCKS, Conv2plus1d, build


def trained_a_little(**arguments):
    """Batch norms with statistics and scales other than 0 and 1, as after training."""
    torch.manual_seed(0)
    model = build(**arguments)
    model(torch.randn(4, 3, 8, 32, 32))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
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


def test_unknown_depth_or_convolution_is_built():
    with pytest.raises(ValueError, match="depth 33"):
        build(depth=33)
    with pytest.raises(ValueError, match="'r4d'"):
        build(conv="r4d")


def test_network_for_inference_computes_something_else():
    model = trained_a_little(depth=18, num_classes=5, width=8)
    x = torch.randn(3, 3, 8, 48, 40)
    with torch.inference_mode():
        plain, fast = model(x), for_inference(model, torch.device("cpu"))(x)
    torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-5)
    assert isinstance(model.backbone.conv1.bn, torch.nn.BatchNorm3d), "the original was changed"


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
    assert metrics.top_k_accuracy(scores, np.array([1, 1]), 1) == 1.0
    assert metrics.top_k_accuracy(scores, np.array([0, 0]), 1) == 0.0
    assert metrics.top_k_accuracy(scores, np.array([0, 0]), 2) == 1.0


def test_labels_outside_the_classes_are_counted():
    with pytest.raises(ValueError, match=r"0\.\.2"):
        metrics.top_k_accuracy(np.zeros((2, 3)), np.array([0, 3]), 1)
    with pytest.raises(ValueError, match="N at least 1"):
        metrics.mean_class_accuracy(np.zeros((0, 3)), np.zeros(0, int))
