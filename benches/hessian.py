#!/usr/bin/env python3
"""Compares `samcore study hessian` with double backward in PyTorch, in float64, on the same checkpoint and images.

    benches/hessian.py runs/mine/best.safetensors --images 512 --out benches/results/hessian_cnn.json

PyTorch has its own Lanczos, with full reorthogonalisation in float64, and its own estimate of the trace. Double backward holds
every ReLU and max pool as it is at the weights, so it is not what differences measure: PyTorch therefore also takes
differences of its gradients, along samcore's first eigenvector and over samcore's distance h, and double backward along it.
Needs torch, numpy and safetensors.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch
from safetensors import safe_open
from torch.func import functional_call, jvp, vjp
from torch.nn.functional import cross_entropy, softmax

import measured

sys.path.insert(0, str(measured.ROOT / "tests/golden"))
from common import MEAN, STD, fashion_mnist  # noqa: E402
from models import by_name  # noqa: E402

PART = 128


class Loss:
    """The mean loss of images as a function of one vector of parameters, in eval mode."""

    def __init__(self, model, images, labels):
        self.model, self.labels = model.double().eval(), labels
        self.images = (images.double() / 255 - MEAN) / STD
        self.shapes = [(name, p.shape) for name, p in model.named_parameters()]
        self.w = torch.cat([p.detach().flatten() for p in model.parameters()])

    def logits(self, w, part):
        parts = w.split([shape.numel() for _, shape in self.shapes])
        state = {name: p.view(shape) for (name, shape), p in zip(self.shapes, parts)}
        return functional_call(self.model, state, (self.images[part],))

    def parts(self):
        return torch.arange(len(self.labels)).split(PART)

    def gradient(self, w):
        sum = torch.zeros_like(w)
        for part in self.parts():
            at = w.detach().requires_grad_()
            loss = cross_entropy(self.logits(at, part), self.labels[part], reduction="sum")
            sum += torch.autograd.grad(loss, at)[0]
        return sum / len(self.labels)

    def hessian(self, v):
        sum = torch.zeros_like(v)
        for part in self.parts():
            at = self.w.detach().requires_grad_()
            loss = cross_entropy(self.logits(at, part), self.labels[part], reduction="sum")
            (g,) = torch.autograd.grad(loss, at, create_graph=True)
            sum += torch.autograd.grad(g @ v, at)[0]
        return sum / len(self.labels)

    def gauss_newton(self, v):
        sum = torch.zeros_like(v)
        for part in self.parts():
            of = lambda w: self.logits(w, part)  # noqa: E731
            z, jv = jvp(of, (self.w,), (v,))
            p = softmax(z, 1)
            sjv = p * jv - p * (p * jv).sum(1, keepdim=True)
            sum += vjp(of, self.w)[1](sjv)[0]
        return sum / len(self.labels)

    def differences(self, v, h):
        return (self.gradient(self.w + h * v) - self.gradient(self.w - h * v)) / (2 * h)


def lanczos(multiply, n, steps, rng):
    """Eigenvalues of T, the diagonal of T and the basis."""
    basis, diagonal, off = [rng.standard_normal(n)], [], []
    basis[0] /= np.linalg.norm(basis[0])
    for step in range(steps):
        print(f"Lanczos, step {step + 1} of {steps}", file=sys.stderr, flush=True)
        w = multiply(torch.from_numpy(basis[-1])).numpy()
        diagonal.append(basis[-1] @ w)
        for _ in range(2):
            q = np.array(basis)
            w = w - q.T @ (q @ w)
        off.append(np.linalg.norm(w))
        basis.append(w / off[-1])
    t = np.diag(diagonal) + np.diag(off[:-1], 1) + np.diag(off[:-1], -1)
    return np.linalg.eigvalsh(t), diagonal, np.array(basis[:-1])


def trace(multiply, n, samples, diagonal, basis, rng):
    """Trace and its standard error: the basis's own, and random signs for the rest."""
    values = []
    for _ in range(samples):
        v = rng.choice([-1.0, 1.0], n)
        v -= basis.T @ (basis @ v)
        values.append(v @ multiply(torch.from_numpy(v)).numpy())
    return sum(diagonal) + np.mean(values), np.std(values, ddof=1) / np.sqrt(samples)


