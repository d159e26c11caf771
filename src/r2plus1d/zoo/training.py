"""Training of one row: SGD, cosine learning rate, gradient clipping, periodic validation, exact resumption.

The published recipe (see params.yaml, `recipe.train`). Knows neither paths of data nor YAML.
"""

import io
import json
import math
import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from r2plus1d.clips.items import Reader, TrainClips, ValClips
from r2plus1d.clips.loader import Schedule, loader
from r2plus1d.config.resolve import RowConfig
from r2plus1d.datasets.annotations import Sample
from r2plus1d.model.lowered import for_inference, for_training
from r2plus1d.model.network import Recognizer, build
from r2plus1d.system import processes
from r2plus1d.system.device import peak_memory_mib, prepare, seed_everything, synchronize
from r2plus1d.system.errors import UserError
from r2plus1d.system.files import write_bytes, write_text
from r2plus1d.system.progress import progress, saved
from r2plus1d.system.timing import reading
from r2plus1d.video.views import to_input
from r2plus1d.zoo import accuracy

STATE = "state.pt"
CURVE = ("epoch", "train_loss", "train_top1", "val_top1")
MODEL_STREAM = 2  # separates torch's random numbers from those of `clips`


class TrainingError(UserError):
    """Training that cannot go on; what was reached is kept in the work folder."""


@dataclass
class Log:
    """One entry per iteration group and per validation, with the field names of the published logs.

    `entries` hold only what repeats exactly; `timed` the same with memory (MiB), data_time and time (seconds).
    """

    entries: list[dict] = field(default_factory=list)
    timed: list[dict] = field(default_factory=list)

    def add(self, entry: dict, **timings: float) -> None:
        self.entries.append(entry)
        self.timed.append(entry | {key: round(value, 5) for key, value in timings.items()})

    def curve(self) -> list[dict]:
        """One point per epoch: mean training loss and accuracy, and the validation accuracy where there was one."""
        points: dict[int, dict] = {}
        for epoch in sorted({entry["epoch"] for entry in self.entries}):
            groups = [e for e in self.entries if e["epoch"] == epoch and e["mode"] == "train"]
            means = [round(float(np.mean([g[key] for g in groups])), 4) for key in ("loss", "top1_acc")]
            points[epoch] = dict(zip(CURVE, (epoch, *means, None), strict=True))
        for entry in self.entries:
            if entry["mode"] == "val":
                points[entry["epoch"]]["val_top1"] = entry["top1_acc"]
        return list(points.values())

    def write(self, folder: Path, lines: list[str], timed: Path, curve: Path) -> None:
        """train.log with `lines` and train.log.json in `folder`, and the files `timed` (JSON lines) and `curve`."""
        write_text(folder / "train.log", "\n".join(lines) + "\n")
        write_text(folder / "train.log.json", "".join(json.dumps(entry) + "\n" for entry in self.entries))
        write_text(timed, "".join(json.dumps(entry) + "\n" for entry in self.timed))
        write_text(curve, pd.DataFrame(self.curve(), columns=CURVE).to_csv(index=False, lineterminator="\n"))


def learning_rate(config: RowConfig, epoch: int) -> float:
    """Cosine by epoch, from the linearly scaled rate to 0 after the last epoch."""
    return config.learning_rate * (1 + math.cos(math.pi * epoch / config.train.epochs)) / 2


def build_arguments(config: RowConfig, num_classes: int) -> dict:
    """What `model.build` is called with for this row."""
    rest = {"num_classes": num_classes, "dropout": config.train.dropout, "frames": config.clip.frames}
    return config.model.model_dump() | rest


def build_model(config: RowConfig, num_classes: int) -> Recognizer:
    """The row's network with seeded weights."""
    seed_everything(config.seed, MODEL_STREAM)
    return build(**build_arguments(config, num_classes))


def optimizer_for(model: nn.Module, config: RowConfig) -> torch.optim.SGD:
    train = config.train
    return torch.optim.SGD(
        model.parameters(), lr=config.learning_rate, momentum=train.momentum, weight_decay=train.weight_decay
    )


def step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    labels: Tensor,
    max_norm: float,
    clips: float | None = None,
) -> dict:
    """One update from normalised clips [N, 3, T, H, W]. Returns loss, grad_norm (before clipping) and logits [N, K].

    Where loss or grad_norm is not finite there is no update, which would spoil the weights.

    With several processes, `clips` is the mean of their N. The loss is the sum over this process's clips divided by it,
    so that the mean of the losses, and of the gradients, over the processes is that over all clips, whatever each
    one's N (0 too).
    """
    optimizer.zero_grad()
    logits = model(x)
    loss = functional.cross_entropy(logits, labels, reduction="sum") / (clips or len(labels))
    loss.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    result = {"loss": loss.item(), "grad_norm": norm.item(), "logits": logits.detach()}
    if math.isfinite(result["loss"]) and math.isfinite(result["grad_norm"]):
        optimizer.step()
    return result


