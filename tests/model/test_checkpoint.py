"""Weights in files: ours, MMAction's, and those that somebody meant to do harm with."""

import functools
import json
import os
import pickle
import re
import subprocess
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from r2plus1d.model import checkpoint
from r2plus1d.system import paths
from r2plus1d.system.errors import printable
from tests.support.networks import same, trained_a_little

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


def test_exported_weights_are_read_back_alike_and_repeat(model, tmp_path):
    checkpoint.export_mmaction(model, tmp_path / "a.pth")
    assert same(checkpoint.load(tmp_path / "a.pth"), model)
    assert set(torch.load(tmp_path / "a.pth", weights_only=True)) == {"meta", "state_dict"}
    checkpoint.export_mmaction(model, tmp_path / "another name.pth")
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "another name.pth").read_bytes()


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_published_layouts_are_read(model, tmp_path, legacy, prefix):
    """The zoo's files are of 2020: torch's older container, MMCV's notes beside the weights."""
    state = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    meta = {"mmcv_version": "0.6.2", "epoch": 180, "iter": 676080, "config": "model = dict()", "CLASSES": ["a", "b"]}
    saved = {"meta": meta, "state_dict": state}
    torch.save(saved, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
    assert same(checkpoint.load(tmp_path / "a.pth"), model)


def test_checkpoint_that_runs_code_is_refused(model, tmp_path):
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
def test_damaged_or_missing_checkpoint_is_named(tmp_path, content):
    (tmp_path / "bad.pth").write_bytes(content)
    with pytest.raises(checkpoint.CheckpointError, match=r"bad\.pth"):
        checkpoint.load(tmp_path / "bad.pth")
    with pytest.raises(checkpoint.CheckpointError, match=r"gone\.pth: No such file .*; give the path of a"):
        checkpoint.load(tmp_path / "gone.pth")


def test_exported_network_is_told_from_weights(model, tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"\x08\x07\x12\x07pytorch")
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "a.ts")
    for name in ("a.onnx", "a.ts"):
        with pytest.raises(checkpoint.CheckpointError, match=rf"{name}: an exported network, .*docs/predict\.md"):
            checkpoint.load(tmp_path / name)