def write_idx(path, values):
    dims = b"".join(n.to_bytes(4, "big") for n in values.shape)
    path.write_bytes(bytes([0, 0, 8, values.ndim]) + dims + values.tobytes())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=pathlib.Path, help="of Fashion-MNIST")
    parser.add_argument("--images", type=int, default=512, help="the first of the training images")
    parser.add_argument("--steps", type=int, default=30, help="of Lanczos, both here and there")
    parser.add_argument("--samples", type=int, default=10, help="for the trace")
    parser.add_argument("--binary", type=pathlib.Path, help="samcore to run [a release build of this tree]")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    if arguments.binary is None:
        measured.build()
    binary = (arguments.binary or measured.ROOT / "target/release/samcore").resolve()

    images, labels = (x[: arguments.images] for x in fashion_mnist("train"))
    with tempfile.TemporaryDirectory() as folder:
        data = pathlib.Path(folder) / "data"
        data.mkdir()
        for split in ("train", "t10k"):
            write_idx(data / f"{split}-images-idx3-ubyte", images[:, 0].numpy())
            write_idx(data / f"{split}-labels-idx1-ubyte", labels.numpy().astype(np.uint8))
        flags = ["--data", data, "--subset", "all", "--images", "0", "--depth", "0", "--gauss-newton"]
        flags += ["--lanczos-steps", str(arguments.steps), "--trace-samples", str(arguments.samples)]
        out = pathlib.Path(folder) / "study"
        line = [binary, "study", "hessian", arguments.checkpoint, *flags, "--out", out, "--quiet"]
        subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
        study = json.loads((out / "hessian.json").read_text())
        arrays = dict(np.load(out / "hessian.npz"))

    with safe_open(arguments.checkpoint, "pt") as file:
        about = file.metadata()
        state = {name: file.get_tensor(name) for name in file.keys() if not name.startswith("optimizer.")}
    model = by_name(about["samcore.model"], int(about["samcore.channels"]), int(about["samcore.classes"]))
    model.load_state_dict(state, strict=True)
    loss = Loss(model, images, labels)
    n = len(loss.w)
    names = [name for name, _ in loss.shapes]
    assert names == [tensor["name"] for tensor in study["tensors"]], "parameters in another order"

    results = []
    for block in study["blocks"]:
        operator = block["operator"]
        multiply = {"hessian": loss.hessian, "gauss-newton": loss.gauss_newton}[operator]
        rng = np.random.default_rng(0)
        eigenvalues, diagonal, basis = lanczos(multiply, n, arguments.steps, rng)
        total, error = trace(multiply, n, arguments.samples, diagonal, basis, rng)
        v = torch.from_numpy(arrays[f"{operator}/all/eigenvectors"][0].astype(np.float64))
        v /= v.norm()
        along = {"double_backward": float(v @ multiply(v))}
        if operator == "hessian":
            along["differences_float64"] = float(v @ loss.differences(v, block["h"]))
            along |= {f"differences_float64_h_{h}": float(v @ loss.differences(v, h)) for h in (1e-2, 1e-3, 1e-4)}
        keys = ("h", "disagreement", "gradient_noise", "asymmetry", "eigenvalues", "smallest", "trace", "trace_standard_error")
        results.append(
            {
                "operator": operator,
                "samcore": {key: block[key] for key in keys},
                "pytorch": {
                    "eigenvalues": eigenvalues[::-1][: study["k"]].tolist(),
                    "smallest": float(eigenvalues[0]),
                    "trace": float(total),
                    "trace_standard_error": float(error),
                },
                "pytorch_along_samcores_first_eigenvector": along,
            }
        )
        print(json.dumps(results[-1], indent=1), flush=True)
    what = {
        **measured.provenance("benches/hessian.py"),
        "versions": {"torch": torch.__version__, "numpy": np.__version__, "samcore": study["source"]["samcore"]},
        "model": about["samcore.model"],
        "steps_of_training": study["source"]["step"],
        "images": arguments.images,
        "lanczos_steps": arguments.steps,
        "trace_samples": arguments.samples,
        "loss": {"samcore": study["loss"], "gradient_norm": study["gradient_norm"]},
        "results": results,
    }
    what["loss"]["pytorch_gradient_norm"] = float(loss.gradient(loss.w).norm())
    arguments.out.write_text(json.dumps(what, indent=1) + "\n")


if __name__ == "__main__":
    main()
