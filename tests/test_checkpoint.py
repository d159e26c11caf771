"""Weights in files: ours, MMAction's, and those that somebody meant to do harm with."""

import functools
import hashlib
import http.server
import json
import os
import pickle
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from r2plus1d.model import checkpoint
from r2plus1d.model.network import build
from r2plus1d.zoo import training
from r2plus1d.zoo.rows import open_row
from tests.test_model import trained_a_little

ROW = "r2plus1d_r34_8x8x1_180e_kinetics400_rgb_256p"
ARGUMENTS = {"depth": 18, "num_classes": 5, "width": 4}


@pytest.fixture(scope="module")
def model():
    return trained_a_little(**ARGUMENTS)


class Harm:
    """A pickle of this runs a command when it is read without care."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def same(state, model) -> bool:
    own = model.state_dict()
    return set(state) == set(own) and all(torch.equal(state[name], own[name]) for name in own)


def test_exported_weights_are_not_read_back_alike(model, tmp_path):
    checkpoint.export_mmaction(model, tmp_path / "a.pth")
    assert same(checkpoint.load(tmp_path / "a.pth"), model)
    assert set(torch.load(tmp_path / "a.pth", weights_only=True)) == {"meta", "state_dict"}
    checkpoint.export_mmaction(model, tmp_path / "another name.pth")
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "another name.pth").read_bytes()


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_published_layouts_are_not_read(model, tmp_path, legacy, prefix):
    """The zoo's files are of 2020: torch's older container, MMCV's notes beside the weights."""
    state = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    meta = {"mmcv_version": "0.6.2", "epoch": 180, "iter": 676080, "config": "model = dict()", "CLASSES": ["a", "b"]}
    saved = {"meta": meta, "state_dict": state}
    torch.save(saved, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
    assert same(checkpoint.load(tmp_path / "a.pth"), model)


def test_checkpoint_that_runs_code_is_read(model, tmp_path):
    for name, content in (
        ("meta", {"meta": {"hook": Harm(tmp_path / "harm")}, "state_dict": model.state_dict()}),
        ("weights", {"state_dict": {**model.state_dict(), "x": Harm(tmp_path / "harm")}}),
        ("all", Harm(tmp_path / "harm")),
    ):
        for legacy in (True, False):
            torch.save(content, tmp_path / f"{name}.pth", _use_new_zipfile_serialization=not legacy)
            with pytest.raises(checkpoint.CheckpointError, match=f"{name}.pth: refused"):
                checkpoint.load(tmp_path / f"{name}.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Harm(tmp_path / "harm"), protocol=2))
    with pytest.raises(checkpoint.CheckpointError):
        checkpoint.load(tmp_path / "plain.pth")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("content", [b"", b"\x80", b"PK\x03\x04 no archive", b"\xff" * 1000, b"(lp0\n."])
def test_damaged_checkpoint_ends_in_a_traceback(tmp_path, content):
    (tmp_path / "bad.pth").write_bytes(content)
    with pytest.raises(checkpoint.CheckpointError, match=r"bad\.pth"):
        checkpoint.load(tmp_path / "bad.pth")
    with pytest.raises(checkpoint.CheckpointError, match=r"gone\.pth: No such file"):
        checkpoint.load(tmp_path / "gone.pth")


@pytest.mark.parametrize("legacy", [True, False])
def test_cut_checkpoint_is_loaded(model, tmp_path, legacy):
    torch.save({"state_dict": model.state_dict()}, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
    whole = (tmp_path / "a.pth").read_bytes()
    for size in (*range(0, len(whole) - 10, len(whole) // 50), len(whole) - 10):
        (tmp_path / "cut.pth").write_bytes(whole[:size])
        with pytest.raises(checkpoint.CheckpointError, match=r"cut\.pth"):
            checkpoint.load(tmp_path / "cut.pth")


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": {}}, {"state_dict": {"a": 1}}, {"state_dict": [1]}, 5])
def test_something_else_than_named_weights_is_loaded(tmp_path, content):
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(checkpoint.CheckpointError, match="tensors by name under `state_dict`"):
        checkpoint.load(tmp_path / "odd.pth")


def test_weights_of_another_network_are_adopted(model, tmp_path):
    checkpoint.export_mmaction(model, tmp_path / "a.pth")
    with pytest.raises(checkpoint.CheckpointError) as error:
        checkpoint.adopt(tmp_path / "a.pth", {**ARGUMENTS, "num_classes": 7})
    assert "cls_head.fc_cls.weight: 5x32, expected 7x32" in str(error.value)
    with pytest.raises(checkpoint.CheckpointError, match=r"expected nothing|nothing, expected|more"):
        checkpoint.adopt(tmp_path / "a.pth", {**ARGUMENTS, "depth": 34})
    assert same(checkpoint.adopt(tmp_path / "a.pth", ARGUMENTS).state_dict(), model)


def repacked(path, target, packed=zipfile.ZIP_STORED, **replaced) -> None:
    """The .pth with some of its records replaced, by the last part of their names."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w", packed) as archive:
        for name in source.namelist():
            archive.writestr(name, replaced.get(name.rsplit("/", 1)[-1].replace(".", "_"), source.read(name)))


class Call:
    """A pickle of this calls any function with any arguments."""

    def __init__(self, function, *arguments):
        self.whole = function, arguments

    def __reduce__(self):
        return self.whole


def test_pickle_reaches_functions_that_run_code(tmp_path):
    hit = tmp_path / "hit"
    gadgets = {
        "eval": Call(eval, f"open({str(hit)!r}, 'w')"),
        "exec": Call(exec, f"open({str(hit)!r}, 'w')"),
        "popen": Call(subprocess.Popen, ["touch", str(hit)]),
        "load": Call(torch.load, str(hit)),
        "partial": Call(functools.partial, os.mkdir, str(hit)),
        "getattr": Call(getattr, "", "format"),
        "open": Call(open, str(hit), "w"),
    }
    for name, gadget in gadgets.items():
        torch.save({"state_dict": {"a": gadget}}, tmp_path / f"{name}.pth")
        with pytest.raises(checkpoint.CheckpointError, match=f"{name}.pth: refused"):
            checkpoint.load(tmp_path / f"{name}.pth")
    assert not hit.exists()


def test_packed_checkpoint_unpacks_to_any_size(tmp_path):
    torch.save({"state_dict": {"a": torch.zeros(1 << 20)}}, tmp_path / "a.pth")
    assert checkpoint.load(tmp_path / "a.pth")["a"].shape == (1 << 20,)
    repacked(tmp_path / "a.pth", tmp_path / "bomb.pth", zipfile.ZIP_DEFLATED)
    with pytest.raises(checkpoint.CheckpointError, match=r"bomb\.pth: refused, because its \d{4,5} bytes unpack to 4"):
        checkpoint.load(tmp_path / "bomb.pth")


@pytest.mark.parametrize("legacy", [True, False])
def test_storage_larger_than_its_bytes_is_read(tmp_path, legacy):
    """What lies behind it in the memory would become weights."""
    torch.save({"a": torch.arange(10.0)}, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
    with zipfile.ZipFile(tmp_path / "a.pth") if not legacy else open(os.devnull) as archive:
        whole = (tmp_path / "a.pth").read_bytes() if legacy else archive.read("a/data.pkl")
    for size in (b"K\x64", b"J\x00\x00\x00\x7f", b"\x8a\x06\x00\x00\x00\x00\x00\x7f"):  # 100, 2 billion, 139 trillion
        if legacy:
            (tmp_path / "b.pth").write_bytes(whole.replace(b"K\n", size))
        else:
            repacked(tmp_path / "a.pth", tmp_path / "b.pth", data_pkl=whole.replace(b"K\n", size))
        with pytest.raises(checkpoint.CheckpointError, match=r"b\.pth"):
            checkpoint.load(tmp_path / "b.pth")


NORM = "backbone.conv1.bn.weight"


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float64"])
def test_weights_of_another_precision_are_refused_or_change_their_values(model, tmp_path, kind):
    state = {name: t.to(getattr(torch, kind)) if t.is_floating_point() else t for name, t in model.state_dict().items()}
    torch.save(state, tmp_path / "a.pth")
    save_file(state, tmp_path / "a.safetensors")
    for file in ("a.pth", "a.safetensors"):
        found = checkpoint.adopt(tmp_path / file, ARGUMENTS).state_dict()
        assert {t.dtype for t in found.values()} == {torch.float32, torch.int64}
        assert all(torch.equal(found[name], state[name].to(found[name].dtype)) for name in state)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda t: t.int(), "holds int32"),
        (lambda t: t.bool(), "holds bool"),
        (lambda t: t.to(torch.complex64), "holds complex64"),
        (lambda t: t.to_sparse(), "sparse_coo"),
        (lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), "holds qint8"),
        (lambda t: t.to("meta"), "on meta"),
        (lambda t: torch.full_like(t, torch.nan), "not finite"),
        (lambda t: t / 0, "not finite"),
        (lambda t: t[:-1], "3, expected 4"),
        (lambda t: t[None], "1x4, expected 4"),
        (lambda t: t[:1].expand(1 << 40), "1099511627776, expected 4"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_tensors_that_are_no_weights_are_adopted(model, tmp_path, spoil, words):
    torch.save({**model.state_dict(), NORM: spoil(model.state_dict()[NORM])}, tmp_path / "a.pth")
    with pytest.raises(checkpoint.CheckpointError) as error:
        checkpoint.adopt(tmp_path / "a.pth", ARGUMENTS)
    assert words in str(error.value)
    assert NORM in str(error.value) or spoil.__code__.co_names == ("to_sparse",)


def test_views_into_a_larger_storage_are_adopted_otherwise(model, tmp_path):
    behind = torch.zeros(100, 4)
    behind[7] = model.state_dict()[NORM]
    torch.save({**model.state_dict(), NORM: behind[7]}, tmp_path / "a.pth")
    adopted = checkpoint.adopt(tmp_path / "a.pth", ARGUMENTS)
    assert same(adopted.state_dict(), model)
    assert adopted.state_dict()[NORM].untyped_storage().nbytes() == 16


def test_one_of_two_weights_of_a_name_is_dropped(model, tmp_path):
    torch.save({**model.state_dict(), f"module.{NORM}": model.state_dict()[NORM] + 1}, tmp_path / "a.pth")
    with pytest.raises(checkpoint.CheckpointError, match=f"holds {NORM} twice"):
        checkpoint.load(tmp_path / "a.pth")


HUGE = json.dumps({**ARGUMENTS, "width": 1 << 20})


@pytest.mark.parametrize(
    ("built_with", "words"),
    [
        ("", "which cannot be"),
        ("[" * 100_000, "which cannot be"),
        ("[1]", "which cannot be"),
        ('{"depth": 18, "layers": 3}', "unexpected keyword argument 'layers'"),
        ('{"depth": [18]}', "which cannot be"),
        ('{"depth": 19}', "depth 19 is not one of"),
        ('{"conv": "r4d"}', "conv 'r4d' is not one of"),
        ('{"width": -4}', "which cannot be"),
        ('{"width": 4.5}', "which cannot be"),
        ('{"width": 1e400}', "which cannot be"),
        (f'{{"width": {10**30}}}', "which cannot be"),
        (HUGE, "does not fit the network (depth 18, num_classes 5, width 1048576)"),
        ('{"num_classes": 1000000000000}', "does not fit the network"),
    ],
)
def test_header_builds_a_network_of_any_size_or_ends_in_a_traceback(model, tmp_path, built_with, words):
    save_file(model.state_dict(), tmp_path / "a.safetensors", metadata={checkpoint.METADATA: built_with})
    with pytest.raises(checkpoint.CheckpointError) as error:
        checkpoint.restore(tmp_path / "a.safetensors")
    assert words in str(error.value)
    assert len(str(error.value)) < 1000


def test_restored_network_lacks_weights_or_has_others(model, tmp_path):
    state = model.state_dict()
    for change in ({NORM: None}, {NORM: state[NORM][:3]}, {"more": state[NORM] + 1}, {NORM: state[NORM] / 0}):
        spoilt = {name: t for name, t in {**state, **change}.items() if t is not None}
        metadata = {checkpoint.METADATA: json.dumps(ARGUMENTS)}
        save_file({name: t.contiguous() for name, t in spoilt.items()}, tmp_path / "a.safetensors", metadata=metadata)
        with pytest.raises(checkpoint.CheckpointError, match=next(iter(change))):
            checkpoint.restore(tmp_path / "a.safetensors")


def safetensors(path, header: bytes, content: bytes = bytes(16), length: int | None = None) -> None:
    path.write_bytes((len(header) if length is None else length).to_bytes(8, "little") + header + content)


def entry(dtype="F32", shape=(4,), offsets=(0, 16)) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    "header",
    [
        {"a": entry(offsets=(0, 8))},
        {"a": entry(offsets=(8, 0))},
        {"a": entry(offsets=(0, 1 << 40))},
        {"a": entry(offsets=(-16, 0))},
        {"a": entry(shape=(-4,))},
        {"a": entry(shape=(1 << 62, 1 << 62))},
        {"a": entry(), "b": entry()},
        {"a": entry("F32", (2,), (0, 8)), "b": entry("F32", (2,), (4, 12))},
        {"a": entry("F32", (2,), (0, 8))},
        {"a": entry("F33")},
        {"a": 5},
        {},
        [],
    ],
)
def test_sizes_in_a_safetensors_header_are_believed(tmp_path, header):
    safetensors(tmp_path / "a.safetensors", json.dumps(header).encode())
    with pytest.raises(checkpoint.CheckpointError, match=r"a\.safetensors"):
        checkpoint.load(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("header", "length"),
    [(b"{}", 1 << 40), (b"{}", 1 << 63), (b"{}", 0), (b"[" * 1_000_000, None), (b'{"a":' * 1_000_000, None), (b"{", 9)],
)
def test_header_of_a_safetensors_fills_the_memory_or_ends_in_a_crash(tmp_path, header, length):
    safetensors(tmp_path / "a.safetensors", header, length=length)
    with pytest.raises(checkpoint.CheckpointError, match=r"a\.safetensors"):
        checkpoint.load(tmp_path / "a.safetensors")


@pytest.fixture
def served(project, tmp_path, monkeypatch):
    """(project, address of a .pth in the published layout, its network): a row's own network, exported and served."""
    monkeypatch.chdir(project.folder)
    row = open_row(ROW)
    arguments = training.build_arguments(row.config, len(row.classes))
    torch.manual_seed(1)
    network = build(**arguments).eval()
    folder = tmp_path / "served"
    folder.mkdir()
    checkpoint.export_mmaction(network, folder / "new.pth")
    digest = hashlib.sha256((folder / "new.pth").read_bytes()).hexdigest()
    name = f"{ROW}_20200729-{digest[:8]}.pth"
    (folder / "new.pth").rename(folder / name)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield project, f"http://127.0.0.1:{server.server_port}/{name}", network
        server.shutdown()


def give(project, row: str, value) -> None:
    params = yaml.safe_load((project.folder / "params.yaml").read_text())
    params["zoo"][row]["checkpoint"] = value
    project.set(params)


@pytest.mark.slow
def test_weights_in_the_published_layout_do_not_go_through_dvc_repro(served, tmp_path):
    project, address, network = served
    give(project, ROW, address)
    dvc(project, "init", "--no-scm", "--quiet")
    said = dvc(project, "repro", f"test@{ROW}", f"benchmark@{ROW}", TORCH_HOME=str(tmp_path / "hub"))
    assert "Not trained: these are the weights of http://127.0.0.1" in said
    assert same(checkpoint.load(project.folder / "models" / ROW / "model.safetensors"), network)
    cached = list((tmp_path / "hub/hub/checkpoints").glob("*.pth"))
    assert [f"/{path.name}" for path in cached] == [address[address.rindex("/") :]]
    assert json.loads((project.folder / "metrics" / ROW / "test.json").read_text())["videos"] == 12
    again = content_of(project)
    give(project, ROW, str(cached[0]))
    project.must("resolve")
    project.must("train", ROW)
    project.must("test", ROW)
    assert {name: again[name] for name in ("test.json", "confusion.csv", "curve.csv")} == {
        name: content_of(project)[name] for name in ("test.json", "confusion.csv", "curve.csv")
    }


def dvc(project, *arguments: str, **environment: str) -> str:
    environment |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1"}
    environment |= {"PYTHONPATH": str(project.folder / "src")}
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(
        command, cwd=project.folder, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def content_of(project) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (project.folder / "metrics" / ROW).iterdir()}


@pytest.mark.parametrize(
    ("value", "words"),
    [("no/such/file.pth", "there is no such file"), ("weights.zip", "expected published, the path"), (7, "is 7")],
)
def test_checkpoint_that_cannot_be_is_found_out_after_the_first_stage(project, value, words):
    give(project, ROW, value)
    failed = project.run("resolve")
    assert failed.returncode == 1
    assert words in failed.stderr
    assert ROW in failed.stderr


def test_published_stands_for_another_file_than_the_row_s_own(project):
    give(project, ROW, "published")
    project.must("resolve")
    resolved = json.loads((project.folder / "configs" / f"{ROW}.json").read_text())
    assert resolved["checkpoint"].endswith("_20200729-aa94765e.pth")


def test_published_weights_are_tested_by_a_network_of_another_size(served, tmp_path):
    project, address, _ = served
    give(project, ROW, address)
    params = yaml.safe_load((project.folder / "params.yaml").read_text())
    params["datasets"]["motion"]["scale"]["width"] = 0.125
    project.set(params)
    project.must("resolve")
    failed = project.run("train", ROW, TORCH_HOME=str(tmp_path / "hub"), OFFLINE="but-this-machine")
    assert failed.returncode == 1
    assert "does not fit the network (depth 18, conv r2plus1d, width 8" in failed.stderr
    subprocess.run(["rm", "-rf", str(project.folder)], check=True)