def test_way_out_is_another_for_a_row_s_weights_and_for_a_file(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint.save(model, tmp_path / "cut.safetensors")
    cut = (tmp_path / "cut.safetensors").read_bytes()
    for path, way in (
        (Path("cut.safetensors"), "fetch or save it once more"),
        (paths.weights("custom"), "run `dvc repro` to train the row"),
        (paths.weights("custom").absolute(), "run `dvc repro` to train the row"),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cut[: len(cut) // 2])
        with pytest.raises(checkpoint.CheckpointError, match=f"{re.escape(str(path))}: .*; {re.escape(way)}$"):
            checkpoint.load(path)


@pytest.mark.parametrize("legacy", [True, False])
def test_cut_checkpoint_is_refused_at_every_length(model, tmp_path, legacy):
    torch.save({"state_dict": model.state_dict()}, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
    whole = (tmp_path / "a.pth").read_bytes()
    for size in (*range(0, len(whole) - 10, len(whole) // 50), len(whole) - 10):
        (tmp_path / "cut.pth").write_bytes(whole[:size])
        with pytest.raises(checkpoint.CheckpointError, match=r"cut\.pth"):
            checkpoint.load(tmp_path / "cut.pth")


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": {}}, {"state_dict": {"a": 1}}, {"state_dict": [1]}, 5])
def test_only_weights_by_name_are_loaded(tmp_path, content):
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(checkpoint.CheckpointError, match="tensors by name under `state_dict`"):
        checkpoint.load(tmp_path / "odd.pth")


def test_weights_are_adopted_by_the_network_they_fit(model, tmp_path):
    checkpoint.export_mmaction(model, tmp_path / "a.pth")
    with pytest.raises(checkpoint.CheckpointError) as error:
        checkpoint.adopt(tmp_path / "a.pth", {**ARGUMENTS, "num_classes": 7})
    assert "cls_head.fc_cls.weight is 5x32, not 7x32" in str(error.value)
    with pytest.raises(
        checkpoint.CheckpointError, match=r"is nothing, not \S+; backbone\S+ is nothing, not \S+; .* and \d+ more"
    ):
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


def test_pickle_that_calls_a_function_is_refused(tmp_path):
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
        with pytest.raises(checkpoint.CheckpointError, match=f"{name}.pth: refused") as error:
            checkpoint.load(tmp_path / f"{name}.pth")
        assert "docs/your_data.md" in str(error.value)
        assert "weights_only" not in str(error.value)
    assert not hit.exists()
    for content in (b"a text, and no weights\n" * 40, b"PK\3\4 not whole", b"\x80\2 not whole"):
        (tmp_path / "text.pth").write_bytes(content)
        with pytest.raises(checkpoint.CheckpointError, match=r"text\.pth: damaged, or no") as error:
            checkpoint.load(tmp_path / "text.pth")
        assert str(error.value).isprintable()


def test_packed_checkpoint_that_unpacks_to_much_more_is_refused(tmp_path):
    torch.save({"state_dict": {"a": torch.zeros(1 << 20)}}, tmp_path / "a.pth")
    assert checkpoint.load(tmp_path / "a.pth")["a"].shape == (1 << 20,)
    repacked(tmp_path / "a.pth", tmp_path / "bomb.pth", zipfile.ZIP_DEFLATED)
    with pytest.raises(checkpoint.CheckpointError, match=r"bomb\.pth: refused, because its \d{4,5} bytes unpack to 4"):
        checkpoint.load(tmp_path / "bomb.pth")


@pytest.mark.parametrize("legacy", [True, False])
def test_storage_larger_than_its_bytes_is_refused(tmp_path, legacy):
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
def test_weights_of_another_precision_are_adopted_with_their_values(model, tmp_path, kind):
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
        (lambda t: t.double() * 1e300, "too large for float32"),
        (lambda t: t[:-1], "is 3, not 4"),
        (lambda t: t[None], "is 1x4, not 4"),
        (lambda t: t[:1].expand(1 << 40), "is 1099511627776, not 4"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_tensors_that_are_no_weights_are_refused(model, tmp_path, spoil, words):
    torch.save({**model.state_dict(), NORM: spoil(model.state_dict()[NORM])}, tmp_path / "a.pth")
    with pytest.raises(checkpoint.CheckpointError) as error:
        checkpoint.adopt(tmp_path / "a.pth", ARGUMENTS)
    assert words in str(error.value)
    assert NORM in str(error.value) or spoil.__code__.co_names == ("to_sparse",)


def test_negative_variances_are_refused(model, tmp_path):
    name = "backbone.conv1.bn.running_var"
    torch.save({**model.state_dict(), name: -model.state_dict()[name]}, tmp_path / "a.pth")
    with pytest.raises(checkpoint.CheckpointError, match=f"{name} holds negative variances"):
        checkpoint.adopt(tmp_path / "a.pth", ARGUMENTS)


def test_misfit_names_one_difference_of_each_kind(model, tmp_path):
    state = {**model.state_dict(), NORM: torch.ones(3)}
    renamed = {name.replace("layer4", "last"): tensor for name, tensor in state.items()}
    torch.save(renamed, tmp_path / "a.pth")
    with pytest.raises(checkpoint.CheckpointError) as error:
        checkpoint.adopt(tmp_path / "a.pth", ARGUMENTS)
    said = str(error.value)
    assert f"{NORM} is 3, not 4; backbone.layer4" in said
    assert re.search(r"backbone\.last\S+ is [0-9x]+, not nothing", said)


def test_no_control_characters_of_a_file_reach_the_terminal(tmp_path):
    (tmp_path / "a.pth").write_bytes(pickle.dumps({"state_dict": Odd()}, 2))
    with pytest.raises(checkpoint.CheckpointError) as error:
        checkpoint.load(tmp_path / "a.pth")
    assert printable(str(error.value)) == str(error.value)
    assert printable("a\x1b[31mb\u202ec\nd") == "a\\x1b[31mb\\u202ec\nd"


class Odd:
    def __reduce__(self):
        return (print, ("\x1b[31m",))


def test_views_into_a_larger_storage_are_adopted_alone(model, tmp_path):
    behind = torch.zeros(100, 4)
    behind[7] = model.state_dict()[NORM]
    torch.save({**model.state_dict(), NORM: behind[7]}, tmp_path / "a.pth")
    adopted = checkpoint.adopt(tmp_path / "a.pth", ARGUMENTS)
    assert same(adopted.state_dict(), model)
    assert adopted.state_dict()[NORM].untyped_storage().nbytes() == 16


def test_two_weights_of_one_name_are_refused(model, tmp_path):
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
def test_header_that_describes_no_sensible_network_is_refused(model, tmp_path, built_with, words):
    save_file(model.state_dict(), tmp_path / "a.safetensors", metadata={checkpoint.METADATA: built_with})
    with pytest.raises(checkpoint.CheckpointError) as error:
        checkpoint.restore(tmp_path / "a.safetensors")
    assert words in str(error.value)
    assert len(str(error.value)) < 1000


def test_restored_network_has_exactly_its_weights_all_finite(model, tmp_path):
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
def test_sizes_in_a_safetensors_header_are_checked(tmp_path, header):
    safetensors(tmp_path / "a.safetensors", json.dumps(header).encode())
    with pytest.raises(checkpoint.CheckpointError, match=r"a\.safetensors"):
        checkpoint.load(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("header", "length"),
    [(b"{}", 1 << 40), (b"{}", 1 << 63), (b"{}", 0), (b"[" * 1_000_000, None), (b'{"a":' * 1_000_000, None), (b"{", 9)],
)
def test_absurd_header_of_a_safetensors_is_refused(tmp_path, header, length):
    safetensors(tmp_path / "a.safetensors", header, length=length)
    with pytest.raises(checkpoint.CheckpointError, match=r"a\.safetensors"):
        checkpoint.load(tmp_path / "a.safetensors")


def test_weights_file_restores_the_network_and_repeats_to_the_byte(tmp_path):
    arguments = {"depth": 18, "num_classes": 5, "width": 4, "dropout": 0.1}
    model = trained_a_little(**arguments)
    checkpoint.save(model, tmp_path / "a.safetensors")
    checkpoint.save(model, tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    x = torch.randn(1, 3, 8, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(checkpoint.restore(tmp_path / "a.safetensors")(x), model(x), rtol=0, atol=0)


def test_damaged_or_missing_weights_file_is_named(tmp_path):
    (tmp_path / "bad.safetensors").write_bytes(b"\xff" * 100)
    for name in ("bad", "missing"):
        with pytest.raises(checkpoint.CheckpointError, match=name):
            checkpoint.load(tmp_path / f"{name}.safetensors")


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty; fetch or save it once more"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS, .* `git lfs pull`"),
        (b"\n<!DOCTYPE html><html>Not Found</html>", "a web page, not weights; fetch the file itself"),
    ],
)
def test_what_lies_in_place_of_weights_is_named(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(checkpoint.CheckpointError, match=rf"{name}: {words}"):
        checkpoint.recognise(tmp_path / name)
