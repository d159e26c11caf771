"""`r2plus1d predict`, and the same from Python: probabilities of whole videos, and of windows along long ones."""

import dataclasses
import importlib.util
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import torch

import r2plus1d
from r2plus1d.clips.items import TestVideos
from r2plus1d.config import resolve
from r2plus1d.datasets import motion
from r2plus1d.datasets.annotations import Sample
from r2plus1d.datasets.encode import write_h264
from r2plus1d.model import checkpoint
from r2plus1d.model.families import View
from r2plus1d.model.lowered import for_inference
from r2plus1d.results import predicted
from r2plus1d.system.arithmetic import has_bfloat16
from r2plus1d.video import extraction, views
from r2plus1d.video.decoding import Measured, VideoError, decode
from r2plus1d.video.groups import Listed, Machines
from r2plus1d.video.reading import VideoReader
from r2plus1d.video.shards import FrameReader
from r2plus1d.zoo import evaluation, prediction
from r2plus1d.zoo.accuracy import average_views
from r2plus1d.zoo.videos import find_videos
from tests.support.commands import console, printed
from tests.support.networks import tiny_network

CPU = torch.device("cpu")
CLASSES = ["$1 & <b>", "naïve", "pull ups"]
VIEW = View(frames=4, frame_interval=2, resize=36, crop=32, clips=3, crops=1)
ODD = "vidéo [1] 'x' $HOME #1"  # a name


@pytest.fixture(scope="module")
def network():
    return tiny_network(CLASSES, VIEW)


