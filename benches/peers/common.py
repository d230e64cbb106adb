"""What the Python peers share: flags, the timing of steps, and the line of JSON that they print.

A work is a model, what is done with it, and a batch of random images that stays the same. `sgd` is a training step with
momentum 0.9 and weight decay 5e-4; `sam` takes the gradient at w + 0.05 g/|g| and moves batch-norm's running statistics
by its first pass only; `eval` is the forward pass with running statistics; `gradient` is forward and backward of one batch.
"""
import argparse
import json
import os
import statistics
import time

# Forward, one image, a multiply-add of convolutions and linear layers counted as two.
FORWARD_FLOPS = {"cnn": 37_383_680, "wrn-16-4": 785_224_704, "wrn-28-10": 10_486_657_536}
# Gradients cost twice the forward pass; SAM takes two of them.
PASSES = {"eval": 1, "gradient": 3, "sgd": 3, "sam": 6}
# Channels, height, width.
IMAGE = {"cnn": (1, 28, 28), "wrn-16-4": (3, 32, 32), "wrn-28-10": (3, 32, 32)}
RHO, LR, MOMENTUM, DECAY = 0.05, 0.1, 0.9, 5e-4
WARM_UP = 3


def flags(description, opts=("eval", "sgd", "sam")):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", choices=list(FORWARD_FLOPS), default="cnn")
    parser.add_argument("--opt", choices=opts, default="sam")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seconds", type=float, default=10, help="time the steps for this long, three at least")
    return parser


def wide_blocks(model):
    """Name, channels in and out, stride of each block of WRN-depth-width."""
    depth, width = (int(number) for number in model.split("-")[1:])
    inputs = 16
    for group in range(3):
        for block in range((depth - 4) // 6):
            outputs = 16 * width << group
            yield f"group{group}.block{block}", inputs, outputs, 2 if group > 0 and block == 0 else 1
            inputs = outputs


def peak_rss_bytes():
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    return None


def measure(step, args, peer, **config):
    """Times `step` and prints the result; `config` is what else the reader must know to repeat it."""
    begun = time.perf_counter()
    for _ in range(WARM_UP):
        step()
    warm_up, begun, times = time.perf_counter() - begun, time.perf_counter(), []
    while len(times) < 3 or time.perf_counter() - begun < args.seconds:
        before = time.perf_counter()
        step()
        times.append(time.perf_counter() - before)
    median = statistics.median(times)
    rates = {"median": args.batch / median, "min": args.batch / max(times), "max": args.batch / min(times)}
    flops = FORWARD_FLOPS[args.model] * PASSES[args.opt] * args.batch
    print(json.dumps({
        "images_per_s": {name: round(rate, 2) for name, rate in rates.items()},
        "ms_per_step": round(1000 * median, 2),
        "steps": len(times),
        "warmup_s": round(warm_up, 2),
        "forward_flops_per_image": FORWARD_FLOPS[args.model],
        "gflops": round(flops / median / 1e9, 1),
        "peak_rss_bytes": peak_rss_bytes(),
        "config": {"peer": peer, "model": args.model, "opt": args.opt, "batch": args.batch, "threads": args.threads,
                   "dtype": "f32"} | config,
    }))
