"""The mistakes that a row is surest of, with some frames of each, small enough to stand in git."""

import base64
from collections.abc import Sequence

import numpy as np
import pandas as pd
import simplejpeg

from r2plus1d.clips.items import Reader
from r2plus1d.datasets.annotations import Sample
from r2plus1d.video import views

MOST = 4  # of a row
FRAMES = 6  # of a video, at even distances
SIDE = 72  # pixels, of their short side at most
GAP = 2  # white pixels between them
QUALITY = 75  # of the JPEG, which is for people


def surest(predictions: pd.DataFrame, samples: Sequence[Sample], reader: Reader) -> list[dict]:
    """Of a table of `accuracy.predictions` of these samples, the wrong ones of highest probability: each with path,
    actual and predicted class, probability, and a strip of frames: a JPEG in base64, its width and height."""
    by_path = {sample.path: sample for sample in samples}
    wrong = predictions[predictions["rank"] > 1].sort_values(["probability", "path"], ascending=[False, True])
    found = []
    for line in wrong.head(MOST).itertuples():
        image = strip(by_path[str(line.path)], reader)
        jpeg = simplejpeg.encode_jpeg(image, QUALITY, "RGB", "420")
        told = {"path": line.path, "actual": line.actual, "predicted": line.predicted, "probability": line.probability}
        picture = {"width": image.shape[1], "height": image.shape[0], "jpeg": base64.b64encode(jpeg).decode()}
        found.append(told | picture)
    return found


def strip(sample: Sample, reader: Reader) -> np.ndarray:
    """uint8 [SIDE at most, W, 3]: frames of the whole video, side by side."""
    indices = np.unique(np.linspace(0, sample.num_frames - 1, FRAMES).astype(np.int64))
    frames = reader.read(sample.path, indices, sample.num_frames)
    if min(frames.shape[1:3]) > SIDE:
        frames = views.resize_short_side(frames, SIDE)
    gap = np.full((frames.shape[1], GAP, 3), 255, np.uint8)
    return np.ascontiguousarray(np.hstack([part for frame in frames for part in (gap, frame)][1:]))
