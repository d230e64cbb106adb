"""Makes ops.safetensors: what PyTorch computes, in float64, for small cases of the operations it shares with samcore.

    python tests/golden/ops.py

Inputs are rounded to float32 first, so that every engine sees the same bits; outputs and gradients are float64.
Gradients are those of sum(output * grad_output), with a random grad_output.
"""

import itertools
from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from common import Draws, save_fixture, stream

Tensors = dict[str, torch.Tensor]


class Fixture:
    """The tensors `<op>.<case>.<tensor>` and, as metadata, the attributes of each `<op>.<case>`."""

    def __init__(self):
        self.tensors: Tensors = {}
        self.attributes: dict[str, dict[str, object]] = {}

    def note(self, case: str, tensors: Tensors, **attributes):
        self.tensors |= {f"{case}.{name}": tensor.clone() for name, tensor in tensors.items()}
        self.attributes.setdefault(case, {}).update(attributes)

    def run(self, case: str, function: Callable[..., torch.Tensor], inputs: Tensors, **attributes):
        """Notes `inputs`, `function(**inputs)` and its gradients with respect to them."""
        leaves = {name: tensor.double().requires_grad_() for name, tensor in inputs.items()}
        output = function(**leaves)
        grad_output = random(f"{case}.grad_output", output.shape)
        gradients = torch.autograd.grad(output, list(leaves.values()), grad_output.double())
        self.note(case, inputs | {"output": output, "grad_output": grad_output}, **attributes)
        self.note(case, {f"grad_{name}": gradient for name, gradient in zip(leaves, gradients)})


