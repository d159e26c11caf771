"""One peer's seconds for all clips of a video, run by the peers' own python: theirs.py JOB (see peers.measured).

JOB says how many clips it gets at once, 0 for all. Prints JSON.
"""

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

TIMES = 3  # of which the first warms up


def main(job: dict) -> dict:
    folder, size = Path(job["folder"]), job["clips_at_once"]
    clips = np.load(folder / "clips.npy")
    size = size or len(clips)
    run, version = OPENERS[job["peer"].split(" ", 1)[0]](job, folder / "model.onnx", (size, *clips.shape[1:]))
    seconds = []
    for _ in range(TIMES):
        began = time.perf_counter()
        scores = np.concatenate([run(clips[n : n + size]) for n in range(0, len(clips), size)])
        seconds.append(time.perf_counter() - began)
    return {
        "seconds": statistics.median(seconds[1:]),
        "memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "clips_at_once": size,
        "version": version,
        "scores": scores.mean(0).tolist(),
    }


def open_onnxruntime(job: dict, model: Path, _: tuple) -> tuple[Callable, str]:
    import onnxruntime  # noqa: PLC0415 (one peer a process)

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = job["threads"], 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda clips: session.run(None, {name: clips})[0], onnxruntime.__version__


def open_openvino(job: dict, model: Path, shape: tuple) -> tuple[Callable, str]:
    import openvino  # noqa: PLC0415

    read = openvino.Core().read_model(model)
    read.reshape(list(shape))
    options = {"INFERENCE_NUM_THREADS": job["threads"]}
    if job["peer"].endswith("float32"):
        options["INFERENCE_PRECISION_HINT"] = "f32"
    compiled = openvino.Core().compile_model(read, "CPU", options)
    precision = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    return lambda clips: compiled(clips)[0], f"{openvino.__version__.split('-')[0]} ({precision})"


OPENERS = {"ONNX": open_onnxruntime, "OpenVINO": open_openvino}

if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
