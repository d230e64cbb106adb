#!/usr/bin/env python3
"""Train with samcore, once for each seed, and keep what came out: accuracy by epoch, seconds, environment, commit.

    python benches/accuracy.py --out benches/results/sam_default.json -- --opt sam --rho 0.05
    python benches/accuracy.py --seeds 0,1,2 --out benches/results/sgd.json -- --opt sgd --epochs 16

Everything behind `--` goes to `samcore train` as it is.
"""
import argparse
import csv
import datetime
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent


def train(flags, seed, folder):
    command = ["target/release/samcore", "train", *flags, "--seed", str(seed), "--out", str(folder), "--json"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}")
    return collect(seed, json.loads(done.stdout.strip().splitlines()[-1]), folder)


def collect(seed, result, folder):
    """What a run came to, without where it lay."""
    result.pop("folder")
    with open(folder / "metrics.csv", newline="") as rows:
        epochs = [{k: float(v) if v else None for k, v in row.items()} for row in csv.DictReader(rows)]
    environment = json.loads((folder / "env.json").read_text())
    environment.pop("arguments")
    return {"seed": seed, "result": result, "epochs": epochs, "environment": environment}


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--seeds", default="0", help="comma-separated")
    ap.add_argument("--out", type=pathlib.Path, required=True)
    ap.add_argument("--curves", type=pathlib.Path, help="keep the first seed's curves.svg here")
    ap.add_argument("flags", nargs="*", help="flags of samcore train")
    args = ap.parse_args()
    subprocess.run(["cargo", "build", "--release", "-q"], cwd=ROOT, check=True)
    runs = []
    for seed in args.seeds.split(","):
        with tempfile.TemporaryDirectory() as folder:
            run = pathlib.Path(folder) / "run"
            runs.append(train(args.flags, int(seed), run))
            if args.curves and len(runs) == 1:
                args.curves.write_bytes((run / "curves.svg").read_bytes())
    accuracies = [r["result"]["test_accuracy"] for r in runs]
    result = {
        "command": " ".join(["samcore", "train", *args.flags]),
        "test_accuracy_at_the_end": {"mean": statistics.mean(accuracies), "min": min(accuracies), "max": max(accuracies)},
        "seconds": {"mean": statistics.mean([r["result"]["seconds"] for r in runs])},
        "cores": os.cpu_count(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": runs[0]["environment"]["commit"],
        "script": "benches/accuracy.py",
        "runs": runs,
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{result['command']}: {100 * statistics.mean(accuracies):.2f} % over seeds {args.seeds}")


if __name__ == "__main__":
    main()
