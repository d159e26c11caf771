"""Our numbers against those of the original implementation."""

import json
import random

import numpy as np
import pytest
import torch

from r2plus1d import config, metrics, sampling, views
from r2plus1d.model import build
from r2plus1d.training import learning_rate


class SeededTwice:
    """The original's two random streams, numpy's and Python's, behind the interface of one generator."""

    def __init__(self, seed: int):
        self.numpy, self.python = np.random.RandomState(seed), random.Random(seed)

    def integers(self, low, high=None, size=None):
        if size is None:
            return self.python.randint(low, high - 1)
        return self.numpy.randint(low, high, size=size)

    def uniform(self, low, high, size):
        return self.numpy.uniform(low, high, size=size)


def test_test_clips_start_elsewhere_than_the_original_s(golden):
    z = np.load(golden("sampleframes_test.npz"))
    for (n, length, interval, clips, start), a, b in zip(z["params"], z["offsets"], z["offsets"][1:], strict=False):
        ours = sampling.test_indices(int(n), int(length), int(interval), int(clips)).ravel() + start
        assert ours.tolist() == z["frame_inds"][a:b].tolist()


def test_training_clips_start_elsewhere_than_the_original_s(golden):
    z = np.load(golden("sampleframes_train_npseed.npz"))
    for (n, length, interval, clips, start, seed), a, b in zip(
        z["params"], z["offsets"], z["offsets"][1:], strict=False
    ):
        rng = SeededTwice(int(seed))
        ours = sampling.train_indices(int(n), int(length), int(interval), int(clips), rng=rng).ravel() + start
        assert ours.tolist() == z["frame_inds"][a:b].tolist()


def test_random_crops_lie_elsewhere_than_the_original_s(golden):
    for h, w, seed, *box in np.load(golden("rrc_boxes.npz"))["rows_h_w_seed_l_t_r_b"].tolist():
        assert list(views.random_resized_crop_box(h, w, SeededTwice(seed))) == box


def test_short_side_sizes_are_rounded_unlike_the_original_s(golden):
    for h, w, *size in np.load(golden("resize_sizes.npz"))["rows_h_w_newh_neww"].tolist():
        assert list(views.short_side_size(h, w, 256)) == size


@pytest.mark.parametrize("size", ["240x320", "320x240", "173x311"])
def test_pixels_of_the_views_differ_from_the_original_s(golden, size):
    z = np.load(golden("image_ops.npz"))
    resized = views.resize_short_side(z[f"{size}__img"], 256)
    assert np.abs(resized.astype(int) - z[f"{size}__resize_short256"]).max() <= 1
    reference = z[f"{size}__resize_short256"]
    np.testing.assert_array_equal(views.center_crop(reference, 224), z[f"{size}__center224"])
    np.testing.assert_array_equal(views.three_crop(reference, 256), z[f"{size}__three256"])
    clip = torch.from_numpy(z[f"{size}__center224"])[None, None]
    normalised = views.to_input(clip, torch.device("cpu"))[0, :, 0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(normalised, z[f"{size}__center224_norm"], atol=1e-5)


def test_view_averages_and_accuracies_differ_from_the_original_s(golden):
    z = np.load(golden("average_clips.npz"))
    np.testing.assert_allclose(metrics.average_views(z["a_scores"], "prob"), z["a_prob"][0], atol=1e-7)
    np.testing.assert_allclose(metrics.average_views(z["a_scores"], "score"), z["a_score"][0], atol=1e-6)
    z = np.load(golden("metrics.npz"))
    for case in "01":
        scores, labels = z[f"{case}_cont_scores"], z[f"{case}_cont_labels"]
        ours = [metrics.top_k_accuracy(scores, labels, k) for k in (1, 5)]
        assert ours == z[f"{case}_cont_top1_top5"].tolist()
        assert metrics.mean_class_accuracy(scores, labels) == float(z[f"{case}_cont_mean_class_accuracy"])


def test_network_computes_other_numbers_than_the_original(golden):
    weights, io = np.load(golden("model_tiny34_weights.npz")), np.load(golden("model_tiny34_io.npz"))
    model = build(depth=34, num_classes=10, width=8, dropout=0.0)
    model.load_state_dict({name: torch.from_numpy(weights[name]) for name in weights})
    x, label = torch.from_numpy(io["input"]), torch.from_numpy(io["label"])
    with torch.no_grad():
        np.testing.assert_allclose(model.eval()(x), io["eval_logits"], rtol=1e-5, atol=1e-6)
    loss = torch.nn.functional.cross_entropy(model.train()(x), label)
    loss.backward()
    assert abs(loss.item() - float(io["train_loss"])) < 1e-5
    for name, parameter in model.named_parameters():
        expected = torch.from_numpy(io[f"grad/{name}"])
        assert (parameter.grad - expected).norm() <= 5e-5 * expected.norm(), name


def test_learning_rate_departs_from_the_original_s_cosine(golden, params):
    params["dataset"] = "kinetics400"
    params["datasets"]["kinetics400"]["train"].pop("gpus")
    rows = {row.row: row for row in config.resolve(params)[1]}
    reference = np.load(golden("lr_cosine_epoch180.npz"))
    bases = {"8x8x1_180e_kinetics400_rgb_256p": 0.1, "video_8x8x1_180e_kinetics400_rgb": 0.2}
    for name, base in (bases | {"32x2x1_180e_kinetics400_rgb": 0.075}).items():
        ours = [learning_rate(rows[f"r2plus1d_r34_{name}"], epoch) for epoch in range(180)]
        np.testing.assert_allclose(ours, reference[f"base_{base}"], rtol=0, atol=1e-12)


def test_state_dict_has_other_names_or_shapes_than_the_published_files(golden):
    published = json.loads(golden("r34_state_dict_shapes.json").read_text())
    state = build().state_dict()
    assert {name: list(t.shape) for name, t in state.items()} == {name: shape for name, (shape, _) in published.items()}
    assert sum(p.numel() for p in build().parameters()) == 63_759_281
