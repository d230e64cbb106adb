"""Makes the files that `tests/finetune.rs` begins runs with: state dicts as PyTorch users save them, and what PyTorch
computes with them in eval mode, in float64.

    python tests/golden/init.py                  the committed ones: a narrow ResNet with torchvision's names
    python tests/golden/init.py FOLDER NAME ...  torchvision's own models of these names, with random weights

The second form needs torchvision, and writes to FOLDER what the ignored test of `tests/finetune.rs` reads.
"""

import pathlib
import sys

import torch
from safetensors.torch import save_file
from torch import nn

from common import HERE, noise, normalise, save_fixture
from models import ResNet

MEAN, STD = 0.5, 0.25
ROWS = 4


def random_model(model: nn.Module) -> nn.Module:
    """`model` in eval mode, its batch-norms moved away from what they begin with."""
    draws = torch.Generator().manual_seed(0)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor, low, high in [
                (layer.weight.data, 0.5, 1.5),
                (layer.bias.data, -0.5, 0.5),
                (layer.running_mean, -0.5, 0.5),
                (layer.running_var, 0.5, 2.0),
            ]:
                tensor.uniform_(low, high, generator=draws)
            layer.num_batches_tracked.fill_(7)
    return model.eval()


@torch.no_grad()
def logits(model: nn.Module, state: dict[str, torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    """What the model computes with the weights of `state`, in float64."""
    model.load_state_dict(state)
    return model.double()(normalise(images, MEAN, STD).double())


def half(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """`tensor` in one of the types that files come in, a different one for each kind of layer."""
    if not tensor.is_floating_point():
        return tensor
    return tensor.to(torch.bfloat16 if name.startswith("fc.") else torch.float64 if "bn" in name else torch.float16)


def save(path: pathlib.Path, state: dict[str, torch.Tensor]):
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path, {"format": "pt"})
    path.chmod(0o644)
    print(f"{path.name}: {len(state)} tensors, {path.stat().st_size:,} bytes")


def narrow():
    """Writes the committed files: one in float32, and one as a data-parallel model in several other types."""

    def model() -> nn.Module:
        return ResNet((1, 1), base=8, large=True)

    torch.manual_seed(0)
    state = random_model(model()).state_dict()
    images, labels = noise(ROWS, (3, 32, 32))
    mixed = {name: half(name, tensor) for name, tensor in state.items()}
    save(HERE / "init_float32.safetensors", state)
    save(HERE / "init_mixed.safetensors", {f"module.{name}": tensor for name, tensor in mixed.items()})
    widened = {name: t.float() if t.is_floating_point() else t for name, t in mixed.items()}
    tensors = {
        "images": images.float(),
        "labels": labels,
        "float32": logits(random_model(model()), state, images),
        "mixed": logits(random_model(model()), widened, images),
    }
    save_fixture("init", tensors, {"mean": MEAN, "std": STD})


def full(folder: pathlib.Path, names: list[str]):
    """Writes state dicts of torchvision's own models, and their logits on images of 64x64 pixels of noise."""
    from torchvision import models

    images, labels = noise(ROWS, (3, 64, 64))
    for name in names:
        torch.manual_seed(0)
        model = random_model(getattr(models, name)())
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        save(folder / f"{name}.safetensors", state)
        tensors = {"images": images.float(), "labels": labels, "float32": logits(model, state, images)}
        save_fixture(f"{name}_golden", tensors, {"mean": MEAN, "std": STD}, folder)


def main():
    torch.set_num_threads(1)
    if arguments := sys.argv[1:]:
        full(pathlib.Path(arguments[0]), arguments[1:])
    else:
        narrow()


if __name__ == "__main__":
    main()
