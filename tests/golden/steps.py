"""Makes a fixture for each of some models: five steps of SGD, SGD with Nesterov momentum and SAM by PyTorch in float64.

    python tests/golden/steps.py [NAME ...]

An engine in float32 takes a ReLU or pool branch differently from float64 where values lie within rounding of a tie, and
one flipped branch can move an update by 1 %. So each step trains on the first batch in which no branch is closer than a
margin; what is left to differ is arithmetic. PyTorch's own float32 takes the same steps beside it, and no fixture is
written unless it agrees within the tolerance that the fixture is to be read with.
"""

import copy
import dataclasses
import hashlib
import itertools
import sys
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.nn.functional import cross_entropy, pad, unfold

from common import MEAN, STD, fashion_mnist, initial_weights, noise, normalise, save_fixture, to_torch
from models import CifarResNet, Cnn, PyramidNet, ResNet, ShakeShake, WideResNet, begin_at

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
# Updates smaller than this are rounding alone, and are not stored: a bias of a PyramidNet that only shifts what the next
# batch-norm centres has no gradient. All other updates are above 1e-5.
NOTHING = 1e-12
# Pool candidates closer than this are equal but for float64's rounding: they come from equal patches of a flat
# background, and whichever of them wins, the gradients of all parameters are the same.
EQUAL = 1e-12


class TooClose(Exception):
    """A branch of this batch lies within the margin."""


Images = tuple[torch.Tensor, torch.Tensor]


@dataclasses.dataclass(frozen=True)
class Case:
    """A model to record. Of a parameter with more than `largest` elements only `sample` are stored."""

    name: str
    model: Callable[[], nn.Module]
    images: Callable[[], Images]
    mean: float
    std: float
    largest: int
    sample: int

    def kept(self, parameter: torch.Tensor) -> torch.Tensor | None:
        """Indices of the elements to store; None for all."""
        n = parameter.numel()
        # A walk by a prime that does not divide the number of elements meets none twice.
        return None if n <= self.largest else torch.arange(self.sample).mul(99_991).remainder(n).sort().values


def small(name: str, model: Callable[[], nn.Module], side: int) -> Case:
    """A case on images of noise, which have no flat background and so no ties."""
    images = lambda: noise(400, (3, side, side))
    return Case(name, model, images, mean=0.5, std=0.25, largest=1024, sample=512)


CASES = (
    Case("cnn", Cnn, lambda: fashion_mnist("train"), MEAN, STD, largest=100_000, sample=4096),
    small("wrn_10_1", lambda: WideResNet(10, 1), side=16),
    small("resnet8", lambda: CifarResNet(8), side=16),
    small("shake_shake", lambda: ShakeShake(8, 8), side=16),
    small("pyramidnet", lambda: PyramidNet(8, 12), side=16),
    small("shakedrop", lambda: PyramidNet(11, 12, bottleneck=True, shake_drop=True), side=16),
    small("bottleneck", lambda: ResNet((1, 1), widening=2, base=8), side=32),
)


def scaled(margin: float, x: torch.Tensor) -> float:
    """The margin in units of the root mean square of `x` where that is above 1."""
    return margin * max(1.0, x.square().mean().sqrt().item())


def check_relu(x: torch.Tensor, margin: float):
    """Raises TooClose unless all ReLU inputs `x` keep the margin from 0."""
    if x.abs().min() < margin:
        raise TooClose


def check_pool(x: torch.Tensor, pool: nn.MaxPool2d, margin: float):
    """Raises TooClose unless in each window of `x` [n, c, h, w] the largest value keeps the margin from all others that
    differ from it."""
    n, c, _, _ = x.shape
    k, p = pool.kernel_size, pool.padding
    windows = unfold(pad(x, (p, p, p, p), value=-torch.inf), k, stride=pool.stride).view(n, c, k * k, -1)
    first, *rest = windows.sort(dim=2, descending=True).values.unbind(2)
    gaps = torch.stack([first - other for other in rest])
    if ((gaps > EQUAL) & (gaps < margin)).any():
        raise TooClose


def watch(model: nn.Module, margin: float):
    """Makes every forward pass of `model` raise TooClose as soon as a branch lies within the margin."""

    def before(module: nn.Module, inputs: tuple[torch.Tensor]):
        x = inputs[0].detach()
        if isinstance(module, nn.ReLU):
            check_relu(x, scaled(margin, x))
        else:
            check_pool(x, module, scaled(margin, x))

    for module in model.modules():
        if isinstance(module, (nn.ReLU, nn.MaxPool2d)):
            module.register_forward_pre_hook(before)


