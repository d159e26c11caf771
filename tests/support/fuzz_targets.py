"""What reads files or text from outside, each fed with mutated ones: a result, or an error that names what is wrong.

Anything else that a target raises, or lets happen, is a finding. Used by the tests for seconds, and by
benchmarks/trust/fuzz.py for longer.
"""

import contextlib
import copy
import datetime
import json
import math
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg
import torch
import yaml
from hypothesis import strategies as st

from r2plus1d.config import files, resolve, schema
from r2plus1d.datasets import annotations, archives, kinetics, manifest
from r2plus1d.model import checkpoint
from r2plus1d.model.network import build
from r2plus1d.results import logs
from r2plus1d.system import errors
from r2plus1d.system.errors import UserError
from r2plus1d.video import loose, shards
from tests.support.archives import rar, tar, zipped
from tests.support.project import ROOT

FOLDER = tempfile.TemporaryDirectory(prefix="fuzz-")  # until the process ends
SCRATCH = Path(FOLDER.name)
NETWORK = {"depth": 10, "num_classes": 2, "width": 1}


@dataclass(frozen=True)
class Target:
    inputs: st.SearchStrategy
    check: Callable[..., object]


def mutated(*seeds: bytes, pieces: tuple[bytes, ...] = ()) -> st.SearchStrategy[bytes]:
    """Some of the seeds' bytes overwritten, cut out, doubled or filled in."""
    new = st.one_of(st.binary(max_size=8), st.sampled_from([*pieces, b"\xff" * 8, bytes(8), b"\x80", b"-", b"9" * 20]))
    change = st.tuples(st.floats(0, 1), st.integers(0, 40), st.sampled_from(["over", "out", "in", "twice"]), new)
    return st.builds(_change, st.sampled_from(seeds), st.lists(change, min_size=1, max_size=6))


def _change(content: bytes, changes: list[tuple[float, int, str, bytes]]) -> bytes:
    for place, length, how, new in changes:
        at = int(place * len(content))
        rest = {"over": content[at + len(new) :], "out": content[at + length :], "in": content[at:]}
        doubled = content[at : at + length] * 2 + content[at + length :]
        content = content[:at] + (new + rest[how] if how in ("over", "in") else rest.get(how, doubled))
    return content


def made(make: Callable[[Path], object], name: str = "seed") -> bytes:
    path = SCRATCH / name
    make(path)
    return path.read_bytes()


def written(content: bytes, name: str) -> Path:
    path = SCRATCH / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


# ---- Lists ----

ODD = st.sampled_from(
    [" ", ",", "\t", "\n", "\r", "\x85", "\u2028", "\x0b", "\x00", "\ufeff", "\u202e", "0", "9", "a", "é", "/"]
)
TEXT = st.one_of(
    st.text(max_size=60), st.lists(st.one_of(ODD, st.sampled_from(["a/b.mp4 ", "90 0\n", "1\n"]))).map("".join)
)


def check_list(text: str) -> None:
    with contextlib.suppress(annotations.ListError):
        samples = annotations.parse(text, "list")
        assert samples
        assert all(0 <= s.label < 10**9 and 0 <= s.num_frames < 10**9 and annotations.writable(s.path) for s in samples)


def check_label_map(text: str) -> None:
    with contextlib.suppress(annotations.ListError):
        names = annotations.parse_label_map(text, "map")
        assert len(set(names)) == len(names) > 0
        assert "".join(f"{name}\n" for name in names).splitlines() == names


PATH = (
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
    .map(lambda t: t + ".mp4")
    .filter(annotations.writable)
)
SAMPLES = st.lists(
    st.builds(annotations.Sample, PATH, st.integers(1, 10**9 - 1), st.integers(0, 10**9 - 1)), min_size=1, max_size=5
)


def check_round_trip(samples: list[annotations.Sample]) -> None:
    assert annotations.parse(annotations.format_frames(samples), "list") == samples
    assert [(s.path, s.label) for s in annotations.parse(annotations.format_videos(samples), "list")] == [
        (s.path, s.label) for s in samples
    ]


