#!/usr/bin/env python3
"""Studies trained models: corrupted parameters and sharpness, into benches/results/study_corrupt and study_sharpness.

    benches/study.py sgd=runs/sgd/last.safetensors sam=runs/sam/last.safetensors

Each result has a folder named as given, and beside them provenance.json says where they come from and how the models were
trained. A result that is there already stays; remove its folder to measure anew.
"""
import argparse
import json
import pathlib
import subprocess
import tomllib

import measured

KEYS = ("model", "data", "opt", "rho", "epochs", "batch", "lr", "seed")
EPS = ["--eps", "0.1,0.3,1,3,10,30,100", "--eps-inf", "0.001,0.003,0.01,0.03,0.1,0.3,1"]
STUDIES = {
    "corrupt": ["--images", "5000", "--test-images", "2000", "--n", "all,1000", "--seeds", "3", *EPS],
    "sharpness": ["--images", "2048"],
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", metavar="NAME=CHECKPOINT")
    parser.add_argument("--binary", type=pathlib.Path, help="samcore to run [a release build of this tree]")
    parser.add_argument("--data", help="data set [that of the run]")
    parser.add_argument("--study", choices=sorted(STUDIES), help="only this study")
    arguments = parser.parse_args()
    if arguments.binary is None:
        measured.build()
    binary = arguments.binary or measured.ROOT / "target/release/samcore"
    checkpoints = dict(pair.split("=", 1) for pair in arguments.checkpoints)
    for study, flags in STUDIES.items():
        if arguments.study not in (None, study):
            continue
        results = measured.ROOT / "benches/results" / f"study_{study}"
        results.mkdir(parents=True, exist_ok=True)
        what = {**measured.provenance("benches/study.py"), "flags": flags, "models": {}}
        for name, checkpoint in checkpoints.items():
            if not (results / name).exists():
                line = [binary, "study", study, checkpoint, "--out", results / name, *flags]
                subprocess.run(line + (["--data", arguments.data] if arguments.data else []), check=True)
            told = json.loads((results / name / f"{study}.json").read_text())["source"]
            what["models"][name] = {**settings(checkpoint), "step": told["step"], "device": told["device"]}
        (results / "provenance.json").write_text(json.dumps(what, indent=1) + "\n")


def settings(checkpoint):
    """How the model was trained, by the config.toml beside its checkpoint."""
    config = tomllib.loads((pathlib.Path(checkpoint).parent / "config.toml").read_text())
    return {key: config[key] for key in KEYS if (key, config["opt"]) != ("rho", "sgd")}


if __name__ == "__main__":
    main()
