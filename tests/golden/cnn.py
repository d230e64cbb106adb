"""Makes cnn.safetensors: five steps of SGD, SGD with Nesterov momentum and SAM on `cnn`, in float64 by PyTorch.

    python tests/golden/cnn.py

An engine in float32 takes a ReLU or pool branch differently from float64 where values lie within rounding of a tie, and
one flipped branch can move an update by 1 %. So each step trains on the first batch of Fashion-MNIST in which no branch
is closer than a margin; what is left to differ is arithmetic. PyTorch's own float32 takes the same steps beside it, and
no fixture is written unless it agrees within the tolerance that the fixture is to be read with.
"""

import copy
import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.nn.functional import cross_entropy, unfold

from common import Cnn, fashion_mnist, initial_weights, normalise, save_fixture, to_torch

SEED = 0
STEPS = 5
KEPT = (1, STEPS)  # the steps whose updates are stored
ROWS = 4  # twice the rows have twice the branches, and then hardly a batch keeps the margin
# At lr 0.1 the loss of so small a batch explodes, and each step multiplies the difference between float32 and float64
# by ten without a single flipped branch. Far below 0.003, on the other hand, the rounding of w itself drowns w_k - w_0.
SGD = {"lr": 0.003, "momentum": 0.9, "weight_decay": 5e-4}
RHO = 0.05
# Relative to the update; beside it each step may round w once, by half a unit in the last place (batch-norm weights
# near 1 move so little that this is most of their difference).
TOLERANCE, HALF_UNIT = 5e-5, 2.0**-24
# Of fc1.weight's 401,408 elements only these are stored: a walk by a step coprime to their number meets none twice.
SAMPLED = "fc1.weight"
SAMPLE = torch.arange(4096).mul(99_991).remainder(128 * 3136).sort().values
# Pool candidates closer than this are equal but for float64's rounding: they come from equal patches of a flat
# background, and whichever of them wins, the gradients of all parameters are the same.
EQUAL = 1e-12


class TooClose(Exception):
    """A branch of this batch lies within the margin."""


def scaled(margin: float, x: torch.Tensor) -> float:
    """The margin in units of the root mean square of `x` where that is above 1."""
    return margin * max(1.0, x.square().mean().sqrt().item())


def check_relu(x: torch.Tensor, margin: float):
    """Raises TooClose unless all ReLU inputs `x` keep the margin from 0."""
    if x.abs().min() < margin:
        raise TooClose


def check_pool(x: torch.Tensor, margin: float):
    """Raises TooClose unless in each 2x2 window of `x` [n, c, h, w] the largest value, where positive, keeps the margin
    from all others that differ from it."""
    n, c, _, _ = x.shape
    first, *rest = unfold(x.relu(), 2, stride=2).view(n, c, 4, -1).sort(dim=2, descending=True).values.unbind(2)
    gaps = torch.stack([first - other for other in rest])
    if ((gaps > EQUAL) & (gaps < margin)).any():
        raise TooClose


def watch(model: Cnn, margin: float):
    """Makes every forward pass of `model` raise TooClose as soon as a branch lies within the margin."""

    def relu(_module: nn.Module, _inputs: tuple, output: torch.Tensor):
        x = output.detach()
        check_relu(x, scaled(margin, x))

    def relu_and_pool(_module: nn.Module, _inputs: tuple, output: torch.Tensor):
        x = output.detach()
        check_relu(x, scaled(margin, x))
        check_pool(x, scaled(margin, x))

    for layer in (model.bn1, model.bn3, model.fc1):
        layer.register_forward_hook(relu)
    for layer in (model.bn2, model.bn4):
        layer.register_forward_hook(relu_and_pool)


def gradient(model: Cnn, x: torch.Tensor, y: torch.Tensor) -> float:
    """Leaves the gradient of the mean loss in the parameters and returns the loss."""
    model.zero_grad()
    loss = cross_entropy(model(x), y)
    loss.backward()
    return loss.item()


def plain(model: Cnn, x: torch.Tensor, y: torch.Tensor) -> dict:
    """The gradient at w."""
    return {"loss": [gradient(model, x, y)]}


@torch.no_grad()
def sharpness_aware(model: Cnn, x: torch.Tensor, y: torch.Tensor) -> dict:
    """The gradient at w + rho g / |g| (Foret et al., "Sharpness-Aware Minimization", ICLR 2021), with w put back.

    One norm over all parameters; running statistics take the first pass only.
    """
    with torch.enable_grad():
        first = gradient(model, x, y)
    parameters = list(model.parameters())
    norm = torch.cat([p.grad.flatten() for p in parameters]).norm()
    weights = [p.clone() for p in parameters]
    statistics = [b.clone() for b in model.buffers()]
    for p in parameters:
        p += RHO / norm * p.grad
    with torch.enable_grad():
        second = gradient(model, x, y)
    for p, w in zip(parameters, weights):
        p.copy_(w)
    for b, s in zip(model.buffers(), statistics):
        b.copy_(s)
    return {"loss": [first, second], "norm": norm.item()}


@dataclasses.dataclass(frozen=True)
class Variant:
    """An optimizer to record: where it takes the gradient that PyTorch's SGD then descends, and what is kept of it.

    `margin` is the least distance of a branch from its tie. Float32 moves activations by 3e-7 (root mean square) in the
    first step and by 2e-6 in the fifth; with two passes fewer batches qualify, so SAM has to do with less.
    """

    name: str
    gradients: Callable[[Cnn, torch.Tensor, torch.Tensor], dict]
    margin: float
    nesterov: bool = False
    kept: tuple[int, ...] = KEPT


