#!/usr/bin/env python3
"""Time whole training steps of samcore and PyTorch in turns on this machine, and print the ratios with their spread.

    pip install torch numpy
    python benches/compare.py --rounds 7 --out benches/results/step_cnn.json

Each round runs samcore and then PyTorch (f32, channels_last, malloc told to keep its memory: the fastest configuration
known for it here), each in a process of its own. The ratio of a round is samcore's images/s over PyTorch's.
"""
import argparse
import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "268435456",
}


def line(command, env=None):
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **(env or {})}, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def cpu_model():
    for entry in open("/proc/cpuinfo"):
        if entry.startswith("model name"):
            return entry.split(":", 1)[1].strip()
    return "unknown"


def spread(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--rounds", type=int, default=7)
    ap.add_argument("--opt", choices=["sam", "sgd"], default="sam")
    ap.add_argument("--batch", type=int, default=128)
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--steps", type=int, default=30)
    ap.add_argument("--out", type=pathlib.Path, help="write the raw results here as JSON")
    args = ap.parse_args()
    shared = ["--opt", args.opt, "--batch", str(args.batch), "--threads", str(args.threads), "--steps", str(args.steps)]
    subprocess.run(["cargo", "bench", "--no-run", "--bench", "step", "-q"], cwd=ROOT, check=True)
    ours = ["cargo", "bench", "-q", "--bench", "step", "--", *shared]
    torch = [sys.executable, "benches/peers/torch_cpu.py", "--model", "cnn", "--channels-last", *shared]
    rounds = []
    for number in range(args.rounds):
        pair = {"samcore": line(ours), "pytorch": line(torch, KEEP_MEMORY)}
        pair["ratio"] = pair["samcore"]["images_per_s"]["median"] / pair["pytorch"]["images_per_s"]["median"]
        rounds.append(pair)
        rates = [pair[name]["images_per_s"]["median"] for name in ("samcore", "pytorch")]
        print(f"round {number + 1}: samcore {rates[0]:.0f}, PyTorch {rates[1]:.0f} images/s, ratio {pair['ratio']:.2f}")
    result = {
        "what": f"cnn, {args.opt}, batch {args.batch}, {args.threads} threads: samcore / PyTorch, images/s",
        "ratio": spread([r["ratio"] for r in rounds]),
        "samcore_images_per_s": spread([r["samcore"]["images_per_s"]["median"] for r in rounds]),
        "pytorch_images_per_s": spread([r["pytorch"]["images_per_s"]["median"] for r in rounds]),
        "machine": {"cpu": cpu_model(), "cores": os.cpu_count(), "os": platform.platform()},
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout.strip(),
        "script": "benches/compare.py",
        "rounds": rounds,
    }
    ratio = result["ratio"]
    print(f"{result['what']}: median {ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})")
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