@pytest.fixture(scope="module")
def weights(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    checkpoint.save(network, path)
    return path


@pytest.fixture
def videos(tmp_path):
    """A folder with a video of 40 frames, one of a single frame, and files that are none."""
    folder = tmp_path / ODD
    (folder / "below").mkdir(parents=True)
    write_h264(folder / "below" / "é 1.mp4", motion.render(0, 0, 1, 0, 64)[:40], motion.FPS)
    write_h264(folder / "one frame.mp4", motion.render(0, 0, 2, 0, 64)[:1], motion.FPS)
    (folder / "broken.mp4").write_bytes(b"no video")
    (folder / "notes.txt").write_text("not a video")
    (folder / "below" / "._é 1.mp4").write_bytes(b"macOS writes such files")
    return folder


def test_whole_video_is_seen_as_in_the_test(params, network, videos):
    """By the row's number of clips and crops, of the frames that the stage would read."""
    row = resolve.resolve(params).rows[0]
    clip = row.clip.model_copy(update={"frames": 4, "frame_interval": 3})
    test = row.test.model_copy(update={"clips": 5, "crops": 3, "resize": 32, "crop": 32})
    row = row.model_copy(update={"clip": clip, "test": test})
    video = videos / "below" / "é 1.mp4"
    item = TestVideos(row, [Sample(video.name, 40, 0)], VideoReader(video.parent))[0]
    scores = evaluation.logits(for_inference(network, CPU), item.crops(row), item.places(row), CPU)
    view = View(frames=4, frame_interval=3, resize=32, crop=32, clips=5, crops=3)
    (window,) = prediction.Looker(network, CPU, view).windows(video)
    np.testing.assert_array_equal(window.probabilities, average_views(scores.numpy(), "prob").astype(np.float32))
    assert (window.start, window.end) == (0, 1.6)


def test_three_crops_are_of_the_whole_short_side_and_what_nobody_asks_for_stays():
    assert prediction.with_views(VIEW, None, 3) == dataclasses.replace(VIEW, crops=3, resize=VIEW.crop)
    assert prediction.with_views(VIEW, 2, 1) == dataclasses.replace(VIEW, clips=2)
    three = dataclasses.replace(VIEW, crops=3, resize=32)
    assert prediction.with_views(three, 7, None) == dataclasses.replace(three, clips=7)


def test_loaded_network_says_what_is_in_a_video(weights, videos):
    found = r2plus1d.load(weights).predict(videos / "below" / "é 1.mp4", top=2)
    assert len(found) == 2
    assert {name for name, _ in found} <= set(CLASSES)
    assert 1 >= found[0][1] >= found[1][1] > 0
    everything = r2plus1d.load(weights).predict(str(videos / "one frame.mp4"))
    assert sorted(name for name, _ in everything) == sorted(CLASSES)
    assert sum(share for _, share in everything) == pytest.approx(1, abs=1e-6)
    with pytest.raises(VideoError, match="Invalid data"):
        r2plus1d.load(weights).predict(videos / "broken.mp4")


def test_network_in_half_precision_predicts_and_is_saved_without_what_it_keeps(weights, videos):
    network, video = r2plus1d.load(weights), videos / "below" / "é 1.mp4"
    before, size = dict(network.predict(video)), len(pickle.dumps(r2plus1d.load(weights)))
    assert len(pickle.dumps(network)) == size
    for name, share in network.half().predict(video):
        assert share == pytest.approx(before[name], abs=0.01)


def test_folder_is_told_with_what_cannot_be_looked_into(tmp_path, capsys):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.mp4").touch()
    (tmp_path / "gone.mp4").symlink_to("nowhere")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    os.mkfifo(tmp_path / "pipe\n.mp4")
    assert find_videos([tmp_path]) == [tmp_path / "a" / "b.mp4"]
    said = capsys.readouterr().err
    assert f"{tmp_path / 'gone.mp4'}: no file, or a link to nowhere, passed over" in said
    assert f"{tmp_path / 'link'}: a link to a folder, passed over" in said
    assert "pipe" in said


def test_name_with_control_characters_is_printed_on_one_line():
    assert predicted.printed_path(Path("\x1b[31mred\n.mp4")) == "\\x1b[31mred\\n.mp4"


def test_windows_cover_the_video_and_the_last_one_ends_with_it():
    assert prediction.window_frames(40, 10, None, None) == [(0, 40)]
    assert prediction.window_frames(40, 10, 1, None) == [(0, 10), (10, 20), (20, 30), (30, 40)]
    assert prediction.window_frames(45, 10, 1, 2) == [(0, 10), (20, 30), (35, 45)]
    assert prediction.window_frames(40, 10, 3, 0.5) == [(0, 30), (5, 35), (10, 40)]
    assert prediction.window_frames(40, 10, 9, 1) == [(0, 40)]
    assert prediction.window_frames(1, 30, 0.001, 5) == [(0, 1)]
    assert prediction.window_frames(5, 1, 1, 0.3) == [(n, n + 1) for n in range(5)]
    for seconds, stride in ((0, 1), (1, 0), (float("nan"), 1), (1, float("inf"))):
        with pytest.raises(prediction.PredictionError, match="more than 0"):
            prediction.window_frames(40, 10, seconds, stride)
    with pytest.raises(prediction.PredictionError, match="choose a longer stride"):
        prediction.window_frames(10**6, 30, 1, 1e-9)


@pytest.mark.parametrize("view", [VIEW, View(4, 1, (36, 40), 32, 2, 1, frame_rate=10.0, spread="ends")])
def test_window_says_what_its_frames_would_say_alone(network, videos, view):
    video = videos / "below" / "é 1.mp4"
    looker = prediction.Looker(network, CPU, view)
    images = list(decode(video))
    windows = list(looker.windows(video, 0.6, 0.32))  # 15 frames, one window every 8
    assert [(w.start, w.end) for w in windows] == [(0, 0.6), (0.32, 0.92), (0.64, 1.24), (0.96, 1.56), (1.0, 1.6)]
    for window in windows:
        first = round(window.start * motion.FPS)
        indices = first + looker._indices(15, motion.FPS)
        resized = [looker._resized(images[n]) for n in indices.ravel()]
        boxed = views.crops(torch.from_numpy(np.stack(resized)), 32, 1)
        places = torch.arange(indices.size).reshape(indices.shape)
        scores = evaluation.logits(for_inference(network, CPU), boxed, places, CPU).numpy()
        np.testing.assert_allclose(window.probabilities, average_views(scores, "prob"), rtol=0, atol=1e-6)


def test_video_that_tells_no_rate_is_taken_to_have_30_frames_a_second(network, videos, monkeypatch):
    steps = [1, Measured(1, 64, 64, 0.0, "")]
    monkeypatch.setattr(prediction.sandbox, "measuring", lambda _: iter(steps))
    (window,) = prediction.Looker(network, CPU).windows(videos / "one frame.mp4")
    assert window.end == round(1 / 30, 3)


def test_frames_of_past_windows_are_forgotten(network, videos):
    """However long the video is, no more frames are kept than a window has, and one that is new."""
    looker, alive, most = prediction.Looker(network, CPU, VIEW), set(), 0
    resized = looker._resized

    def counted(image):
        nonlocal most
        found = resized(image)
        alive.add(key := object())
        weakref.finalize(found, alive.discard, key)
        most = max(most, len(alive))
        return found

    looker._resized = counted
    of_a_window = len(np.unique(looker._indices(10, motion.FPS)))
    assert sum(1 for _ in looker.windows(videos / "below" / "é 1.mp4", 0.4)) == 4
    assert of_a_window <= most <= of_a_window + 1


def test_row_of_packed_frames_is_shown_the_frames_that_it_was_trained_on(network, tmp_path):
    """To the bit: made smaller, through JPEG, and only then to the size of its views."""
    video = tmp_path / "videos" / "large.mp4"
    video.parent.mkdir()
    rng = np.random.default_rng(0)
    fine = np.repeat(np.repeat(rng.integers(0, 255, (1, 3, 90, 120), dtype=np.uint8), 2, 2), 2, 3)
    write_h264(video, np.concatenate([np.roll(fine, n, 3) for n in range(12)]), motion.FPS)
    extraction.extract(
        video.parent, [Listed(video.name)], {video.name: 12}, 64, tmp_path / "w", tmp_path / "f", Machines(0)
    )
    packed = FrameReader(tmp_path / "f").read(video.name, np.arange(12), 12)
    looker = prediction.Looker(network, CPU, dataclasses.replace(VIEW, stored=64, clips=1))
    expected = views.crops(torch.from_numpy(views.resize_short_side(packed, 36)), 32, 1).numpy()
    np.testing.assert_array_equal(looker.views(video)[0], expected[looker._indices(12, motion.FPS)[0]])
    plain = prediction.Looker(network, CPU, dataclasses.replace(VIEW, clips=1)).views(video)[0]
    assert np.abs(plain.astype(int) - looker.views(video)[0]).mean() > 5


def test_views_are_averaged_as_in_the_row_s_test(network, videos):
    video, view = videos / "below" / "é 1.mp4", dataclasses.replace(VIEW, average="score")
    looker = prediction.Looker(network, CPU, view)
    clips = torch.from_numpy(looker.views(video))
    with torch.inference_mode():
        logits = network(views.to_input(clips, CPU, network.family.mean, network.family.std))
    (window,) = looker.windows(video)
    np.testing.assert_allclose(window.probabilities, logits.mean(0).softmax(0), rtol=0, atol=1e-5)


def test_prediction_follows_a_change_of_the_weights(weights, videos):
    network, video = r2plus1d.load(weights), videos / "below" / "é 1.mp4"
    before = network.predict(video)
    assert network.predict(video) == before
    with torch.no_grad():
        network.cls_head.fc_cls.bias[0] += 50
    assert network.predict(video, top=1) == [(CLASSES[0], pytest.approx(1))]
    network.view = dataclasses.replace(network.view, clips=1)
    network.load_state_dict(r2plus1d.load(weights).state_dict())
    assert network.predict(video) != before


def test_network_loaded_in_inference_mode_predicts_the_same(weights, videos):
    video = videos / "below" / "é 1.mp4"
    with torch.inference_mode():
        network = r2plus1d.load(weights)
        assert network.predict(video) == network.predict(video) == r2plus1d.load(weights).predict(video)


def command(*words) -> list[str]:
    return [sys.executable, "-m", "r2plus1d", "predict", *map(str, words)]


def predict(*words, name="predict", **options) -> subprocess.CompletedProcess:
    return console(name, *words, **options)


ASKED = ("--window", 0.8, "--stride", 0.4, "--clips", 2, "--crops", 3)


@pytest.fixture
def asked(network):
    """What looks at a video as ASKED says."""
    return prediction.Looker(network, CPU, dataclasses.replace(VIEW, clips=2, crops=3, resize=VIEW.crop))


def test_command_predicts_by_the_windows_and_the_views_that_it_is_given(weights, asked, videos, tmp_path):
    video = videos / "below" / "é 1.mp4"
    done = predict(video, "--weights", weights, *ASKED, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "predictions" / "predictions.csv")
    found = table.pivot_table("probability", "start", "class")[CLASSES]
    assert found.index.tolist() == [0, 0.4, 0.8]
    expected = [window.probabilities for window in asked.windows(video, 0.8, 0.4)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_command_takes_features_by_the_windows_and_the_views_that_it_is_given(weights, asked, videos, tmp_path):
    video, out = videos / "below" / "é 1.mp4", tmp_path / "features"
    done = predict(video, "--weights", weights, *ASKED, cwd=tmp_path, name="features")
    assert done.returncode == 0, done.stderr
    starts, _, expected = zip(*asked.features(video, 0.8, 0.4), strict=True)
    assert pd.read_csv(out / "features.csv")["start"].tolist() == [*starts] == [0, 0.4, 0.8]
    np.testing.assert_allclose(np.load(out / "features.npy"), expected, rtol=1e-4, atol=1e-4)


def test_command_writes_a_table_and_pictures_and_names_a_broken_video(weights, videos, tmp_path):
    out = tmp_path / "out"
    done = predict(videos, "--weights", weights, "--top", 2, "--out", out, cwd=tmp_path)
    assert done.returncode == 1
    assert f"{videos / 'broken.mp4'}: Invalid data" in done.stderr
    assert "error: 1 of 3 videos could not be read: see above" in done.stderr
    table = pd.read_csv(out / "predictions.csv")
    assert list(table.columns) == ["path", "start", "end", "rank", "class", "probability"]
    assert table["path"].tolist() == [str(videos / "below" / "é 1.mp4")] * 2 + [str(videos / "one frame.mp4")] * 2
    assert table["rank"].tolist() == [1, 2, 1, 2]
    assert table["end"].tolist() == [1.6, 1.6, 0.04, 0.04]
    assert set(table["class"]) <= set(CLASSES)
    for name in ("é 1.png", "one frame.png"):
        assert matplotlib.image.imread(out / name).shape[1] == 990
    first, second = done.stdout.splitlines()[:2]
    assert first.startswith(
        f"{videos / 'below' / 'é 1.mp4'}: {table['class'][0]} {100 * table['probability'][0]:.1f}%, "
    )
    assert second.startswith(f"{videos / 'one frame.mp4'}: ")
    again = predict(videos, "--weights", weights, "--top", 2, "--out", tmp_path / "again", cwd=tmp_path)
    assert again.returncode == 1
    assert {f.name: f.read_bytes() for f in out.iterdir()} == {
        f.name: f.read_bytes() for f in (tmp_path / "again").iterdir()
    }


def test_videos_in_folders_named_like_classes_are_counted_right_or_wrong(weights, videos, tmp_path):
    """Those of other folders do not count, nor do broken ones; upper case makes no other class."""
    own = {"Naïve": ["a.mp4", "b.mp4"], "pull ups": ["c.mp4"], "elsewhere": ["d.mp4"]}
    for number, (folder, names) in enumerate(own.items()):
        for name in names:
            (tmp_path / "mine" / folder).mkdir(parents=True, exist_ok=True)
            write_h264(tmp_path / "mine" / folder / name, motion.render(number, 0, 1, 0, 64)[:20], motion.FPS)
    shutil.copy(videos / "broken.mp4", tmp_path / "mine" / "pull ups" / "z.mp4")
    done = predict("mine", "--weights", weights, "--labelled", "--no-pictures", "--window", 0.4, cwd=tmp_path)
    assert done.returncode == 1
    table = pd.read_csv(tmp_path / "predictions" / "predictions.csv", keep_default_na=False)
    assert table.groupby("path")["actual"].first().tolist() == ["naïve", "naïve", "", "pull ups"]
    means = table.groupby(["path", "actual", "class"])["probability"].mean().reset_index()
    best = means[means["actual"] != ""].sort_values("probability").groupby("path").last()
    right = (best["actual"] == best["class"]).sum()
    said = done.stdout.splitlines()[-1]
    assert said.startswith(f"top-1 {100 * right / 3:.2f} (")
    recall = (best["actual"] == best["class"]).groupby(best["actual"]).mean()
    assert f", mean class {100 * recall.mean():.2f} (" in said, "of the two classes, whatever else is answered"
    assert "on 3 videos of 2 classes, in brackets" in said
    assert said.endswith("each class: predictions/per_class.csv; of no class: the videos in elsewhere")
    classes = pd.read_csv(tmp_path / "predictions" / "per_class.csv").set_index("class")["videos"]
    assert (classes["naïve"], classes["pull ups"]) == (2, 1)
    predict("mine/pull ups/c.mp4", "--weights", weights, "--no-pictures", cwd=tmp_path)
    assert not (tmp_path / "predictions" / "per_class.csv").exists(), "of the call before"
    refused = predict("mine/elsewhere", "--weights", weights, "--labelled", cwd=tmp_path)
    assert refused.returncode == 1
    assert "--labelled: no video lies in a folder that is named like a class ($1 & <b>, naïve, pull" in refused.stderr


def test_table_comes_alone_where_no_pictures_are_wanted(weights, videos, tmp_path):
    done = predict(videos / "one frame.mp4", "--weights", weights, "--no-pictures", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "predictions/predictions.csv"
    assert [path.name for path in (tmp_path / "predictions").iterdir()] == ["predictions.csv"]


@pytest.mark.slow
def test_name_of_any_bytes_is_printed_and_written(weights, videos, tmp_path):
    odd = os.fsencode(tmp_path) + b"/caf\xe9.mp4"
    os.rename(videos / "one frame.mp4", odd)
    done = predict(os.fsdecode(odd), "--weights", weights, cwd=tmp_path, env=os.environ | {"LC_ALL": "C.UTF-8"})
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path}/caf\\xe9.mp4: " in done.stdout
    assert (tmp_path / "predictions" / "caf\\xe9.png").is_file()
    assert pd.read_csv(tmp_path / "predictions" / "predictions.csv")["path"][0] == f"{tmp_path}/caf\\xe9.mp4"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["empty"], "empty: no file in this folder ends like a video's (.3gp, "),
        (["gone.mp4"], "gone.mp4: no such file or folder"),
        (["https://example.com/a.mp4"], "an address; videos are not fetched: download it"),
        (["video.mp4", "--row", "gone"], "'gone' is no trained row"),
        (["video.mp4", "--weights", "gone.safetensors"], "gone.safetensors"),
        (["video.mp4", "--stride", "1"], "--stride goes with --window"),
        (["video.mp4", "--window", "0"], "'0': expected a number above 0"),
        (["video.mp4", "--top", "1.5"], "'1.5': expected a whole number above 0"),
        (["video.mp4", "--clips", "100000000"], "'100000000': expected a whole number above 0, at most 1000"),
    ],
)
def test_what_cannot_be_predicted_is_told_in_a_line(tmp_path, words, said):
    (tmp_path / "empty").mkdir()
    (tmp_path / "video.mp4").write_bytes(b"")
    done = predict(*words, cwd=tmp_path)
    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "predictions").exists()


