"""The original's side of `mmaction.py`, which starts it in the original's environment: python views.py JOB

Imports MMAction2 and nothing of this project. Everything is the original's as published: the row's own config file, its
dataset, pipelines, network, strict loading and averaging. Nothing of it is replaced or patched.

Shapes: D clips, V views, T frames, H x W pixels, K classes, S seeds; pixels are uint8 RGB. Videos are numbered from 0.
"""

import contextlib
import json
import random
import sys
import time
from pathlib import Path

import cv2
import decord
import mmaction
import mmcv
import numpy as np
import torch
from mmaction.datasets import build_dataset
from mmaction.models import build_model
from mmcv.runner import load_checkpoint

VIEWS_AT_ONCE = 2
TO_TENSOR = ("Collect", "ToTensor")


def main(job: dict) -> None:
    """Writes `versions` (JSON), and for every video `theirs`/<number>.npz."""
    torch.set_grad_enabled(False)
    configs = Path(mmaction.__path__[0]) / ".mim" / "configs" / "recognition" / "r2plus1d"
    config = mmcv.Config.fromfile(str(configs / f"{job['config']}.py"))
    Path(job["versions"]).write_text(json.dumps(versions()))
    model = build_model(config.model).eval()
    with contextlib.redirect_stdout(sys.stderr):  # it prints the path
        load_checkpoint(model, job["weights"], map_location="cpu", strict=True)
    for number in range(job["videos"]):
        start = time.monotonic()
        arrays = tested(config, job, number) | trained(config, job, number) | scored(config, job, number, model)
        np.savez(Path(job["theirs"]) / f"{number}.npz", **arrays)
        print(f"  original: video {number + 1} of {job['videos']}: {time.monotonic() - start:.0f} s", flush=True)


def versions() -> dict:
    """Of everything that touches a pixel or a weight."""
    jpeg = [line.split(":", 1)[1].strip() for line in cv2.getBuildInformation().splitlines() if " JPEG:" in line]
    return {
        "mmaction2": mmaction.__version__,
        "mmcv": mmcv.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "jpeg decoder": f"opencv, {jpeg[0] if jpeg else 'unknown'}",
        "video decoder": f"decord {decord.__version__}",
    }


def dataset(config: mmcv.Config, job: dict, split: str, steps: list):
    """The published dataset of a split, reading this job's videos, with `steps` as its pipeline."""
    return build_dataset(
        {**config.data[split], "ann_file": job["list"], "data_prefix": job["prefix"], "pipeline": list(steps)}
    )


def until(steps: list, kinds: tuple[str, ...]) -> list:
    """The steps before the first of those kinds."""
    return steps[: next(i for i, step in enumerate(steps) if step["type"] in kinds)]


def without(steps: list, kinds: tuple[str, ...]) -> list:
    return [step for step in steps if step["type"] not in kinds]


def last_shape(clips: np.ndarray) -> np.ndarray:
    """[N, 3, T, H, W] -> [N, T, H, W, 3]"""
    return np.ascontiguousarray(clips.transpose(0, 2, 3, 4, 1))


def tested(config: mmcv.Config, job: dict, number: int) -> dict:
    """`indices` [D, T] from 0, `decoded` [D * T, h, w, 3], and views before normalisation: `pixels` [V, T, H, W, 3]."""
    decoded = dataset(config, job, "test", until(config.test_pipeline, ("Resize",)))[number]
    views = dataset(config, job, "test", without(config.test_pipeline, ("Normalize", *TO_TENSOR)))[number]
    indices = np.reshape(views["frame_inds"], (views["num_clips"], views["clip_len"])) - views["start_index"]
    return {"indices": indices, "decoded": np.stack(decoded["imgs"]), "pixels": last_shape(views["imgs"])}


def trained(config: mmcv.Config, job: dict, number: int) -> dict:
    """Training views, one per seed: indices [S, T] from 0, boxes [S, 4], flips [S], pixels [S, T, H, W, 3]."""
    drawn = []
    views = dataset(config, job, "train", without(config.train_pipeline, ("Normalize", *TO_TENSOR)))
    for seed in job["seeds"]:
        np.random.seed(seed)
        random.seed(seed)
        view = views[number]
        pixels = last_shape(view["imgs"])[0]
        drawn.append((view["frame_inds"] - view["start_index"], view["crop_bbox"], view["flip"], pixels))
    names = ("train_indices", "train_boxes", "train_flips", "train_pixels")
    return {name: np.stack(values) for name, values in zip(names, zip(*drawn, strict=True), strict=True)}


def scored(config: mmcv.Config, job: dict, number: int, model) -> dict:
    """`logits` [V, K] of the published test pipeline and their average, `scores` [K]."""
    views = dataset(config, job, "test", config.test_pipeline)[number]["imgs"]
    logits = np.concatenate([forward(model, part) for part in views.split(VIEWS_AT_ONCE)])
    model.test_cfg = config.model.test_cfg
    scores = model.average_clip(torch.from_numpy(logits), num_segs=len(logits))[0].numpy()
    return {"logits": logits, "scores": scores}


def forward(model, views: torch.Tensor) -> np.ndarray:
    """Normalised float32 views [V, 3, T, H, W] -> logits [V, K]."""
    model.test_cfg = {"average_clips": None}
    return model(views[None], return_loss=False)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
