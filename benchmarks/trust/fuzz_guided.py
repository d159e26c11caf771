"""The targets of fuzz.py that read bytes, driven by what code an input reaches (atheris, a libFuzzer).

    python benchmarks/trust/fuzz_guided.py TARGET CORPUS_FOLDER [-max_total_time=60 or other options of libFuzzer]

TARGET is such as `archives`. In an environment that has atheris too (it is no dependency: there are wheels for few
versions of Python), with this project's src and its packages on the PYTHONPATH. Inputs worth keeping go to
CORPUS_FOLDER, crashes to files; nothing goes to the results.
"""

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the project's root

with atheris.instrument_imports(include=["r2plus1d", "tarfile", "zipfile", "ruamel.yaml"]):
    from tests.support import fuzz_targets as targets

CHECKS = {
    "archives": (targets.check_archive, [*targets.KINDS, targets._plain_tar()]),
    "params": (targets.check_params, [b"a: [1, &b {c: 2}]\nd: *b\n"]),
    "lists": (lambda content: targets.check_list(content.decode("utf-8", "replace")), [b"a/b.mp4 90 0\nb 1 2\n"]),
    "label-maps": (lambda content: targets.check_label_map(content.decode("utf-8", "replace")), [b"0 a\n1 b c\n"]),
    "kinetics": (targets.check_kinetics, [b"label,youtube_id,time_start,time_end\na b,abc-_123456,1,11\n"]),
    "logs": (targets.check_log, [targets.LOG]),
    "weights": (targets.check_pth, [targets.LEGACY, targets.ZIPPED]),
    "safetensors": (targets.check_safetensors, [targets.SAFE]),
}

if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] not in CHECKS:
        sys.exit(f"{__doc__}\nTargets: {', '.join(CHECKS)}")
    name, corpus = sys.argv[1], Path(sys.argv[2])
    check, seeds = CHECKS[name]
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds):
        (corpus / f"seed{number}").write_bytes(seed)
    atheris.Setup([sys.argv[0], *sys.argv[3:], str(corpus)], check)
    atheris.Fuzz()
