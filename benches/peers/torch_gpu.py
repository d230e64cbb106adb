#!/usr/bin/env python3
"""PyTorch on a GPU: training steps of the same models, on one batch of random images, as fast as PyTorch can be made.

    python benches/peers/torch_gpu.py --model wrn-28-10 --opt sam --dtype bf16w --compile --graph
    python benches/peers/torch_gpu.py --sweep --models cnn,wrn-28-10 --out peer.jsonl
    python benches/peers/torch_gpu.py --ratios steps.jsonl peer.jsonl

Nothing in a step waits for the device, so that --graph captures it as one CUDA graph, of several steps with --steps-a-graph.
SAM's perturbed weights are those of a second network, which has no running statistics: nothing is moved back. Dtypes: f32,
tf32, bf16 (autocast), bf16w (weights of convolutions and linear layers in bf16, masters in f32, no casts at run time).
The sweep runs each configuration in a process of its own, the likely best first; --ratios compares samcore's `bench --step
... --json` with it. `--device cpu` tries the code where there is no GPU.
"""
import argparse
import copy
import itertools
import json
import pathlib
import statistics
import subprocess
import sys
import time

import common

DTYPES = ["f32", "tf32", "bf16", "bf16w"]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=list(common.FORWARD_FLOPS), default="wrn-28-10")
    parser.add_argument("--opt", choices=["sgd", "sam"], default="sam")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--nchw", action="store_true", help="channels first in memory")
    parser.add_argument("--compile", nargs="?", const="default", default="", metavar="MODE", help="default or max-autotune")
    parser.add_argument("--graph", action="store_true", help="replay the step as a CUDA graph")
    parser.add_argument("--steps-a-graph", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10, help="time the steps for this long, ten replays at least")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--models", default="cnn,wrn-28-10", help="of the sweep")
    parser.add_argument("--limit", type=float, default=1800, help="seconds for the whole sweep")
    parser.add_argument("--out", type=pathlib.Path, help="file that the sweep's results are added to, as JSON lines")
    parser.add_argument("--ratios", nargs=2, type=pathlib.Path, metavar=("SAMCORE", "PEER"))
    return parser.parse_args()


def configurations(model):
    """Flags, the likely best first, then what most people run, then what each switch is worth."""
    graph = ["--graph"] + (["--steps-a-graph", "8"] if model == "cnn" else [])
    fast = ["--compile", *graph]
    yield ["--dtype", "bf16w", *fast]
    yield ["--dtype", "bf16", *fast]
    yield ["--dtype", "bf16"]
    yield ["--dtype", "bf16w", *graph]
    yield ["--dtype", "bf16", "--nchw"]
    yield ["--dtype", "bf16", "--compile"]
    yield ["--dtype", "bf16w", "--compile", "max-autotune", *graph]
    for dtype, flags in itertools.product(["tf32", "f32"], [fast, graph]):
        yield ["--dtype", dtype, *flags]
    yield ["--dtype", "bf16w", "--opt", "sgd", *fast]
    yield ["--dtype", "tf32", "--opt", "sgd", *fast]


def sweep(args):
    end = time.monotonic() + args.limit
    models = args.models.split(",")
    # One of each model in turns, so that a limit leaves no model without its best.
    rows = itertools.zip_longest(*([(model, flags) for flags in configurations(model)] for model in models))
    for model, flags in filter(None, itertools.chain(*rows)):
        left = end - time.monotonic()
        if left < 30:
            print(f"the limit of {args.limit:.0f} s is reached", file=sys.stderr)
            break
        if args.device == "cpu":
            flags = [flag for flag in flags if flag != "--graph"]
        common_flags = ["--model", model, "--batch", str(args.batch), "--seconds", str(args.seconds), "--device", args.device]
        command = [sys.executable, __file__, *common_flags, *flags]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=left)
            line = (done.stdout.strip().splitlines() or [""])[-1]
            error = done.stderr[-500:] if done.returncode else None
        except subprocess.TimeoutExpired:
            line, error = "", "took longer than the limit"
        result = json.loads(line) if error is None else {"error": error, "config": {"model": model, "flags": flags}}
        print(json.dumps(result), flush=True)
        if args.out:
            with args.out.open("a") as out:
                out.write(json.dumps(result) + "\n")


def ratios(ours, peers):
    """Samcore's images/s over those of the peer's best configuration, whatever its dtype, and the ratio of memory."""
    def read(path):
        return [result for result in map(json.loads, path.read_text().splitlines()) if "images_per_s" in result]

    best = {}
    for result in read(peers):
        key = tuple(result["config"][name] for name in ("model", "opt", "batch"))
        best[key] = max(best.get(key, result), result, key=lambda r: r["images_per_s"]["median"])
    for result in read(ours):
        config = result["config"]
        peer = best.get((config["model"], config["opt"], config["batch"]))
        if peer is None:
            continue
        rate, rival = result["images_per_s"]["median"], peer["images_per_s"]["median"]
        words = " ".join(f"{name}={peer['config'][name]}" for name in ("dtype", "compile", "graph", "steps_a_graph"))
        memory = (result["arena_bytes"] + result["vector_bytes"]) / peer["peak_device_bytes"] if peer["peak_device_bytes"] else 0
        print(f"{config['model']} {config['opt']} {config['batch']} {config['dtype']}: {rate:.0f} images/s, "
              f"{rate / rival:.2f} of PyTorch's {rival:.0f} ({words}); device memory {memory:.2f} of its peak")


