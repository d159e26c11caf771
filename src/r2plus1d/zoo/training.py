"""Training of one row: SGD, cosine learning rate, gradient clipping, periodic validation, exact resumption.

The published recipe (see params.yaml, `recipe.train`). Knows neither paths of data nor YAML.
"""

import io
import json
import math
import pickle
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from r2plus1d.clips.items import Reader, TrainClips
from r2plus1d.clips.loader import Schedule, loader
from r2plus1d.config.schema import RowConfig
from r2plus1d.datasets.annotations import Sample
from r2plus1d.model.lowered import for_inference, for_training
from r2plus1d.model.network import Recognizer, build
from r2plus1d.system import processes
from r2plus1d.system.device import computed, peak_memory_mib, prepare, seed_everything, synchronize
from r2plus1d.system.errors import UserError, one_line
from r2plus1d.system.files import write_bytes
from r2plus1d.system.progress import progress, saved
from r2plus1d.system.timing import reading
from r2plus1d.zoo import accuracy
from r2plus1d.zoo.live import Kind, Live
from r2plus1d.zoo.log import Log, format_entry
from r2plus1d.zoo.update import (
    MODEL_STREAM,
    freeze,
    learning_rate,
    lowered,
    optimizer_for,
    set_rate,
    set_training,
    updates,
)
from r2plus1d.zoo.validation import validate
from r2plus1d.zoo.weights import starting_network

STATE = "state.pt"
SO_FAR = "train.log.json"  # the timed log of a training that is not over


class TrainingError(UserError):
    """Training that cannot go on; what was reached is kept in the work folder."""


