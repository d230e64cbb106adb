#!/usr/bin/env python3
"""JAX on the CPU: the same steps, each one jitted function whose buffers are donated; NHWC.

    pip install jax
    python benches/peers/jax_cpu.py --model cnn --opt sam --batch 128 --threads 2
"""
import os

import common

args = common.flags(__doc__.splitlines()[0]).parse_args()
# XLA has a thread for each core that the process may use.
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:args.threads])

import jax  # noqa: E402
from jax import lax, numpy as jnp  # noqa: E402

keys = iter(jax.random.split(jax.random.PRNGKey(0), 100))
params, running = {}, {}


def add_conv(name, inputs, outputs, kernel):
    scale = (2 / (outputs * kernel * kernel)) ** 0.5
    params[name] = scale * jax.random.normal(next(keys), (kernel, kernel, inputs, outputs))


def add_norm(name, channels):
    params[name] = {"weight": jnp.ones(channels), "bias": jnp.zeros(channels)}
    running[name] = {"mean": jnp.zeros(channels), "var": jnp.ones(channels)}


def add_linear(name, inputs, outputs):
    weight = inputs**-0.5 * jax.random.normal(next(keys), (inputs, outputs))
    params[name] = {"weight": weight, "bias": jnp.zeros(outputs)}


class Pass:
    """One run through a model at `params`; `running` becomes what batch-norm's statistics are afterwards."""

    def __init__(self, params, running, train):
        self.params, self.running, self.train = params, dict(running), train

    def conv(self, name, x, stride=1):
        weight = self.params[name]
        pad = [(weight.shape[0] // 2,) * 2] * 2
        return lax.conv_general_dilated(x, weight, (stride, stride), pad, dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def norm_relu(self, name, x):
        p, r = self.params[name], self.running[name]
        mean, var = r["mean"], r["var"]
        if self.train:
            count = x.size // x.shape[-1]
            mean = x.mean((0, 1, 2))
            var = jnp.square(x - mean).mean((0, 1, 2))
            batch = {"mean": mean, "var": var * count / (count - 1)}
            self.running[name] = {key: 0.9 * r[key] + 0.1 * lax.stop_gradient(batch[key]) for key in r}
        return jax.nn.relu((x - mean) * (p["weight"] * lax.rsqrt(var + 1e-5)) + p["bias"])

    def linear(self, name, x):
        return x @ self.params[name]["weight"] + self.params[name]["bias"]


CNN = [("conv1", 1, 32, False), ("conv2", 32, 32, True), ("conv3", 32, 64, False), ("conv4", 64, 64, True)]


def cnn(run, x):
    for name, _, _, pool in CNN:
        x = run.norm_relu(f"{name}.norm", run.conv(name, x))
        if pool:
            x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return run.linear("fc2", jax.nn.relu(run.linear("fc1", x.reshape(len(x), -1))))


def wide_resnet(run, x):
    x = run.conv("stem", x)
    for name, inputs, outputs, stride in common.wide_blocks(args.model):
        active = run.norm_relu(f"{name}.norm1", x)
        if f"{name}.shortcut" in run.params:
            x = run.conv(f"{name}.shortcut", active, stride)
        inner = run.norm_relu(f"{name}.norm2", run.conv(f"{name}.conv1", active, stride))
        x = x + run.conv(f"{name}.conv2", inner)
    return run.linear("fc", run.norm_relu("norm", x).mean((1, 2)))


if args.model == "cnn":
    model = cnn
    for name, inputs, outputs, _ in CNN:
        add_conv(name, inputs, outputs, 3)
        add_norm(f"{name}.norm", outputs)
    add_linear("fc1", 3136, 128)
    add_linear("fc2", 128, 10)
else:
    model = wide_resnet
    add_conv("stem", 3, 16, 3)
    for name, inputs, outputs, stride in common.wide_blocks(args.model):
        add_norm(f"{name}.norm1", inputs)
        add_conv(f"{name}.conv1", inputs, outputs, 3)
        add_norm(f"{name}.norm2", outputs)
        add_conv(f"{name}.conv2", outputs, outputs, 3)
        if inputs != outputs or stride > 1:
            add_conv(f"{name}.shortcut", inputs, outputs, 1)
    add_norm("norm", outputs)
    add_linear("fc", outputs, 10)

channels, height, width = common.IMAGE[args.model]
x = jax.random.normal(next(keys), (args.batch, height, width, channels))
y = jnp.arange(args.batch) * 7 % 10
tree = jax.tree_util.tree_map
momentum = tree(jnp.zeros_like, params)


def loss(params, running, x, y):
    run = Pass(params, running, True)
    chosen = jnp.take_along_axis(jax.nn.log_softmax(model(run, x)), y[:, None], 1)
    return -chosen.mean(), run.running


gradient = jax.grad(loss, has_aux=True)


def descend(params, momentum, g):
    momentum = tree(lambda m, g, p: common.MOMENTUM * m + g + common.DECAY * p, momentum, g, params)
    return tree(lambda p, m: p - common.LR * m, params, momentum), momentum


def sgd(params, momentum, running, x, y):
    g, after = gradient(params, running, x, y)
    return *descend(params, momentum, g), after


def sam(params, momentum, running, x, y):
    g, after = gradient(params, running, x, y)
    norm = jnp.sqrt(sum(jnp.vdot(leaf, leaf) for leaf in jax.tree_util.tree_leaves(g))) + 1e-12
    g, _ = gradient(tree(lambda p, g: p + common.RHO / norm * g, params, g), running, x, y)
    return *descend(params, momentum, g), after


if args.opt == "eval":
    forward = jax.jit(lambda params, running, x: model(Pass(params, running, False), x))

    def step():
        forward(params, running, x).block_until_ready()
else:
    train = jax.jit({"sgd": sgd, "sam": sam}[args.opt], donate_argnums=(0, 1, 2))

    def step():
        global params, momentum, running
        params, momentum, running = jax.block_until_ready(train(params, momentum, running, x, y))

common.measure(step, args, "jax", version=jax.__version__, layout="NHWC")
