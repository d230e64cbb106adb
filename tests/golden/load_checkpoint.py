"""Evaluates a samcore checkpoint of `cnn` in PyTorch, to prove that its weights travel.

    python tests/golden/load_checkpoint.py FILE DATA

FILE is the checkpoint (safetensors), DATA the folder of Fashion-MNIST. Prints {"accuracy": .., "loss": ..} of the
10,000 test images in eval mode. Every key of the model must be there and no other, but for those of the optimizer.
"""

import argparse
import json
import pathlib

import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from common import Cnn, fashion_mnist, normalise

ROWS = 500


@torch.no_grad()
def evaluate(model: Cnn, images: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
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
    parser.add_argument("data", type=pathlib.Path)
    args = parser.parse_args()
    state = {name: tensor for name, tensor in load_file(args.file).items() if not name.startswith("optimizer.")}
    model = Cnn()
    model.load_state_dict(state, strict=True)
    print(json.dumps(evaluate(model, *fashion_mnist("t10k", args.data))))


if __name__ == "__main__":
    main()