def check_kinetics(content: bytes) -> None:
    with contextlib.suppress(UserError):
        rows, _ = kinetics._rows(annotations.read_text(written(content, "k.csv")), "k.csv")
        assert all(label.isprintable() and youtube.isascii() for label, youtube, _, _ in rows)


# ---- Parameters ----

PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=9),
        st.dates(),
        st.binary(max_size=3),
        st.sampled_from(
            ["motion", "lists", "folder", "kinetics400", "auto", "published", "../x", "/", 0, 1, 8, 0.5, 10**40]
        ),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.one_of(st.text(max_size=3), st.integers()), inner, max_size=3)
    ),
    max_leaves=5,
)


def places(tree: dict, before: tuple = ()) -> list[tuple]:
    return [
        p
        for key, value in tree.items()
        for p in [(*before, key), *(places(value, (*before, key)) if isinstance(value, dict) else [])]
    ]


CHANGES = st.lists(
    st.tuples(st.sampled_from(places(PARAMS)), st.sampled_from(["set", "drop", "add"]), VALUES), min_size=1, max_size=3
)


def check_resolve(changes: list) -> None:
    params = copy.deepcopy(PARAMS)
    for place, how, value in changes:
        *parents, last = place
        section = params
        for key in parents:
            section = section.get(key) if isinstance(section, dict) else None
        if isinstance(section, dict):
            if how == "drop":
                section.pop(last, None)
            else:
                section[str(value)[:20] if how == "add" else last] = value
    with contextlib.suppress(resolve.ConfigError):
        resolved = resolve.resolve(params)
        rows = resolved.rows
        names = [resolved.data.dataset, *(row.row for row in rows)]
        assert not any("/" in name or name.startswith(".") for name in names)
        for row in rows:
            assert math.isfinite(row.learning_rate)
            assert schema.BenchmarkedRow.model_validate_json(files.dump(row)) == row
    with contextlib.suppress(resolve.ConfigError):
        files.machine(params)


YAML = (
    b"&a ",
    b"*a",
    b"!!python/name:os.system ",
    b"<<: ",
    b"? ",
    b"- ",
    b"{",
    b"[",
    b"]",
    b"}",
    b": ",
    b"|",
    b"\n",
    b"'",
    b'"',
)
YAML += (
    b"010",
    b"1:30",
    b"2020-13-45",
    b".nan",
    b"!!set ",
    b"!!binary ",
    b"!!omap ",
    b"\t",
    b"%TAG ! x",
    b"---",
    b"\xef\xbb\xbf",
    b"1e-05",
)


def check_params(content: bytes) -> None:
    with contextlib.suppress(resolve.ConfigError):
        params = files.read_params(written(content, "params.yaml"))
        plain = (dict, list, str, int, float, bool, datetime.date, bytes, set, tuple, type(None))
        assert all(isinstance(value, plain) for value in params.values())
        resolve.resolve(params)


def check_configuration(content: bytes) -> None:
    with contextlib.suppress(resolve.ConfigError):
        files.read_data(written(content, "data.json"))
    for kind, stage in schema.ROW_FILES.items():
        folder = written(content, f"row/{stage}.json").parents[1]
        with contextlib.suppress(resolve.ConfigError):
            files.read_row(folder, "row", kind)


# ---- Weights ----


def _weights() -> tuple[bytes, bytes, bytes]:
    torch.manual_seed(0)
    model = build(**NETWORK)
    state = {"state_dict": {"a": torch.arange(6.0).view(2, 3), "b": torch.arange(4)}}
    checkpoint.save(model, SCRATCH / "seed.safetensors")
    legacy = made(lambda path: torch.save(state, path, _use_new_zipfile_serialization=False))
    return legacy, made(lambda path: torch.save(state, path)), (SCRATCH / "seed.safetensors").read_bytes()


LEGACY, ZIPPED, SAFE = _weights()
HEADER = 8 + int.from_bytes(SAFE[:8], "little")
PICKLE = (
    b"K\x05",
    b"J\xff\xff\xff\x7f",
    b"R",
    b"c__builtin__\neval\n",
    b"cbuiltins\nbytearray\n",
    b"ctorch\nTensor\n",
    b"\x81",
    b"b",
    b"q\x01",
    b"h\x01",
    b"t",
    b"(",
    b"Q",
)