def updates(network: nn.Module, optimizer: torch.optim.SGD, max_norm: float) -> Callable[[Tensor, Tensor, float], dict]:
    """A function of uint8 clips [N, T, H, W, 3] and labels on the network's device, and of the mean number of clips of
    a process: an update of `network`, as `step` makes it. A network that `for_training` made for a GPU makes its own.
    """
    if hasattr(network, "steps"):
        steps = network.steps(optimizer, max_norm)
        return lambda clips, labels, _: steps(clips, labels)

    def update(clips: Tensor, labels: Tensor, count: float) -> dict:
        return step(network, optimizer, to_input(clips, clips.device).contiguous(), labels, max_norm, count)

    return update


def train(
    config: RowConfig,
    splits: dict[str, list[Sample]],
    reader: Reader,
    num_classes: int,
    work: Path,
    workers: int | None,
    say: Callable[[str], None],
) -> tuple[Recognizer, Log]:
    """The trained network and the log.

    After every epoch the whole state goes to `work`; where a state of the same configuration stands there, training
    goes on from it, to the same bytes. Of several processes the first alone uses `work`, and the running statistics
    of the inner batch norms are its own, as in the published rows. Raises TrainingError when there is nothing to train
    on, or where loss, gradients or weights are not finite; such weights are never saved.
    """
    if not splits["train"]:
        raise TrainingError(f"{config.row}: there are no training videos; give the row a checkpoint in params.yaml")
    device = prepare(config.runtime)
    model = build_model(config, num_classes).to(device)
    optimizer = optimizer_for(model, config)
    log, start = Log(), 0
    if processes.processes() > 1:  # plain: its outer batch norms are those of all processes
        network = processes.replicate(
            model, torch.zeros(1, 3, config.clip.frames, *[config.train.crop] * 2, device=device)
        )
    else:
        network = for_training(model, device, config.runtime.lowered)
    saved(f"no epoch of the training of {config.row} is finished")
    if state := processes.from_first(_saved(work, say) if processes.first() else None):
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        log, start = Log(json.loads(state["entries"]), json.loads(state["timed"])), state["epoch"]
        say(f"resuming after epoch {start} of {config.train.epochs}")
        saved(_place(config, work, start))
    else:
        for other in sorted(work.parent.glob(f"{config.row}-*/{STATE}")):
            say(
                f"{other.parent} holds an unfinished training with another configuration, such as another number of "
                "processes, or with other data; it stays there, and this one starts from the beginning"
            )
    count, each = config.runtime.gpus, config.train.videos_per_gpu
    if count > 1:
        say(f"{count} processes x {each} videos = {count * each} videos a step, lr {config.learning_rate:.4g}")

    place = processes.rank(), processes.processes()
    schedule = Schedule(len(splits["train"]), config.videos_per_step, config.seed, start, config.train.epochs, *place)
    clips = TrainClips(config, splits["train"], reader)
    batches = reading(loader(clips, device, workers, batch_sampler=schedule, collate_fn=clips.collate))
    steps = range(len(schedule))
    shown = progress(steps, len(schedule), f"training {config.row}", "steps") if processes.first() else steps
    ticks = iter(shown)
    update = updates(network, optimizer, config.train.max_grad_norm)
    for epoch in range(start, config.train.epochs):
        _train_epoch(config, network, optimizer, update, epoch, schedule, batches, ticks, device, log)
        if not all(tensor.isfinite().all() for tensor in model.state_dict().values()):
            raise TrainingError(f"{config.row}: weights are not finite after epoch {epoch + 1}; {_way_out(epoch)}")
        if (epoch + 1) % config.train.val_interval == 0 or epoch + 1 == config.train.epochs:
            processes.same_buffers(model)
            fast = for_inference(model, device, config.runtime.lowered)
            entry = validate(config, fast, splits["val"], reader, device, workers)
            entry = {"mode": "val", "epoch": epoch + 1, "iter": len(splits["val"])} | {
                "lr": optimizer.param_groups[0]["lr"],
                **entry,
            }
            log.add(entry)
            say(format_entry(entry, schedule.batches_per_epoch))
        if processes.first():
            _save(work, model, optimizer, epoch + 1, log)
            saved(_place(config, work, epoch + 1))
    next(ticks, None)
    return model, log


