#!/usr/bin/env python3
"""What PyTorch's libraries reach on this CPU: matrix products, 3x3 convolutions, copies. Prints a line of JSON for each.

    pip install torch numpy
    python benches/peers/torch_mm.py --threads 2
"""
import argparse
import json
import os
import statistics
import time

import torch

REPEATS, WARM_UP = 10, 2
COPIED = 64 << 20


def show(what, unit, amount, f):
    """`amount` is what one call of `f` does, in billionths of the unit."""
    times = []
    for i in range(WARM_UP + REPEATS):
        begun = time.perf_counter()
        f()
        if i >= WARM_UP:
            times.append(time.perf_counter() - begun)
    rates = {"median": statistics.median(times), "min": max(times), "max": min(times)}
    print(json.dumps({"what": what, "unit": unit} | {name: round(amount / t / 1e9, 1) for name, t in rates.items()}))


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--threads", type=int, default=os.cpu_count())
torch.set_num_threads(parser.parse_args().threads)
torch.set_grad_enabled(False)

for size in (1024, 2048):
    for dtype, name in ((torch.float32, "f32"), (torch.bfloat16, "bf16")):
        a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
        c = torch.empty_like(a)
        show(f"matrix product {size}, {name}", "GFLOP/s", 2 * size**3, lambda: torch.mm(a, b, out=c))

for channels, side in ((32, 28), (64, 14), (128, 16)):
    for layout, name in ((torch.channels_last, "channels last"), (torch.contiguous_format, "channels first")):
        conv = torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False).to(memory_format=layout)
        x = torch.randn(128, channels, side, side).contiguous(memory_format=layout)
        flops = 2 * 128 * side**2 * 9 * channels**2
        show(f"3x3 convolution, 128 x {side}x{side}x{channels}, {name}", "GFLOP/s", flops, lambda: conv(x))

source = torch.randn(COPIED)
target = torch.empty_like(source)
show("copy, 256 MiB, read + write", "GB/s", 8 * COPIED, lambda: target.copy_(source))