def test_missing_video_is_told_without_torch():
    code = (
        "import sys; from r2plus1d import cli; sys.argv = ['r2plus1d', 'predict', 'gone.mp4']\n"
        "try: cli.main()\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules)"
    )
    assert printed(code) == "error: gone.mp4: no such file or folder False\n"


def test_folder_that_cannot_be_written_is_told_before_the_work(weights, videos, tmp_path):
    (tmp_path / "file").write_text("here")
    for name in ("predict", "features"):
        done = predict(videos, "--weights", weights, "--out", tmp_path / "file" / "x", cwd=tmp_path, name=name)
        assert done.stderr == f"error: --out {tmp_path}/file/x: {tmp_path}/file is no folder; give another one\n"
        assert done.stdout == ""
    export = ("custom", "--format", "onnx", "--out", tmp_path)
    assert (
        f"--out {tmp_path} is a folder; give the name of a file" in predict(*export, cwd=tmp_path, name="export").stderr
    )


def test_results_of_an_earlier_call_never_stay_for_those_of_this_one(weights, videos, tmp_path):
    for name, file in (("predict", "predictions.csv"), ("features", "features.npy")):
        (tmp_path / file).write_text("old")
        done = predict(videos / "broken.mp4", "--weights", weights, "--out", tmp_path, cwd=tmp_path, name=name)
        assert done.returncode == 1
        assert not (tmp_path / file).exists()


