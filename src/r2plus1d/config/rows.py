"""What each row of the zoo is: its own values, those that it inherits, and what its weights decide."""

import math
from collections.abc import Mapping
from typing import Any

from r2plus1d.config.layers import Layer, both, layer, merge, only, scaled, shrink
from r2plus1d.config.messages import check_keys, check_mapping, nearest, short
from r2plus1d.config.origins import FULL_WIDTH, PUBLISHED_CLIPS, ROW, Origin, origin
from r2plus1d.config.schema import (
    CUSTOM,
    BenchmarkConfig,
    BenchmarkedRow,
    ClipConfig,
    FinetuneConfig,
    ModelConfig,
    Scale,
    TestConfig,
    TrainConfig,
)
from r2plus1d.system import paths
from r2plus1d.system.errors import ConfigError

SPAN = 64  # frames that a clip of any row covers, which fixes the interval where none is given
WEIGHTS = ("init", "checkpoint")
AUTO, ON_THE_FLY = "auto", "on_the_fly"
FULL_SIZE = {"resolution": 1.0, "width": 1.0}


class Rows(dict[str, BenchmarkedRow]):
    """Each row's configuration, made when it is asked for: a row may start from another one."""

    def __init__(self, params: Mapping, shared: dict, published: Mapping[str, str], files: Mapping[str, Mapping]):
        super().__init__()
        self.params, self.shared, self.published, self.files = params, shared, published, files
        self.asking: list[str] = []  # the rows that are being made

    def __missing__(self, name: str) -> BenchmarkedRow:
        self.asking.append(name)
        self[name] = self._row(name)
        self.asking.pop()
        return self[name]

    def _row(self, name: str) -> BenchmarkedRow:
        params, chosen = self.params, self.shared["dataset"]
        dataset = params["datasets"][chosen]
        where = "model" if name == CUSTOM else f"zoo.{name}"
        own = params["model"] if name == CUSTOM else params["zoo"][name]
        check_mapping(where, own)
        optional = (*ModelConfig.model_fields, "frame_rate", "storage", *WEIGHTS)
        optional += () if name == CUSTOM else ("videos_per_gpu",)
        check_keys(where, own, (*ClipConfig.model_fields, *optional), optional=() if name == CUSTOM else optional)
        model = merge(ModelConfig, [("recipe.model", params["recipe"]["model"]), (where, only(own, ModelConfig))])
        clip = only(own, ClipConfig)
        given = self._origin(where, own, model, clip)
        start = given.get("init")
        origin = start or given.get("checkpoint")
        kind = origin.network["family"] if origin is not None and origin.network else model.family
        family = self._family(kind)
        if clip["frame_interval"] is None and isinstance(clip["frames"], int) and clip["frames"] > 0:
            clip["frame_interval"] = family["frame_interval"] or max(1, SPAN // clip["frames"])
        if clip.get("frame_rate") is None:
            clip["frame_rate"] = family["frame_rate"] or "all"
        clip["storage"] = self._storage(where, clip, "checkpoint" in given)
        unscaled = merge(ClipConfig, [(where, clip)])
        scale = self._scale(origin)

        layers = {key: [(f"recipe.{key}", params["recipe"][key])] for key in ("train", "test", "benchmark")}
        for key, known in layers.items():
            known.append((f"families.{kind}.{key}", family[key]))
        of_dataset = {key: (f"datasets.{chosen}.{key}", dataset.get(key, {})) for key in ("train", "benchmark")}
        if name != CUSTOM:
            layers["train"].append((where, only(own, TrainConfig)))
        layers["train"].append(of_dataset["train"])
        layers["benchmark"].append(of_dataset["benchmark"])
        own_layer: list[Layer] = [("train", params["train"])] if name == CUSTOM else []
        if start is not None:
            scratch, (place, values) = layers["train"], of_dataset["train"]
            if start.full_width:  # the dataset's rate is that of its small network
                scratch = [*scratch[:-1], (place, {**values, "lr": None})]
            alone = _said([*layers["train"], *own_layer], "freeze") == "all" and values.get("weight_decay") is None
            layers["train"].append(("finetune", self._finetuned(scratch, alone)))
        if name == CUSTOM:
            for key, known in layers.items():
                known.append((key, params[key]))
        pixels = {"short_side": scaled(unscaled.short_side, scale.resolution, f"{where}.short_side")}
        train = shrink(merge(TrainConfig, self._accumulated(layers["train"])), scale)
        if train.freeze == "all" and origin is None:
            raise ConfigError(f"{where}.init is null and train.freeze is all: give weights, or freeze less")
        return BenchmarkedRow(
            row=name,
            **self.shared,
            scale=scale,
            model=_network(where, own, model, scale, origin),
            clip=unscaled.model_copy(update=pixels),
            resolution=f"{unscaled.short_side}p",
            checkpoint=given["checkpoint"].source if "checkpoint" in given else None,
            init=start.source if start is not None else None,
            train=train,
            test=self._views(name, merge(TestConfig, layers["test"]), train, scale),
            benchmark=merge(BenchmarkConfig, layers["benchmark"]),
        )

    def _storage(self, where: str, clip: Mapping, tested: bool) -> str:
        """Weights that are only tested pass over each video a few times, which is no reason to keep all its frames."""
        videos = clip["input"] == "frames" and self.shared["loose_frames"] is None
        said = clip.get("storage")
        if said == ON_THE_FLY and not videos:
            what = "this row reads videos" if self.shared["loose_frames"] is None else "the frames are there already"
            raise ConfigError(f"{where}.storage is {ON_THE_FLY}, and {what}: leave it null")
        return said if said is not None else ON_THE_FLY if tested and videos else "packed"

    def _origin(self, where: str, own: Mapping, model: ModelConfig, clip: Mapping) -> dict[str, Origin]:
        """Of `init` and `checkpoint`, the one that the row gives."""
        found = {}
        for key in WEIGHTS:
            value = own.get(key)
            if value is None:
                continue
            if not isinstance(value, str):
                raise ConfigError(f"{where}.{key} is {short(value)}: expected a name, a path or an https address")
            try:
                found[key] = self._named(value, model.conv, clip)
            except ConfigError as error:
                raise ConfigError(f"{where}.{key} is {short(value)}: {error}") from error
        if len(found) > 1:
            raise ConfigError(f"{where}: init trains on and checkpoint tests as it is: give one of them")
        return found

    def _named(self, value: str, conv: str, clip: Mapping) -> Origin:
        if value.startswith(ROW):
            other = value.removeprefix(ROW)
            if other not in self.params["zoo"]:
                raise ConfigError(nearest(other, self.params["zoo"], "row"))
            if other in self.asking:
                raise ConfigError(f"rows cannot start from each other: {' -> '.join([*self.asking, other])}")
            return Origin(paths.weights(other).as_posix(), self[other].model.model_dump())
        published = {
            PUBLISHED_CLIPS[name]: address for name, address in self.published.items() if name in PUBLISHED_CLIPS
        }
        count = clip["frames"] if isinstance(clip["frames"], int) and clip["frames"] > 0 else 8
        interval = clip["frame_interval"] if isinstance(clip["frame_interval"], int) else max(1, SPAN // count)
        return origin(value, conv, (count, interval), published, self.published.get(self.asking[-1]), self.files)

    def _family(self, name: str) -> dict[str, Any]:
        """What params.yaml says of a family."""
        found, place = self.params["families"].get(name, {}), f"families.{name}"
        check_mapping(place, found)
        known: dict[str, Any] = {"frame_interval": None, "frame_rate": None, "train": {}, "test": {}, "benchmark": {}}
        check_keys(place, found, known, complete=False)
        return known | found

    def _scale(self, origin: Origin | None) -> Scale:
        """Weights of a network at full size are for frames at full size, whatever the dataset is scaled down to."""
        section, own = both(self.params, "scale")
        if origin is not None and origin.full_width:
            for key, same in (("width", 1.0), ("depth", origin.network and origin.network["depth"])):
                if own[1].get(key) not in (None, same):
                    raise ConfigError(f"scale.{key} is {short(own[1][key])}: {origin.source} decides the network")
            return merge(Scale, [layer(FULL_SIZE), own], nullable=("depth",))
        return merge(Scale, [layer(FULL_SIZE), section, own], nullable=("depth",))

    def _views(self, name: str, test: TestConfig, train: TrainConfig, scale: Scale) -> TestConfig:
        """Scaled down, a network is tested at the size that it is trained at: of a few pixels more its layers would see
        other sizes. At full size, and where the user says otherwise, as the recipe says."""
        said = name == CUSTOM and any(self.params["test"].get(key) is not None for key in ("resize", "crop"))
        if scale.resolution == 1 or said:
            return shrink(test, scale)
        return test.model_copy(update={"resize": train.crop, "crop": train.crop})

    def _finetuned(self, scratch: list[Layer], alone: bool) -> dict[str, Any]:
        """Training values of a row that starts from weights; `alone`: of its last layer alone, if the dataset says
        nothing of it."""
        finetune = merge(FinetuneConfig, [("finetune", self.params["finetune"])]).model_dump()
        decay = finetune.pop("last_layer_decay")
        if alone:
            finetune["weight_decay"] = decay
        said = self.params["train"].get("epochs") if self.asking[-1] == CUSTOM else None
        if isinstance(said, int) and said > 0:
            finetune["warmup_epochs"] = min(finetune["warmup_epochs"], said - 1)
        return {"lr": merge(TrainConfig, self._accumulated(scratch)).lr * finetune.pop("rate"), **finetune}

    def _accumulated(self, layers: list[Layer]) -> list[Layer]:
        """`accumulate: auto` as a number: with fewer GPUs than the published configurations are for, an update is made
        from as many parts as it takes for their number of videos, or next to it."""
        meant = _said(layers, "config_gpus")
        if _said(layers, "accumulate") != AUTO or not isinstance(meant, int):
            return layers
        parts = max(1, math.floor(meant / self.shared["runtime"].gpus + 0.5))
        return [*layers, ("train", {"accumulate": parts})]


def _said(layers: list[Layer], key: str) -> Any:
    """What the last layer says that says anything of it."""
    found = [values.get(key) for _, values in layers if isinstance(values, Mapping)]
    return next((value for value in reversed(found) if value is not None), None)


def _network(where: str, own: Mapping, model: ModelConfig, scale: Scale, origin: Origin | None) -> ModelConfig:
    """The row's network: that of its weights; else as the row says, scaled."""
    if origin is None or origin.network is None:
        chosen = own.get("depth")  # a depth that a row asks for is meant as it is
        depth = chosen if chosen is not None else scale.depth or model.depth
        return model.model_copy(update={"width": scaled(model.width, scale.width, f"{where}.width"), "depth": depth})
    unsaid = {"width": FULL_WIDTH, "conv": "r2plus1d"}  # what params.yaml says of a row that asks for nothing else
    for key in ("depth", "conv", "width", "family"):
        if own.get(key) not in (None, unsaid.get(key), origin.network[key]):
            raise ConfigError(
                f"{where}.{key} is {short(own[key])}: the weights of {origin.source} are of a network with {key} "
                f"{origin.network[key]}; leave it as it is there, or take other weights"
            )
    return ModelConfig.model_validate(dict(origin.network))
