"""Figures of a row that no stage measured, for the report."""

import base64

import numpy as np
import pandas as pd
import simplejpeg

from r2plus1d.config.schema import TestedRow
from r2plus1d.results.figures import Measured, RowFigures

COVERAGE = {
    "classes": 12,
    "train": {"listed": 361, "found": 360, "readable": 360},
    "val": {"listed": 144, "found": 143, "readable": 142},
    "suspected_pairs": 0,
}
VIEWS = ["clips", "crops", "right", "videos"]


def measured(rows: list[RowFigures], names: dict[str, str], **changes) -> Measured:
    return Measured(rows, names, **({"coverage": COVERAGE} | changes))


def row_figures(row: TestedRow, top1: float) -> RowFigures:
    classes = [["a <b> & c", 1, 50.0, 100.0, 66.67, ""], ["b", 1, 0.0, 0.0, 0.0, "a <b> & c 1"]]
    predictions = [["1.mp4", "a <b> & c", "a <b> & c", 0.9, 1], ["2.mp4", "b", "a <b> & c", 0.8, 2]]
    picture = simplejpeg.encode_jpeg(np.full((16, 64, 3), 90, np.uint8), 75, "RGB", "420")
    return RowFigures(
        config=row,
        test={
            "top1": top1,
            "top5": 99.0,
            "mean_class_accuracy": top1,
            "single_clip": {"top1": top1 - 5},
            "static": {"top1": 50.0, "classes": 1},
            "videos": 2,
            "repeated": 0,
            "split": "val",
        },
        benchmark={"videos_per_second": 12.34, "memory_mib": 900, "parameters": 63_759_281, "macs": 52_977_868_800},
        machine={
            "device": "CPU Some",
            "threads": 2,
            "torch": "2",
            "cuda": "not used",
            "frames": "80x3",
            "arithmetic": "exact",
        },
        curve=pd.DataFrame({"epoch": [1, 2], "train_loss": [2.0, 1.0], "val_top1": [None, 0.5]}),
        predictions=pd.DataFrame(predictions, columns=["path", "actual", "predicted", "probability", "rank"]),
        one_frame=pd.DataFrame(predictions[:0], columns=["path", "actual", "predicted", "probability", "rank"]),
        views=pd.DataFrame([[1, 1, 1, 2], [2, 1, 1, 2], [1, 3, 2, 2], [2, 3, 1, 2]], columns=VIEWS),
        classes=pd.DataFrame(classes, columns=["class", "videos", "precision", "recall", "f1", "taken_for"]),
        mistakes=[
            {
                "path": "2.mp4",
                "actual": "b",
                "predicted": "a <b> & c",
                "probability": 0.8,
                "width": 64,
                "height": 16,
                "jpeg": base64.b64encode(picture).decode(),
            }
        ],
        record={
            "commit": {"id": "0123456789abcdef", "changed": [], "package": "src/r2plus1d"},
            "inputs": {"data/motion/manifest.csv": "fedcba9876543210"},
            "libraries": {"torch": "2"},
        },
    )