def _train_epoch(config, model, optimizer, update, epoch, schedule, batches, ticks, device, log) -> None:
    # Dropout. A resumed run draws the same, and the first process what a single one draws.
    seed_everything(config.seed, MODEL_STREAM, epoch + 1, processes.rank())
    model.train()
    lr = learning_rate(config, epoch)
    for group in optimizer.param_groups:
        group["lr"] = lr
    since: list[dict] = []
    iterations = schedule.batches_per_epoch
    for iteration in range(1, iterations + 1):
        began = time.perf_counter()
        clips, labels = next(batches)
        clips, labels = clips.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        read = time.perf_counter()
        count = schedule.size(iteration)
        result = update(clips, labels, count / processes.processes())
        scores, targets = result.pop("logits").cpu().numpy(), labels.cpu().numpy()
        own = {"loss": result["loss"] / processes.processes()}
        for k in (1, 5):
            right = accuracy.top_k_accuracy(scores, targets, k) if len(targets) else 0.0
            own[f"top{k}_acc"] = right * (len(targets) / count)
        result |= processes.summed(own)
        for name in ("loss", "grad_norm"):
            if not math.isfinite(result[name]):
                raise TrainingError(
                    f"{config.row}: {name} is {result[name]} at epoch {epoch + 1}, iteration {iteration}; "
                    f"{_way_out(epoch)}"
                )
        synchronize(device)
        since.append(result | {"data_time": read - began, "time": time.perf_counter() - began})
        next(ticks)
        if iteration % config.train.log_interval == 0 or iteration == iterations:
            mean = {key: float(np.mean([r[key] for r in since])) for key in since[0]}
            entry = {"mode": "train", "epoch": epoch + 1, "iter": iteration, "lr": lr}
            entry |= {key: round(mean[key], 5) for key in ("loss", "top1_acc", "top5_acc", "grad_norm")}
            memory = processes.largest(peak_memory_mib(device))
            log.add(entry, memory=memory, data_time=mean["data_time"], time=mean["time"])
            since = []


def validate(
    config: RowConfig,
    model: nn.Module,
    samples: list[Sample],
    reader: Reader,
    device: torch.device,
    workers: int | None,
    static: bool = False,
) -> dict[str, float]:
    """Accuracies (0-1) of the validation view: one clip per video, centre crop. Not the protocol of the table.

    `static`: of the clip's middle frame, repeated, which says what appearance alone scores.
    Several processes share out whole batches, so that each batch is computed as in a single one.
    """
    size = config.train.videos_per_gpu
    own = processes.share([range(len(samples))[i : i + size] for i in range(0, len(samples), size)])
    clips = ValClips(config, samples, reader, static)
    model.eval()
    results = []
    with torch.inference_mode():
        for batch, targets in reading(loader(clips, device, workers, batch_sampler=own)):
            results.append((model(to_input(batch, device).contiguous()).cpu().numpy(), targets.numpy()))
    scores, targets = map(np.concatenate, zip(*processes.together(results), strict=True))
    return {
        "top1_acc": round(accuracy.top_k_accuracy(scores, targets, 1), 5),
        "top5_acc": round(accuracy.top_k_accuracy(scores, targets, 5), 5),
        "mean_class_accuracy": round(accuracy.mean_class_accuracy(scores, targets), 5),
    }


def format_entry(entry: dict, iterations: int) -> str:
    """A line of the text log, such as `Epoch [3][45/45]  lr: 1.2e-02  loss: 2.31  top1_acc: 0.21`."""
    place = f"[{entry['epoch']}]"
    head = f"Epoch {place}[{entry['iter']}/{iterations}]" if entry["mode"] == "train" else f"Epoch(val) {place}"
    values = {key: value for key, value in entry.items() if key not in ("mode", "epoch", "iter")}
    return "  ".join([head, *(f"{key}: {value:.4g}" for key, value in values.items())])


def _way_out(epoch: int) -> str:
    kept = f"the state after epoch {epoch} is kept, but " if epoch else ""
    change = "lower train.lr or train.max_grad_norm in params.yaml, which starts a new one"
    return f"{kept}the same training stops at the same place again: {change}"


def _place(config: RowConfig, work: Path, epoch: int) -> str:
    return f"the training of {config.row} is saved after epoch {epoch} of {config.train.epochs}, in {work}"


def _saved(work: Path, say: Callable[[str], None]) -> dict | None:
    path = work / STATE
    if not path.exists():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        say(f"{path} is damaged ({reason}); the training starts from the beginning")
        return None


def _save(work: Path, model: nn.Module, optimizer: torch.optim.Optimizer, epoch: int, log: Log) -> None:
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": epoch,
        "entries": json.dumps(log.entries),
        "timed": json.dumps(log.timed),
    }
    content = io.BytesIO()  # given a file, torch hides what is wrong with the disk
    torch.save(state, content)
    write_bytes(work / STATE, content.getvalue())