class Training:
    """One row's training, and its steps in the order in which `run` takes them.

    After every epoch the whole state goes to `work`, and the log so far; where a state of the same configuration stands
    there, training goes on from it, to the same bytes. Of several processes the first alone uses `work`, and the
    running statistics of the inner batch norms are its own, as in the published rows. Raises TrainingError when there
    is nothing to train on, or where loss, gradients or weights are not finite; such weights are never saved.
    """

    def __init__(
        self,
        config: RowConfig,
        splits: dict[str, list[Sample]],
        reader: Reader,
        classes: list[str],
        work: Path,
        workers: int | None,
        say: Callable[[str], None],
        live: Kind = "none",
    ):
        if not splits["train"]:
            raise TrainingError(f"{config.row}: there are no training videos; give the row a checkpoint in params.yaml")
        self.config, self.splits, self.reader, self.workers, self.say = config, splits, reader, workers, say
        self.state = work / STATE
        self.device = prepare(config.runtime)
        self.model = starting_network(config, classes, say).to(self.device)
        freeze(self.model, config)
        self.optimizer = optimizer_for(self.model, config)
        self.network = self._network()
        self.log, self.start = Log(), 0
        self.live: Kind = live if processes.first() else "none"
        self.best: dict | None = None  # of `keep: best`: epoch, top1, model

    def run(self) -> tuple[Recognizer, Log]:
        """The trained network and the log."""
        self.resume()
        self.announce()
        config, samples = self.config, self.splits["train"]
        self.update = updates(self.network, self.optimizer, config.train.max_grad_norm, self.model.family)
        place = processes.rank(), processes.processes()
        labels = [sample.label for sample in samples] if config.train.balance == "classes" else None
        span = self.start, config.train.epochs
        size, parts = config.videos_per_step, config.train.accumulate
        schedule = Schedule(len(samples), size, config.seed, *span, *place, labels=labels, parts=parts)
        self.check_batches(schedule)
        self.shown = Live(self.live, config.row, schedule.batches_per_epoch)
        for entry in self.log.timed:
            self.shown.add(entry)
        clips = TrainClips(config, samples, self.reader)
        batches = iter(
            reading(loader(clips, self.device, self.workers, batch_sampler=schedule, collate_fn=clips.collate))
        )
        count = (config.train.epochs - self.start) * schedule.batches_per_epoch
        steps: Iterator[int] = iter(range(count))
        if processes.first():
            steps = iter(progress(steps, count, f"training {config.row}", "steps"))
        for epoch in range(self.start, config.train.epochs):
            self.train_epoch(epoch, schedule, batches, steps)
            self.check_weights(epoch)
            if (epoch + 1) % config.train.val_interval == 0 or epoch + 1 == config.train.epochs:
                self.validate(epoch, schedule.batches_per_epoch)
            if processes.first():
                self.save(epoch)
        next(steps, None)
        if self.best is not None:
            self.model.load_state_dict(self.best["model"])
            self.say(f"kept: the weights after epoch {self.best['epoch']}, the best on the validation videos")
        return self.model, self.log

    def _network(self) -> torch.nn.Module:
        """What computes the steps, with the weights of `model`."""
        arithmetic = computed(self.config.runtime.arithmetic, self.device, training=True)
        if processes.processes() == 1:
            return for_training(self.model, self.device, lowered(self.config, self.device), arithmetic)
        side = self.config.train.crop
        # Not rewritten: its outer batch norms are those of all processes.
        network = for_training(self.model, self.device, False, arithmetic)
        return processes.replicate(network, torch.zeros(1, 3, self.config.clip.frames, side, side, device=self.device))

    def resume(self) -> None:
        """Goes back to where an earlier run was saved, if one was."""
        saved(f"no epoch of the training of {self.config.row} is finished")
        state = processes.from_first(_saved(self.state, self.say) if processes.first() else None)
        if state is None:
            self._name_others()
            return
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.best = state["best"]
            self.log, self.start = Log(json.loads(state["entries"]), json.loads(state["timed"])), int(state["epoch"])
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise TrainingError(
                f"{self.state} is not the state of this training ({one_line(error, 200)}); remove it, and the training "
                "starts from the beginning"
            ) from error
        self.say(f"resuming after epoch {self.start} of {self.config.train.epochs}")
        saved(self._place(self.start))

    def _name_others(self) -> None:
        for other in sorted(self.state.parent.parent.glob(f"{self.config.row}-*/{STATE}")):
            self.say(
                f"{other.parent} holds an unfinished training with other code, versions or device, with another "
                "configuration, such as another number of processes, or with other data; it stays there, and this one "
                "starts from the beginning"
            )

    def check_batches(self, schedule: Schedule) -> None:
        """Batch norm needs two values of each channel, which a single small clip has not where the network ends."""
        sizes = {schedule.size(1), schedule.size(schedule.batches_per_epoch)}
        least = min(size // (schedule.parts_of(size) * processes.processes()) for size in sizes)
        if least > 1 or self.config.train.freeze == 5:
            return
        frames, side = self.config.clip.frames, self.config.train.crop
        with torch.device("meta"):
            ends = build(**self.model.arguments).eval().backbone(torch.empty(1, 3, frames, side, side))
        if ends[0, 0].numel() == 1:
            raise TrainingError(
                f"{self.config.row}: {schedule.count} training videos in steps of {schedule.batch} leave a step with "
                "one video, whose clip the network reduces to a single value, of which batch norm can make nothing; "
                "choose another train.videos_per_gpu or train.accumulate, or a larger train.crop"
            )

    def announce(self) -> None:
        count, train = self.config.runtime.gpus, self.config.train
        if count > 1 or train.accumulate > 1:
            parts = f" x {train.accumulate} parts" if train.accumulate > 1 else ""
            whole = f"{count} process{'es' if count > 1 else ''} x {train.videos_per_gpu} videos{parts}"
            self.say(f"{whole} = {self.config.videos_per_step} videos a step, lr {self.config.learning_rate:.4g}")
            if train.accumulate > 1:
                self.say(f"batch norms see {count * train.videos_per_gpu} videos at a time, not all of a step")

    def train_epoch(self, epoch: int, schedule: Schedule, batches: Iterator, steps: Iterator[int]) -> None:
        """One pass over the training videos; an entry of the log after every `log_interval` steps."""
        # Dropout. A resumed run draws the same, and the first process what a single one draws.
        seed_everything(self.config.seed, MODEL_STREAM, epoch + 1, processes.rank())
        self.network.train()
        set_training(self.model, self.config)
        set_rate(self.optimizer, learning_rate(self.config, epoch))
        since: list[dict] = []
        for iteration in range(1, schedule.batches_per_epoch + 1):
            size = schedule.size(iteration)
            since.append(self.step(epoch, iteration, size, schedule.parts_of(size), batches))
            next(steps)
            if iteration % self.config.train.log_interval == 0 or iteration == schedule.batches_per_epoch:
                self.note(epoch, iteration, since)
                since = []

    def step(self, epoch: int, iteration: int, count: int, share: int, batches: Iterator) -> dict[str, float]:
        """One update from the next batch of `count` clips over all processes, in `share` parts, and its figures."""
        began = time.perf_counter()
        reading, labels = 0.0, []

        def parts() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            nonlocal reading
            for _ in range(share):
                asked = time.perf_counter()
                clips, targets = (tensor.to(self.device, non_blocking=True) for tensor in next(batches))
                reading += time.perf_counter() - asked
                labels.append(targets)
                yield clips, targets

        result = self.update(parts(), count / processes.processes())
        scores, targets = result.pop("logits").cpu().numpy(), torch.cat(labels).cpu().numpy()
        own = {"loss": result["loss"] / processes.processes()}
        for k in (1, 5):
            known = len(targets) and np.isfinite(scores).all()  # else the loss says so, below
            right = accuracy.top_k_accuracy(scores, targets, k) if known else 0.0
            own[f"top{k}_acc"] = right * (len(targets) / count)
        result |= processes.summed(own)
        for name in ("loss", "grad_norm"):
            if not math.isfinite(result[name]):
                raise TrainingError(
                    f"{self.config.row}: {name} is {result[name]} at epoch {epoch + 1}, iteration {iteration}; "
                    f"{_way_out(epoch)}"
                )
        synchronize(self.device)
        return result | {"data_time": reading, "time": time.perf_counter() - began}

    def note(self, epoch: int, iteration: int, since: list[dict]) -> None:
        """An entry of the log: the means since the last one."""
        mean = {key: float(np.mean([result[key] for result in since])) for key in since[0]}
        entry = {"mode": "train", "epoch": epoch + 1, "iter": iteration, "lr": learning_rate(self.config, epoch)}
        entry |= {key: round(mean[key], 5) for key in ("loss", "top1_acc", "top5_acc", "grad_norm")}
        memory = processes.largest(peak_memory_mib(self.device))
        self.add(entry, memory=memory, data_time=mean["data_time"], time=mean["time"])

    def add(self, entry: dict, **timings: float) -> None:
        """Into the log, and for who looks on."""
        self.log.add(entry, **timings)
        self.shown.add(self.log.timed[-1])

    def check_weights(self, epoch: int) -> None:
        if not all(tensor.isfinite().all() for tensor in self.model.state_dict().values()):
            raise TrainingError(f"{self.config.row}: weights are not finite after epoch {epoch + 1}; {_way_out(epoch)}")

    def validate(self, epoch: int, iterations: int) -> None:
        """An entry of the log with the accuracies of the validation view."""
        self.say(format_entry(self.log.entries[-1], iterations))  # of the steps before
        processes.same_buffers(self.model)
        arithmetic = computed(self.config.runtime.arithmetic, self.device)
        fast = for_inference(self.model, self.device, self.config.runtime.lowered, arithmetic)
        found = validate(self.config, fast, self.splits["val"], self.reader, self.device, self.workers)
        entry = {"mode": "val", "epoch": epoch + 1, "iter": len(self.splits["val"])}
        entry |= {"lr": learning_rate(self.config, epoch), **found}
        self.add(entry)
        if self.config.train.keep == "best" and (self.best is None or found["top1_acc"] > self.best["top1"]):
            weights = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
            self.best = {"epoch": epoch + 1, "top1": found["top1_acc"], "model": weights}
        self.say(format_entry(entry, iterations))

    def save(self, epoch: int) -> None:
        """Writes all that a later run goes on from."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": epoch + 1,
            "entries": json.dumps(self.log.entries),
            "timed": json.dumps(self.log.timed),
            "best": self.best,
        }
        content = io.BytesIO()  # given a file, torch hides what is wrong with the disk
        torch.save(state, content)
        write_bytes(self.state, content.getvalue())
        self.log.write_timed(self.state.with_name(SO_FAR))
        saved(self._place(epoch + 1))

    def _place(self, epoch: int) -> str:
        return (
            f"the training of {self.config.row} is saved after epoch {epoch} of {self.config.train.epochs}, "
            f"in {self.state.parent}"
        )


def _way_out(epoch: int) -> str:
    kept = f"the state after epoch {epoch} is kept, but " if epoch else ""
    change = "lower train.lr or train.max_grad_norm in params.yaml, which starts a new one"
    return f"{kept}the same training stops at the same place again: {change}"


def _saved(state: Path, say: Callable[[str], None]) -> dict | None:
    """What `Training.save` wrote; None where there is nothing, or nothing whole."""
    if not state.exists():
        return None
    try:
        return torch.load(state, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        say(f"{state} is damaged ({one_line(error, 200)}); the training starts from the beginning")
        return None
