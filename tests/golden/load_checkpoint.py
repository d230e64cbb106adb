"""Loads a samcore checkpoint into the PyTorch model of the same name, to prove that its weights travel.

    python tests/golden/load_checkpoint.py FILE [DATA]

FILE is the checkpoint (safetensors) of any model. Every key of the model must be there and no other, but for those of
the optimizer. With DATA, the folder of Fashion-MNIST that the run was trained on, prints {"accuracy": .., "loss": ..} of
the 10,000 test images in eval mode, else the number of parameters.
"""

import argparse
import json
import pathlib

import torch
from safetensors import safe_open
from torch import nn
from torch.nn.functional import cross_entropy

from common import fashion_mnist, normalise
from models import by_name

ROWS = 500


@torch.no_grad()
def evaluate(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Accuracy and mean cross-entropy in eval mode."""
    model.eval()
    hits, loss = 0, 0.0
    for x, y in zip(images.split(ROWS), labels.split(ROWS)):
        logits = model(normalise(x))
        hits += (logits.argmax(1) == y).sum().item()
        loss += cross_entropy(logits, y, reduction="sum").item()
    return {"accuracy": hits / len(labels), "loss": loss / len(labels)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=pathlib.Path)
    parser.add_argument("data", type=pathlib.Path, nargs="?")
    args = parser.parse_args()
    with safe_open(args.file, "pt") as file:
        about = file.metadata()
        state = {name: file.get_tensor(name) for name in file.keys() if not name.startswith("optimizer.")}
    model = by_name(about["samcore.model"], int(about["samcore.channels"]), int(about["samcore.classes"]))
    model.load_state_dict(state, strict=True)
    if args.data:
        print(json.dumps(evaluate(model, *fashion_mnist("t10k", args.data))))
    else:
        print(json.dumps({"parameters": sum(p.numel() for p in model.parameters())}))


if __name__ == "__main__":
    main()