def gradient(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    """Leaves the gradient of the mean loss in the parameters and returns the loss."""
    model.zero_grad()
    loss = cross_entropy(model(x), y)
    loss.backward()
    return loss.item()


def plain(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> dict:
    """The gradient at w."""
    return {"loss": [gradient(model, x, y)]}


@torch.no_grad()
def sharpness_aware(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> dict:
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
    gradients: Callable[[nn.Module, torch.Tensor, torch.Tensor], dict]
    margin: float
    nesterov: bool = False
    kept: tuple[int, ...] = KEPT


VARIANTS = (
    Variant("sgd", plain, margin=2e-5),
    Variant("nesterov", plain, margin=2e-5, nesterov=True, kept=(STEPS,)),
    Variant("sam", sharpness_aware, margin=1e-5),
)


def start(case: Case, dtype: torch.dtype) -> nn.Module:
    """The model at samcore's initial weights, in train mode."""
    model = case.model()
    weights = {name: to_torch(model, name, values) for name, values in initial_weights(model, SEED).items()}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected and all("running" in name or "num_batches" in name for name in missing)
    return model.to(dtype).train()


class Run:
    """Steps of one variant from the initial weights at one precision."""

    def __init__(self, case: Case, variant: Variant, dtype: torch.dtype):
        self.case, self.variant, self.dtype = case, variant, dtype
        self.model = start(case, dtype)
        self.initial = copy.deepcopy(self.model.state_dict())
        self.done = 0
        self.optimizer = torch.optim.SGD(self.model.parameters(), nesterov=variant.nesterov, **SGD)

    def step(self, images: torch.Tensor, labels: torch.Tensor) -> dict:
        """One step; where it raises TooClose, nothing has changed."""
        before = copy.deepcopy(self.model.state_dict())
        try:
            begin_at(self.model, ROWS * self.done)
            x = normalise(images, self.case.mean, self.case.std).to(self.dtype)
            values = self.variant.gradients(self.model, x, labels)
        except TooClose:
            self.model.load_state_dict(before)
            raise
        self.optimizer.step()
        self.done += 1
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
        if update.norm() < NOTHING:
            continue
        difference, allowed = (rounded[name] - update).norm(), step * HALF_UNIT * exact.initial[name].norm()
        if difference > TOLERANCE * update.norm() + allowed:
            raise SystemExit(f"{exact.variant.name}, step {step}: {name} differs by {difference / update.norm():.1e}")
        differences[f"update{step}.{name}"] = float(f"{difference / update.norm():.2g}")
    return differences


def record(case: Case, variant: Variant, images: torch.Tensor, labels: torch.Tensor):
    """The tensors of one variant for the fixture, and by how much float32's updates differ."""
    exact, single = Run(case, variant, torch.float64), Run(case, variant, torch.float32)
    watch(exact.model, variant.margin)
    tensors, differences, indices, values = {}, {}, [], []
    for step, (batch, value) in enumerate(itertools.islice(fitting(exact, images, labels), STEPS), start=1):
        single.step(images[batch], labels[batch])
        indices.append(batch)
        values.append(value)
        print(f"{case.name}, {variant.name} step {step}: images {batch.tolist()}, {value}", flush=True)
        if step in variant.kept:
            differences |= compare(exact, single, step)
            for name, update in exact.updates().items():
                if update.norm() < NOTHING:
                    continue
                kept = case.kept(update)
                stored = update if kept is None else update.flatten()[kept]
                tensors[f"{variant.name}.update{step}.{name}"] = stored.float()
                tensors[f"{variant.name}.norm{step}.{name}"] = update.norm().view(1)
    if len(values) < STEPS:
        raise SystemExit(f"{variant.name}: only {len(values)} batches keep the margin; lower it, or ROWS")
    tensors[f"{variant.name}.indices"] = torch.stack(indices)
    for key in values[0]:
        tensors[f"{variant.name}.{key}"] = torch.tensor([value[key] for value in values], dtype=torch.float64)
    tensors |= {f"{variant.name}.buffer{STEPS}.{name}": buffer for name, buffer in exact.model.named_buffers()}
    return tensors, differences


def checksums(model: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """What proves that another engine starts from the same weights, each tensor in samcore's own layout: its first
    eight values, its sum and sum of squares in float64, and the SHA-256 of its little-endian float32 bytes."""
    tensors, hashes = {}, {}
    for name, values in initial_weights(model, SEED).items():
        w = torch.from_numpy(values).flatten()
        tensors[f"init.{name}.first"] = w[:8]
        tensors[f"init.{name}.sums"] = torch.stack([w.double().sum(), w.double().square().sum()])
        hashes[name] = hashlib.sha256(values.astype("<f4").tobytes()).hexdigest()
    return tensors, hashes


def make(case: Case):
    """Records a model and saves its fixture."""
    images, labels = case.images()
    model = case.model()
    tensors, hashes = checksums(model)
    for name, parameter in model.named_parameters():
        if (kept := case.kept(parameter)) is not None:
            tensors[f"{name}.indices"] = kept
    differences, settings = {}, {"seed": SEED, "rows": ROWS, "rho": RHO, **SGD}
    for variant in VARIANTS:
        recorded, differences[variant.name] = record(case, variant, images, labels)
        tensors |= recorded
        worst = max(differences[variant.name].items(), key=lambda item: item[1])
        print(f"{case.name}, {variant.name}: float32 differs by at most {worst[1]}, in {worst[0]}")
    save_fixture(case.name, tensors, {"settings": settings, "sha256": hashes, "float32_difference": differences})


def main():
    torch.set_num_threads(1)  # float64 sums, and so the fixture's last bits, then do not depend on the machine's cores
    wanted = sys.argv[1:] or [case.name for case in CASES]
    if unknown := set(wanted) - {case.name for case in CASES}:
        raise SystemExit(f"unknown: {', '.join(unknown)}; there are {', '.join(case.name for case in CASES)}")
    for case in CASES:
        if case.name in wanted:
            make(case)


if __name__ == "__main__":
    main()