@pytest.mark.slow
def test_reader_that_goes_away_is_no_error(weights, videos, tmp_path):
    arguments, pipe = command(videos / "one frame.mp4", "--weights", weights), subprocess.PIPE
    with subprocess.Popen(arguments, stdout=pipe, stderr=pipe, text=True, cwd=tmp_path) as process:
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (128 + signal.SIGPIPE, "")


def test_folder_of_a_row_is_a_source(weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "given").mkdir()
    shutil.copy(weights, tmp_path / "given" / "model.safetensors")
    assert r2plus1d.load("given").classes == r2plus1d.load(str(tmp_path / "given")).classes == CLASSES


def test_what_is_done_before_ctrl_c_is_kept(weights, tmp_path):
    long = tmp_path / "long.mp4"
    write_h264(long, np.concatenate([motion.render(0, 0, 1, n, 64) for n in range(6)]), motion.FPS)
    arguments, pipe = command(long, "--weights", weights, "--window", 0.2, "--stride", 0.04), subprocess.PIPE
    with subprocess.Popen(arguments, stdout=pipe, stderr=pipe, text=True, cwd=tmp_path) as process:
        for _ in range(3):
            assert process.stdout.readline().startswith(f"{long} 0.")
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        _, said = process.communicate(timeout=60)
    assert time.monotonic() - started < 30
    assert process.returncode == 1
    assert said.strip().endswith(
        "interrupted (what was found is in predictions/predictions.csv); what is finished is kept"
    )
    table = pd.read_csv(tmp_path / "predictions" / "predictions.csv")
    assert len(table) >= 9
    assert not len(table) % 3


