"""Runs the README's PyTorch snippet as it stands on a checkpoint of `cnn`, and prints the accuracy and loss that it gives.

    python tests/golden/readme_snippet.py FILE DATA

FILE is a checkpoint without the optimizer's tensors (best.safetensors), DATA the folder of Fashion-MNIST. The figures must be those
of `samcore eval FILE`.
"""
import json
import pathlib
import re
import sys

import torch
from torch.nn.functional import cross_entropy

from common import fashion_mnist
from models import by_name

README = pathlib.Path(__file__).resolve().parents[2] / "README.md"


def main():
    file, data = sys.argv[1:]
    snippet = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL).group(1)
    snippet = snippet.replace("runs/mine/best.safetensors", file)
    images, labels = fashion_mnist("t10k", pathlib.Path(data))
    assert images.dtype == torch.uint8 and images.dim() == 4, (images.dtype, images.shape)
    names = {"model": by_name("cnn", 1, 10), "images": images}
    with torch.no_grad():
        exec(snippet, names)
    logits = names["logits"]
    accuracy = (logits.argmax(1) == labels).float().mean().item()
    print(json.dumps({"accuracy": accuracy, "loss": cross_entropy(logits, labels).item()}))


if __name__ == "__main__":
    main()