def random(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Standard normal float32 values, the same at each run for the same name."""
    size = torch.Size(shape)
    return torch.from_numpy(Draws(0, stream(name)).normal(size.numel())).float().view(size)


def distinct(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """A permutation of multiples of 1/16 around 0, so that no maximum is a near tie in any precision."""
    order = random(name, shape).flatten().argsort().float()
    return ((order - len(order) // 2) / 16).view(shape)


def conv2d(fixture: Fixture):
    cases = [
        # n, ci, h, w, co, k, stride, pad
        (2, 1, 5, 6, 4, 1, 1, 0),
        (2, 3, 5, 6, 4, 1, 2, 0),
        (1, 5, 4, 3, 2, 1, 1, 1),
        (2, 1, 6, 7, 3, 3, 1, 1),
        (2, 3, 5, 7, 4, 3, 1, 0),
        (2, 5, 6, 5, 3, 3, 1, 1),
        (2, 3, 8, 8, 4, 3, 2, 1),
        (2, 5, 7, 6, 2, 3, 2, 0),
        (1, 3, 4, 5, 2, 3, 2, 2),
        (2, 1, 9, 8, 3, 5, 1, 2),
        (1, 3, 7, 6, 2, 5, 1, 0),
        (1, 5, 8, 7, 2, 5, 2, 2),
        (1, 3, 9, 10, 2, 5, 2, 1),
    ]
    for n, ci, h, w, co, k, stride, pad in cases:
        case = f"conv2d.k{k}s{stride}p{pad}c{ci}"
        inputs = {"input": random(f"{case}.input", (n, ci, h, w)), "weight": random(f"{case}.weight", (co, ci, k, k))}
        fixture.run(case, partial(F.conv2d, stride=stride, padding=pad), inputs, stride=stride, padding=pad)


def batch_norm(fixture: Fixture):
    """The module's buffers are stored from before the pass and, as `new_..`, from after it: training moves them by the
    momentum, the variance by its unbiased estimate. In the case "offset" a sum of squares would cancel."""
    eps, momentum = 1e-5, 0.1
    cases = [("small", (4, 3, 3, 4), 0.0), ("vector", (9, 5, 1, 1), 0.0), ("offset", (2, 2, 5, 5), 30.0)]
    for (label, shape, offset), training in itertools.product(cases, (True, False)):
        case = f"batch_norm.{'train' if training else 'eval'}_{label}"
        c = shape[1]
        inputs = {
            "input": random(f"{case}.input", shape) + offset,
            "weight": 1 + 0.5 * random(f"{case}.weight", (c,)),
            "bias": random(f"{case}.bias", (c,)),
        }
        buffers = {
            "running_mean": offset + random(f"{case}.running_mean", (c,)),
            "running_var": 0.5 + random(f"{case}.running_var", (c,)).square(),
            "num_batches_tracked": torch.tensor(3),
        }
        layer = nn.BatchNorm2d(c, eps=eps, momentum=momentum).double().train(training)
        layer.load_state_dict(buffers, strict=False)
        fixture.note(case, buffers, training=training, eps=eps, momentum=momentum)
        fixture.run(case, partial(call_norm, layer), inputs)
        fixture.note(case, {f"new_{name}": buffer for name, buffer in layer.named_buffers()})


def call_norm(layer: nn.Module, input: torch.Tensor, **parameters: torch.Tensor) -> torch.Tensor:
    return torch.func.functional_call(layer, parameters, input)


def relu(fixture: Fixture):
    for label, shape in [("images", (2, 3, 4, 5)), ("rows", (3, 17))]:
        case = f"relu.{label}"
        x = random(f"{case}.input", shape)
        fixture.run(case, F.relu, {"input": x + 0.01 * x.sign()})
    fixture.run("relu.zeros", F.relu, {"input": torch.tensor([[-1.0, -0.0, 0.0, 1.0, 0.0, 2.0]])})


def pools(fixture: Fixture):
    """The last partial window is left out; padding is -inf to a max pool. In "ties" the first of equal values wins."""
    cases = [
        ("even", (2, 3, 4, 6), 2, 2, 0),
        ("odd", (2, 3, 5, 7), 2, 2, 0),
        ("overlap_odd", (2, 2, 7, 9), 3, 2, 0),
        ("overlap_even", (1, 3, 6, 8), 3, 2, 0),
        ("padded_even", (2, 2, 8, 6), 3, 2, 1),
        ("padded_odd", (1, 3, 5, 7), 3, 2, 1),
        ("padded_wide", (1, 2, 6, 5), 4, 3, 2),
    ]
    for label, shape, window, stride, padding in cases:
        for op, function in [("max_pool2d", F.max_pool2d), ("avg_pool2d", F.avg_pool2d)]:
            if op == "avg_pool2d" and padding:
                continue
            x = {"input": distinct(f"{op}.{label}.input", shape)}
            pool = partial(function, kernel_size=window, stride=stride, padding=padding)
            fixture.run(f"{op}.{label}", pool, x, window=window, stride=stride, padding=padding)
    ties = {"input": random("max_pool2d.ties.input", (2, 2, 7, 7)).round()}
    pool = partial(F.max_pool2d, kernel_size=3, stride=2)
    fixture.run("max_pool2d.ties", pool, ties, window=3, stride=2, padding=0)
    for label, shape in [("square", (2, 5, 4, 4)), ("odd", (3, 2, 7, 3))]:
        case = f"global_avg_pool2d.{label}"
        fixture.run(case, partial(F.adaptive_avg_pool2d, output_size=1), {"input": random(f"{case}.input", shape)})


def pad_shortcut(fixture: Fixture):
    """Option A of "Deep Residual Learning" as akamaster/pytorch_resnet_cifar10 has it: every second pixel, then half of
    the new channels before and half behind; and other numbers of each. With a shift, every second pixel of the image moved
    right and down: SpatialZeroPadding(1, -1, 1, -1) of xgastaldi/shake-shake."""
    cases = [
        ("half", (2, 4, 6, 6), 2, 0, 2, 2),
        ("odd", (2, 3, 5, 7), 2, 0, 1, 3),
        ("shifted", (2, 3, 6, 6), 2, 1, 0, 0),
        ("shifted_odd", (2, 3, 5, 7), 2, 1, 1, 3),
    ]
    for label, shape, stride, shift, before, after in cases:
        case = f"pad_shortcut.{label}"

        def shortcut(input: torch.Tensor) -> torch.Tensor:
            moved = F.pad(input, (shift, -shift, shift, -shift))
            return F.pad(moved[:, :, ::stride, ::stride], (0, 0, 0, 0, before, after))

        x = {"input": random(f"{case}.input", shape)}
        fixture.run(case, shortcut, x, stride=stride, shift=shift, before=before, after=after)


def linear(fixture: Fixture):
    for n, inputs, outputs in [(1, 1, 1), (3, 7, 5), (4, 33, 10)]:
        case = f"linear.n{n}i{inputs}o{outputs}"
        tensors = {
            "input": random(f"{case}.input", (n, inputs)),
            "weight": random(f"{case}.weight", (outputs, inputs)),
            "bias": random(f"{case}.bias", (outputs,)),
        }
        fixture.run(case, F.linear, tensors)


def cross_entropy(fixture: Fixture):
    """`output` is the mean of `losses` [n], `grad_input` the mean's gradient. Target rows sum to exactly 1; the "hard"
    ones are one-hot and are given to PyTorch as class numbers."""
    n, classes = 6, 10
    for label, scale, smoothing in itertools.product(("hard", "soft"), (1.0, 30.0), (0.0, 0.1)):
        case = f"cross_entropy.{label}_{'large' if scale > 1 else 'small'}_s{smoothing}"
        logits = scale * random(f"{case}.input", (n, classes))
        if label == "hard":
            given = torch.arange(n) * 7 % classes
            target = F.one_hot(given, classes).float()
        else:
            # Two labels mixed in 256ths, as mixup makes them, then one row spread over all classes.
            share = torch.tensor([1, 64, 100, 128, 200, 255]).view(-1, 1) / 256
            one, other = (F.one_hot(torch.arange(n) * step % classes, classes) for step in (3, 7))
            target = share * one + (1 - share) * other
            target[-1] = torch.tensor([7, 1, 1, 1, 1, 1, 1, 1, 1, 1]) / 16
            given = target.double()
        x = logits.double().requires_grad_()
        losses = F.cross_entropy(x, given, label_smoothing=smoothing, reduction="none")
        output = F.cross_entropy(x, given, label_smoothing=smoothing)
        (gradient,) = torch.autograd.grad(output, x)
        tensors = {
            "input": logits,
            "target": target,
            "losses": losses,
            "output": output.view(1),
            "grad_input": gradient,
        }
        fixture.note(case, tensors, label_smoothing=smoothing, reduction="mean")


def main():
    torch.set_num_threads(1)
    fixture = Fixture()
    for record in (conv2d, batch_norm, relu, pools, pad_shortcut, linear, cross_entropy):
        record(fixture)
    save_fixture("ops", fixture.tensors, fixture.attributes)


if __name__ == "__main__":
    main()