def test_windows_are_shown_as_lines_over_time(network, tmp_path):
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 255, (36, 48, 3), dtype=np.uint8)
    windows = [prediction.Window(n, n + 1, rng.dirichlet([1, 1, 1]).astype(np.float32), frame[None]) for n in range(5)]
    for count, name in ((5, "lines.png"), (1, "bars.png")):
        predicted.picture(windows[:count], [frame] * 3, CLASSES, 3, "a $title_", tmp_path / name)
        image = matplotlib.image.imread(tmp_path / name)
        assert image[..., :3].std() > 0.05
    assert not np.array_equal(*(matplotlib.image.imread(tmp_path / name)[200:] for name in ("lines.png", "bars.png")))


def test_pictures_of_videos_with_one_name_do_not_meet(tmp_path):
    videos = [tmp_path / place for place in ("a/x.mp4", "b/x.avi", "c/X.mp4", "d/y.mp4", f"e/{'é' * 120}.mp4")]
    names = predicted._names(videos)
    assert list(names.values()) == ["x", "x (2)", "X (3)", "y", "é" * 100]


def test_features_that_were_found_are_in_their_files_before_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(predicted, "SECONDS", 0)

    class Looker:
        def features(self, video, seconds, stride):
            for number in range(3):
                assert (tmp_path / "features.npy").exists() == (number > 0)
                yield number, number + 1, np.full(4, number, np.float32)

    predicted.features([tmp_path / "a.mp4"], Looker(), 1, None, tmp_path)
    assert np.load(tmp_path / "features.npy").tolist() == [[n] * 4 for n in range(3)]