def _repickled(changes: bytes) -> bytes:
    """The zip with another pickle, whose checksums fit again."""
    with (
        zipfile.ZipFile(written(ZIPPED, "source.zip")) as source,
        zipfile.ZipFile(SCRATCH / "target.zip", "w") as target,
    ):
        for name in source.namelist():
            target.writestr(name, changes if name.endswith("data.pkl") else source.read(name))
    return (SCRATCH / "target.zip").read_bytes()


def _inner() -> bytes:
    with zipfile.ZipFile(written(ZIPPED, "source.zip")) as source:
        return source.read(next(name for name in source.namelist() if name.endswith("data.pkl")))


PTH = st.one_of(mutated(LEGACY, ZIPPED, pieces=PICKLE), mutated(_inner(), pieces=PICKLE).map(_repickled))
JSON = (b'"', b"{", b"}", b"[", b"]", b",", b":", b"1e999", b"-1", b"null", b"NaN", b'"a":')
TENSORS = st.one_of(
    mutated(SAFE[:HEADER], pieces=(*JSON, b"F64", b"F8_E8M0", b"BOOL", b"C64", b"U64")).map(
        lambda head: (len(head) - 8).to_bytes(8, "little") + head[8:] + SAFE[HEADER:]
    ),
    mutated(SAFE),
)


def check_pth(content: bytes) -> None:
    path = written(content, "a.pth")
    with contextlib.suppress(checkpoint.CheckpointError):
        state = checkpoint.load(path)
        assert all(isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in state.items())
    with contextlib.suppress(checkpoint.CheckpointError):
        checkpoint.adopt(path, NETWORK)


def check_safetensors(content: bytes) -> None:
    path = written(content, "a.safetensors")
    with contextlib.suppress(checkpoint.CheckpointError):
        model = checkpoint.restore(path)
        assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())
        assert sum(tensor.numel() for tensor in model.state_dict().values()) < 1_000_000


# ---- Archives ----

MEMBERS = [("a/1.mp4", bytes(range(256)) * 4), ("../2.mp4", b"up"), ("notes.txt", b"text" * 300)]
TAR_GZ = made(lambda path: tar(path, MEMBERS))
KINDS = [TAR_GZ, made(lambda path: zipped(path, MEMBERS)), made(lambda path: rar(path, MEMBERS))]


def _plain_tar() -> bytes:
    import gzip  # noqa: PLC0415

    return gzip.decompress(TAR_GZ)[:6000]


ARCHIVES = mutated(
    _plain_tar(),
    _plain_tar(),
    *KINDS,
    pieces=(b"../", b"\x80\xff", b"L", b"x", b"S", b"PK\3\4", b"0000", b"-1", b"size="),
)


def check_archive(content: bytes) -> None:
    path, out = written(content, "archive"), SCRATCH / "out"

    def place(name: str) -> Path:
        assert not Path(name).is_absolute()
        assert ".." not in Path(name).parts
        assert name.isprintable()
        return out / name.encode().hex()[-99:]

    with contextlib.suppress(archives.ArchiveError):
        archives.unpack(path, place)
    with contextlib.suppress(archives.ArchiveError):
        archives.read_texts(path)
    for file in out.glob("*"):
        assert not file.is_symlink()
        file.unlink()


# ---- Frames ----


def _packed() -> dict[str, bytes]:
    folder = SCRATCH / "packed"
    folder.mkdir(exist_ok=True)
    with shards.ShardWriter(folder, 0) as writer:
        for video in ("a.mp4", 'b, "c".mp4'):
            writer.begin(video)
            for grey in range(4):
                writer.add(np.full((16, 24, 3), 60 * grey, np.uint8))
            writer.end()
    shards.write_index(folder, writer.rows)
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


PACKED = _packed()
NUMBERS = [np.array(n, np.int64).tobytes() for n in (-1, 1 << 62, 1 << 40, 0)]
NUMBERS += [b"'<f8'", b"|O", b"fortran_order': True", b"(8,)"]
SPOILT = st.sampled_from(sorted(PACKED)).flatmap(
    lambda name: st.tuples(
        st.just(name), mutated(PACKED[name], pieces=(*NUMBERS, b",", b"\n", b'"', b"nan", b"1e5", b"-5"))
    )
)