def main(args):
    import torch
    import torch_models
    from torch import nn
    from torch.nn import functional as F

    torch.manual_seed(0)
    cuda = args.device.startswith("cuda")
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.benchmark_limit = 0  # every plan that cuDNN has is tried, not ten
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = args.dtype != "f32"
    mode = {"": None, "max-autotune": "max-autotune-no-cudagraphs"}.get(args.compile, args.compile)
    fast = (lambda f: torch.compile(f, mode=mode, dynamic=False)) if mode else (lambda f: f)
    sam, low = args.opt == "sam", args.dtype == "bf16w"

    def place(net):
        if low:
            for layer in net.modules():
                if isinstance(layer, (nn.Conv2d, nn.Linear)):
                    layer.to(torch.bfloat16)
        return net.to(args.device, memory_format=torch.contiguous_format if args.nchw else torch.channels_last).train()

    net = torch_models.build(args.model)
    twin = copy.deepcopy(net) if sam else net
    if sam:
        for layer in twin.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.track_running_stats, layer.running_mean, layer.running_var = False, None, None
                layer.num_batches_tracked = None
    net, twin = place(net), place(twin)
    params, twins = list(net.parameters()), list(twin.parameters())
    # In bf16w each weight has a master in f32; else they are their own.
    masters = [p.detach().float() for p in params] if low else [p.detach() for p in params]
    velocity = [torch.zeros_like(m) for m in masters]
    at, at_twin = [p.detach() for p in params], [p.detach() for p in twins]

    stored = torch.bfloat16 if args.dtype.startswith("bf16") else torch.float32
    x = torch.randn(args.batch, *common.IMAGE[args.model], device=args.device)
    x = x.to(stored, memory_format=torch.contiguous_format if args.nchw else torch.channels_last)
    y = torch.randint(0, 10, (args.batch,), device=args.device)

    def loss_of(net):
        def loss(x, y):
            with torch.autocast("cuda" if cuda else "cpu", torch.bfloat16, enabled=args.dtype == "bf16", cache_enabled=False):
                return F.cross_entropy(net(x).float(), y)
        return fast(loss)

    def wide(gradients):
        return [g.float() for g in gradients] if low else list(gradients)

    @fast
    @torch.no_grad()
    def perturb(gradients):
        gradients = wide(gradients)
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        climb = torch._foreach_mul(gradients, common.RHO / (norm + 1e-12))
        torch._foreach_copy_(at_twin, torch._foreach_add(masters, climb))

    @fast
    @torch.no_grad()
    def update(gradients):
        gradients = torch._foreach_add(wide(gradients), masters, alpha=common.DECAY)
        torch._foreach_mul_(velocity, common.MOMENTUM)
        torch._foreach_add_(velocity, gradients)
        torch._foreach_add_(masters, velocity, alpha=-common.LR)
        if low:
            torch._foreach_copy_(at, masters)

    first, second = loss_of(net), loss_of(twin) if sam else None

    def step():
        gradients = torch.autograd.grad(first(x, y), params)
        if sam:
            perturb(gradients)
            gradients = torch.autograd.grad(second(x, y), twins)
        update(gradients)

    wait = torch.cuda.synchronize if cuda else (lambda: None)
    begun = time.perf_counter()
    steps, replay = 1, step
    if args.graph:
        # Capture needs a stream of its own that the step has run on.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(common.WARM_UP):
                step()
        torch.cuda.current_stream().wait_stream(stream)
        graph, steps = torch.cuda.CUDAGraph(), args.steps_a_graph
        with torch.cuda.graph(graph):
            for _ in range(steps):
                step()
        replay = graph.replay
    for _ in range(common.WARM_UP):
        replay()
    wait()
    warm_up, begun, times = time.perf_counter() - begun, time.perf_counter(), []
    # Ten replays between two waits: the host is ahead, as it is in training.
    while not times or time.perf_counter() - begun < args.seconds:
        before = time.perf_counter()
        for _ in range(10):
            replay()
        wait()
        times.append((time.perf_counter() - before) / (10 * steps))
    median = statistics.median(times)
    rates = {"median": args.batch / median, "min": args.batch / max(times), "max": args.batch / min(times)}
    flops = common.FORWARD_FLOPS[args.model] * common.PASSES[args.opt] * args.batch
    print(json.dumps({
        "images_per_s": {name: round(rate, 2) for name, rate in rates.items()},
        "ms_per_step": round(1000 * median, 4),
        "steps": 10 * steps * len(times),
        "warmup_s": round(warm_up, 2),
        "gflops": round(flops / median / 1e9, 1),
        "peak_device_bytes": torch.cuda.max_memory_allocated() if cuda else None,
        "config": {
            "peer": "pytorch", "version": torch.__version__, "model": args.model, "opt": args.opt, "batch": args.batch,
            "dtype": args.dtype, "channels_last": not args.nchw, "compile": args.compile, "graph": args.graph,
            "steps_a_graph": steps, "device": torch.cuda.get_device_name() if cuda else "cpu",
            "cudnn": torch.backends.cudnn.version(),
        },
    }))


if __name__ == "__main__":
    given = arguments()
    if given.ratios:
        ratios(*given.ratios)
    elif given.sweep:
        sweep(given)
    else:
        main(given)