VARIANTS = (
    Variant("sgd", plain, margin=2e-5),
    Variant("nesterov", plain, margin=2e-5, nesterov=True, kept=(STEPS,)),
    Variant("sam", sharpness_aware, margin=1e-5),
)


def start(dtype: torch.dtype) -> Cnn:
    """The model at samcore's initial weights, in train mode."""
    model = Cnn()
    weights = {name: to_torch(name, values) for name, values in initial_weights(SEED).items()}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected and all("running" in name or "num_batches" in name for name in missing)
    return model.to(dtype).train()


class Run:
    """Steps of one variant from the initial weights at one precision."""

    def __init__(self, variant: Variant, dtype: torch.dtype):
        self.variant, self.dtype = variant, dtype
        self.model = start(dtype)
        self.initial = copy.deepcopy(self.model.state_dict())
        self.optimizer = torch.optim.SGD(self.model.parameters(), nesterov=variant.nesterov, **SGD)

    def step(self, images: torch.Tensor, labels: torch.Tensor) -> dict:
        """One step; where it raises TooClose, nothing has changed."""
        before = copy.deepcopy(self.model.state_dict())
        try:
            values = self.variant.gradients(self.model, normalise(images).to(self.dtype), labels)
        except TooClose:
            self.model.load_state_dict(before)
            raise
        self.optimizer.step()
        return values

    def updates(self) -> dict[str, torch.Tensor]:
        """w_k - w_0 of each parameter, in float64."""
        return {name: p.detach().double() - self.initial[name].double() for name, p in self.model.named_parameters()}


def fitting(exact: Run, images: torch.Tensor, labels: torch.Tensor) -> Iterator[tuple[torch.Tensor, dict]]:
    """Steps `exact` through the batches 0.., ROWS.., and so on, and yields the indices of those that keep the margin,
    each with the values of its step."""
    for batch in torch.arange(len(images) // ROWS * ROWS).view(-1, ROWS):
        try:
            yield batch, exact.step(images[batch], labels[batch])
        except TooClose:
            continue


def compare(exact: Run, single: Run, step: int) -> dict[str, float]:
    """The relative difference of each parameter's update between two runs; refuses one beyond the tolerance."""
    differences, rounded = {}, single.updates()
    for name, update in exact.updates().items():
        difference, allowed = (rounded[name] - update).norm(), step * HALF_UNIT * exact.initial[name].norm()
        if difference > TOLERANCE * update.norm() + allowed:
            raise SystemExit(f"{exact.variant.name}, step {step}: {name} differs by {difference / update.norm():.1e}")
        differences[f"update{step}.{name}"] = float(f"{difference / update.norm():.2g}")
    return differences


def record(variant: Variant, images: torch.Tensor, labels: torch.Tensor):
    """The tensors of one variant for the fixture, and by how much float32's updates differ."""
    exact, single = Run(variant, torch.float64), Run(variant, torch.float32)
    watch(exact.model, variant.margin)
    tensors, differences, indices, values = {}, {}, [], []
    for step, (batch, value) in enumerate(itertools.islice(fitting(exact, images, labels), STEPS), start=1):
        single.step(images[batch], labels[batch])
        indices.append(batch)
        values.append(value)
        print(f"{variant.name} step {step}: images {batch.tolist()}, {value}", flush=True)
        if step in variant.kept:
            differences |= compare(exact, single, step)
            for name, update in exact.updates().items():
                kept = update.flatten()[SAMPLE] if name == SAMPLED else update
                tensors[f"{variant.name}.update{step}.{name}"] = kept.float()
                tensors[f"{variant.name}.norm{step}.{name}"] = update.norm().view(1)
    if len(values) < STEPS:
        raise SystemExit(f"{variant.name}: only {len(values)} batches keep the margin; lower it, or ROWS")
    tensors[f"{variant.name}.indices"] = torch.stack(indices)
    for key in values[0]:
        tensors[f"{variant.name}.{key}"] = torch.tensor([value[key] for value in values], dtype=torch.float64)
    tensors |= {f"{variant.name}.buffer{STEPS}.{name}": buffer for name, buffer in exact.model.named_buffers()}
    return tensors, differences


def checksums() -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """What proves that another engine starts from the same weights, each tensor in samcore's own layout: its first
    eight values, its sum and sum of squares in float64, and the SHA-256 of its little-endian float32 bytes."""
    tensors, hashes = {}, {}
    for name, values in initial_weights(SEED).items():
        w = torch.from_numpy(values).flatten()
        tensors[f"init.{name}.first"] = w[:8]
        tensors[f"init.{name}.sums"] = torch.stack([w.double().sum(), w.double().square().sum()])
        hashes[name] = hashlib.sha256(values.astype("<f4").tobytes()).hexdigest()
    return tensors, hashes


def main():
    torch.set_num_threads(1)  # float64 sums, and so the fixture's last bits, then do not depend on the machine's cores
    images, labels = fashion_mnist("train")
    tensors, hashes = checksums()
    tensors[f"{SAMPLED}.indices"] = SAMPLE
    differences, settings = {}, {"seed": SEED, "rows": ROWS, "rho": RHO, **SGD}
    for variant in VARIANTS:
        recorded, differences[variant.name] = record(variant, images, labels)
        tensors |= recorded
        worst = max(differences[variant.name].items(), key=lambda item: item[1])
        print(f"{variant.name}: float32 differs by at most {worst[1]}, in {worst[0]}")
    save_fixture("cnn", tensors, {"settings": settings, "sha256": hashes, "float32_difference": differences})


if __name__ == "__main__":
    main()
