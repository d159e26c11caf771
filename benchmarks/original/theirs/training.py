"""The original's side of `original/training.py`, which starts it in the original's environment:
python training.py FOLDER THREADS
"""

import json
import sys
from pathlib import Path

import mmaction
import mmcv
import torch
from mmaction.models import build_model
from mmcv.runner import load_checkpoint

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # the project's root

from benchmarks.original.steps import MAX_NORM, train


def main(folder: Path, threads: int) -> list[tuple[float, float]]:
    torch.set_num_threads(threads)
    configs = Path(mmaction.__path__[0]) / ".mim" / "configs" / "recognition" / "r2plus1d"
    config = mmcv.Config.fromfile(str(configs / "r2plus1d_r34_8x8x1_180e_kinetics400_rgb.py")).model
    config.backbone.update(depth=18, base_channels=8, norm_cfg={"type": "BN3d", "requires_grad": True, "eps": 1e-3})
    config.cls_head.update(num_classes=5, in_channels=64, dropout_ratio=0.0)
    network = build_model(config)
    load_checkpoint(network, str(folder / "weights.pth"), map_location="cpu", strict=True)

    def step(optimizer, clips, labels):
        loss = network(clips[:, None], labels[:, None], return_loss=True)["loss_cls"]
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), MAX_NORM)
        optimizer.step()
        return loss.item(), norm.item()

    return train(network, step, folder)


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]))))
