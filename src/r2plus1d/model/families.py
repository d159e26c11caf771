"""How the R(2+1)D networks of different sources differ, as data.

Sources: MMAction's published checkpoints; torchvision 0.29, models/video/resnet.py; moabitcoin/ig65m-pytorch,
ig65m/models.py and, for how clips are shown, ig65m/cli/extract.py.
"""

from dataclasses import dataclass
from typing import Literal

from r2plus1d.video.normalisation import IMAGENET, KINETICS


@dataclass(frozen=True)
class View:
    """How a network is shown a video: `clips` at even distances, each of `frames` frames, one of `frame_interval` at
    `frame_rate`, scaled to `resize` (their short side, or height and width), of which `crops` squares of `crop` pixels
    are cut.
    """

    frames: int
    frame_interval: int
    resize: int | tuple[int, int]
    crop: int
    clips: int
    crops: int  # 3: along the long side; 1: the centre crop
    frame_rate: float | None = None  # frames a second; None: all frames of the video, whatever their times
    spread: Literal["inner", "ends"] = "inner"  # of the clips over the video: see clips.sampling
    stored: int | None = None  # short side at which the frames were packed as JPEG before; None: taken from the video
    average: Literal["prob", "score"] = "prob"  # of the views: the mean of the softmax, or of the logits


@dataclass(frozen=True)
class Family:
    """The networks of one source: `stem_mid` is the width between the two convolutions of the stem where the stem is
    64 wide (None: as for every other one). A block whose width changes splits its second 3x3x3 convolution by its own
    channels, or as the first one (`mid_of_block`). The shortcut is split like the other convolutions, or not.
    """

    stem_mid: int | None
    stem_pool: bool
    mid_of_block: bool
    split_shortcut: bool
    inner_eps: float  # of the batch norm between the two convolutions
    outer_eps: float  # of the one after them
    momentum: float  # of all batch norms, as torch counts it: the share of the new batch
    mean: tuple[float, ...]  # of RGB pixels from 0 to 255
    std: tuple[float, ...]
    view: View  # of its publishers' test


MMACTION = "mmaction"
_TORCHVISION = View(16, 1, (128, 171), 112, 5, 1, 15.0, "ends")  # of its references/video_classification
FAMILIES = {
    MMACTION: Family(None, True, False, True, 1e-5, 1e-3, 0.1, *IMAGENET, View(8, 8, 256, 256, 10, 3)),
    "torchvision": Family(45, False, True, False, 1e-5, 1e-5, 0.1, *KINETICS, _TORCHVISION),
    # The momentum of 0.9 in its code is Caffe2's: the share of what was before. The number of its views is ours.
    "ig65m": Family(45, False, False, False, 1e-3, 1e-3, 0.1, *KINETICS, View(32, 1, 128, 112, 10, 1)),
}