def check_frames(spoilt: tuple[str, bytes]) -> None:
    folder = SCRATCH / "spoilt"
    folder.mkdir(exist_ok=True)
    for name, content in {**PACKED, spoilt[0]: spoilt[1]}.items():
        (folder / name).write_bytes(content)
    with contextlib.suppress(errors.FrameError):
        reader = shards.FrameReader(folder)
        for video in ("a.mp4", 'b, "c".mp4', "x"):
            with contextlib.suppress(errors.FrameError):
                images = reader.read(video, np.array([0, 3, 3]))
                assert images.dtype == np.uint8
                assert images.ndim == 4
                assert len(images) == 3


JPEG = simplejpeg.encode_jpeg(np.zeros((16, 24, 3), np.uint8))


def check_jpeg(content: bytes) -> None:
    folder = SCRATCH / "loose"
    folder.mkdir(exist_ok=True)
    (folder / "1.jpg").write_bytes(content)
    with contextlib.suppress(errors.FrameError):
        size = loose.frame_size(folder, "{}.jpg")
        assert loose.LooseFrameReader(SCRATCH, "{}.jpg").read("loose", np.array([0])).shape == (1, *size, 3)


MANIFEST = made(lambda path: manifest.write_table(path, [("a/1.mp4", "a", "val", 0, 5, "ab" * 32)] * 2, manifest.Entry))


def check_table(content: bytes) -> None:
    with contextlib.suppress(manifest.DataError):
        manifest.read_table(written(content, "manifest.csv"))


# ---- Logs ----

LOG = "".join(
    json.dumps(entry) + "\n"
    for entry in (
        {"config": "x", "seed": 0},
        {"mode": "train", "epoch": 1, "iter": 20, "loss": 5.0, "top1_acc": 0.1, "lr": 0.1, "memory": 5019, "time": 1.0},
        {"mode": "val", "epoch": 1, "iter": 20, "top1_acc": 0.2, "top5_acc": 0.5, "mean_class_accuracy": 0.2},
        {"mode": "train", "epoch": 2, "iter": 20, "loss": 4.0, "top1_acc": 0.3, "lr": 0.1, "grad_norm": 1},
    )
).encode()


def check_log(content: bytes) -> None:
    with contextlib.suppress(logs.LogError):
        log = logs.read_log(written(content, "a.log.json"))
        assert "epoch" in logs.comparison(log, log)


TARGETS = {
    "annotation lists": Target(TEXT, check_list),
    "label maps": Target(TEXT, check_label_map),
    "lists, written and read back": Target(SAMPLES, check_round_trip),
    "Kinetics annotations": Target(
        mutated(
            b"label,youtube_id,time_start,time_end,split\n" + b'"air drumming",abc-_123456,1,11,val\n' * 5,
            pieces=(b",", b'"', b"\n"),
        ),
        check_kinetics,
    ),
    "values of params.yaml": Target(CHANGES, check_resolve),
    "text of params.yaml": Target(
        mutated((ROOT / "params.yaml").read_bytes()[:5000], b"a: [1, &b {c: 2}]\n", pieces=YAML), check_params
    ),
    "configs/*.json": Target(
        mutated(
            *(files.dump(config).encode() for config in list(resolve.resolve(PARAMS).files().values())[:5]),
            pieces=JSON,
        ),
        check_configuration,
    ),
    "weights, .pth": Target(PTH, check_pth),
    "weights, .safetensors": Target(TENSORS, check_safetensors),
    "archives": Target(ARCHIVES, check_archive),
    "packed frames and their index": Target(SPOILT, check_frames),
    "loose JPEG frames": Target(mutated(JPEG, pieces=(b"\xff\xc0", b"\xff\xff", b"\xff\xd8", b"\xff\xda")), check_jpeg),
    "manifest": Target(mutated(MANIFEST, pieces=(b",", b'"', b"\n", b"1e5", b"nan")), check_table),
    "training logs": Target(mutated(LOG, pieces=JSON), check_log),
}