def test_features_are_what_the_last_layer_takes(weights, network, videos, tmp_path):
    """The mean over the views of the backbone's output, averaged over frames and pixels."""
    done = predict(
        videos, "--weights", weights, "--window", 0.8, "--out", tmp_path / "f", cwd=tmp_path, name="features"
    )
    assert done.returncode == 1
    assert "1 of 3 videos could not be read" in done.stderr
    found, table = np.load(tmp_path / "f" / "features.npy"), pd.read_csv(tmp_path / "f" / "features.csv")
    assert (found.shape, found.dtype) == ((3, network.backbone.out_channels), np.float32)
    assert table[["start", "end"]].values.tolist() == [[0, 0.8], [0.8, 1.6], [0, 0.04]]
    assert table["path"].tolist() == [str(videos / "below" / "é 1.mp4")] * 2 + [str(videos / "one frame.mp4")]
    if importlib.util.find_spec("pyarrow"):
        together = pd.read_parquet(tmp_path / "f" / "features.parquet")
        assert np.array_equal(np.stack(together.pop("features")), found)
        assert together.values.tolist() == table.values.tolist()
    clips = torch.from_numpy(prediction.Looker(network, CPU).views(videos / "one frame.mp4"))
    with torch.inference_mode():
        x = network.backbone(views.to_input(clips, CPU, network.family.mean, network.family.std))
    np.testing.assert_allclose(found[2], x.mean((0, 2, 3, 4)), rtol=0, atol=1e-4 * float(x.abs().max()))


@pytest.mark.parametrize("kind", ["native", "half"])
def test_other_arithmetic_gives_nearly_the_same_probabilities(weights, videos, tmp_path, kind):
    """In kernels of the processor's own, in half precision where it has that, and else with a note."""
    found = {}
    for arithmetic in ("exact", kind):
        out = tmp_path / arithmetic
        file = videos / "below" / "é 1.mp4"
        done = predict(file, "--weights", weights, "--arithmetic", arithmetic, "--out", out, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        found[arithmetic] = pd.read_csv(out / "predictions.csv").sort_values("class", ignore_index=True)
    note = "this processor has no bfloat16, so `half` is computed as `native`"
    assert (note in done.stderr) == (kind == "half" and not has_bfloat16())
    assert found[kind]["class"].tolist() == found["exact"]["class"].tolist()
    difference = (found[kind]["probability"] - found["exact"]["probability"]).abs().max()
    assert difference < (1e-3 if kind == "native" else 2e-2)
