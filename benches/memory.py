#!/usr/bin/env python3
"""Measure the peak resident memory of one model's training steps in samcore and in PyTorch, and print the ratio.

    pip install torch numpy
    cargo build --release
    python benches/memory.py --out benches/results/memory_wrn_28_10.json

Each is a process of its own that makes two steps (momentum is there from the second one on); its peak is what the kernel
counted for it when it ended (`ru_maxrss`). PyTorch runs f32, channels_last, with oneDNN. The ratio is samcore's peak over
PyTorch's. Any other command that makes samcore's steps can be given by --ours.
"""
import argparse
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys
import tempfile

from measured import ROOT, provenance, spread


def run(command):
    """The peak in bytes of a command, and the JSON of its last line, if it ends with such a line."""
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(command, cwd=ROOT, stdout=out, text=True)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            sys.exit(f"{shlex.join(command)} ended with {process.returncode}")
        out.seek(0)
        lines = out.read().strip().splitlines()
    try:
        said = json.loads(lines[-1]) if lines else None
    except json.JSONDecodeError:
        said = None
    # Linux counts in KiB, macOS in bytes.
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"peak_rss_bytes": peak, "said": said}


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--rounds", type=int, default=3)
    ap.add_argument("--model", default="wrn-28-10", choices=["wrn-28-10", "wrn-16-4"])
    ap.add_argument("--opt", choices=["sam", "sgd"], default="sam")
    ap.add_argument("--batch", type=int, default=32)
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--ours", help="the command that makes samcore's steps; by default the release binary's bench")
    ap.add_argument("--out", type=pathlib.Path, help="write the raw results here as JSON")
    args = ap.parse_args()
    shared = ["--opt", args.opt, "--batch", str(args.batch), "--threads", str(args.threads)]
    ours = ["target/release/samcore", "bench", "--step", args.model, *shared, "--seconds", "1", "--json", "-"]
    if args.ours:
        ours = shlex.split(args.ours)
    torch = [sys.executable, "benches/peers/torch_cpu.py", "--model", args.model, *shared, "--seconds", "1"]
    rounds = []
    for number in range(args.rounds):
        pair = {"samcore": run(ours), "pytorch": run(torch)}
        peaks = [pair[which]["peak_rss_bytes"] for which in ("samcore", "pytorch")]
        pair["ratio"] = peaks[0] / peaks[1]
        rounds.append(pair)
        mib = [peak / 2**20 for peak in peaks]
        print(f"round {number + 1}: samcore {mib[0]:.0f}, PyTorch {mib[1]:.0f} MiB, ratio {pair['ratio']:.2f}")
    config = (rounds[0]["pytorch"]["said"] or {}).get("config", {})
    result = {
        "what": f"{args.model}, {args.opt}, batch {args.batch}, {args.threads} threads: samcore / PyTorch, peak resident memory",
        "ratio": spread([r["ratio"] for r in rounds]),
        "samcore_peak_rss_bytes": spread([r["samcore"]["peak_rss_bytes"] for r in rounds]),
        "pytorch_peak_rss_bytes": spread([r["pytorch"]["peak_rss_bytes"] for r in rounds]),
        "commands": {"samcore": shlex.join(ours), "pytorch": shlex.join(["python", *torch[1:]])},
        "versions": {"pytorch": config.get("torch"), "python": platform.python_version()},
        **provenance("benches/memory.py"),
        "rounds": rounds,
    }
    ratio = result["ratio"]
    print(f"{result['what']}: median {ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})")
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
