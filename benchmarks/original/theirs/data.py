"""The original's side of `speed/data_path.py` and `speed/extraction.py`, which start it in the original's environment:
python data.py JOB

Imports MMAction2 and nothing of this project. Pipelines are those of the published configurations and the extraction is
its own tool's; nothing of them is replaced or patched but the length of a clip. Prints one line of JSON.
"""

import contextlib
import importlib.util
import json
import os
import random
import resource
import sys
import time
from multiprocessing import Lock
from pathlib import Path
from types import SimpleNamespace

import cv2
import decord
import mmaction
import mmcv
import numpy as np
import torch
from mmaction.datasets import build_dataset

MIM = Path(mmaction.__path__[0]) / ".mim"
CONFIGS = {
    "frames": "r2plus1d_r34_8x8x1_180e_kinetics400_rgb",
    "video": "r2plus1d_r34_video_8x8x1_180e_kinetics400_rgb",
}


def clips(job: dict) -> list:
    """Seconds of each video: of its training clips, one for each seed, or of its test views."""
    config = mmcv.Config.fromfile(str(MIM / "configs" / "recognition" / "r2plus1d" / f"{CONFIGS[job['input']]}.py"))
    pipeline = config.train_pipeline if job["use"] == "training" else config.test_pipeline
    steps = [dict(step) for step in pipeline]
    for step in steps:
        if step["type"] == "SampleFrames":
            step["clip_len"], step["frame_interval"] = job["clip"]
    split = config.data["train" if job["use"] == "training" else "test"]
    dataset = build_dataset({**split, "ann_file": job["list"], "data_prefix": job["prefix"], "pipeline": steps})
    dataset[0]
    seconds = []
    for number in range(len(dataset)):
        began = time.process_time()
        for seed in range(job["seeds"]):
            np.random.seed(seed)
            random.seed(seed)
            dataset[number]
        seconds.append(time.process_time() - began)
    return seconds


def extraction(job: dict) -> list:
    """Seconds of each video: its frames, short side as asked for, in loose JPEG files of OpenCV's own quality."""
    spec = importlib.util.spec_from_file_location("tool", MIM / "tools" / "data" / "build_rawframes.py")
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    folder = job["out"]
    options = SimpleNamespace(out_dir=folder, use_opencv=True, new_short=job["short_side"], new_width=0, new_height=0)
    vars(tool).update(lock=Lock(), args=options)
    seconds = []
    for video in job["videos"]:
        began = time.perf_counter()
        tool.extract_frame((video, Path(video).name, Path(video).stem, "tvl1", "rgb", str(Path(folder, "report.txt"))))
        seconds.append(time.perf_counter() - began)
    return seconds


if __name__ == "__main__":
    job = json.loads(sys.argv[1])
    if "core" in job:
        os.sched_setaffinity(0, {job["core"]})
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    with contextlib.redirect_stdout(sys.stderr):
        seconds = {"clips": clips, "extraction": extraction}[job["what"]](job)
    versions = {"mmaction2": mmaction.__version__, "mmcv": mmcv.__version__, "opencv": cv2.__version__}
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    versions["decord"] = decord.__version__
    print(json.dumps({"seconds": seconds, "memory_mib": memory, "versions": versions}))
