"""What the golden scripts share: samcore's random numbers and initial weights, images, how a fixture is saved."""

import gzip
import json
import math
import pathlib
import struct

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import nn

HERE = pathlib.Path(__file__).resolve().parent
DATA = HERE.parent.parent / "data" / "fashion-mnist"
MEAN, STD = 0.2860, 0.3530


# Random numbers: a port of src/rng.rs, many draws at a time.


def philox(counter: np.ndarray, key: tuple[int, int]) -> np.ndarray:
    """Ten rounds of Philox 4x32 on each row of `counter` [n, 4] (32-bit words held as uint64)."""
    low = np.uint64(0xFFFF_FFFF)
    c0, c1, c2, c3 = counter.T
    k0, k1 = key
    for _ in range(10):
        a, b = np.uint64(0xD251_1F53) * c0, np.uint64(0xCD9E_8D57) * c2
        c0, c1, c2, c3 = (b >> 32) ^ c1 ^ np.uint64(k0), b & low, (a >> 32) ^ c3 ^ np.uint64(k1), a & low
        k0, k1 = (k0 + 0x9E37_79B9) & 0xFFFF_FFFF, (k1 + 0xBB67_AE85) & 0xFFFF_FFFF
    return np.stack([c0, c1, c2, c3], axis=1)


def stream(name: str) -> int:
    """The number of a named stream: 32-bit FNV-1a."""
    number = 0x811C_9DC5
    for byte in name.encode():
        number = (number ^ byte) * 0x0100_0193 & 0xFFFF_FFFF
    return number


class Draws:
    """The draws of one (seed, stream, epoch, index), in order; a call takes the words behind the last one's."""

    def __init__(self, seed: int, stream: int, epoch: int = 0, index: int = 0):
        self.key = (seed & 0xFFFF_FFFF, seed >> 32)
        self.place = (index, epoch, stream)
        self.used = 0

    def words(self, n: int) -> np.ndarray:
        first, last = self.used // 4, -(-(self.used + n) // 4)
        counter = np.empty((last - first, 4), np.uint64)
        counter[:, 0] = np.arange(first, last)
        counter[:, 1:] = self.place
        skip = self.used - 4 * first
        self.used += n
        return philox(counter, self.key).reshape(-1)[skip : skip + n]

    def normal(self, n: int) -> np.ndarray:
        """Standard normal numbers (Box-Muller, the cosine branch), two words each."""
        # The C library's log and cos, which Rust calls too; numpy's own differ from them in the last bit.
        u, v = self.words(2 * n).astype(np.float64).reshape(n, 2).T
        return np.array(
            [
                math.sqrt(-2.0 * math.log((a + 0.5) / 2**32)) * math.cos(math.tau * (b / 2**32))
                for a, b in zip(u.tolist(), v.tolist())
            ]
        )

    def uniform(self, n: int, low: float, high: float) -> np.ndarray:
        """Uniform in [low, high), one word each."""
        return low + (high - low) * self.words(n).astype(np.float64) / 2**32


def check_philox():
    """The known answer of Random123 (`kat_vectors`, philox4x32 10) for a counter and key of zeros."""
    expected = [0x6627_E8D5, 0xE169_C58D, 0xBC57_AC4C, 0x9B00_DBD8]
    assert philox(np.zeros((1, 4), np.uint64), (0, 0))[0].tolist() == expected


check_philox()


# Fashion-MNIST.


def read_idx(path: pathlib.Path) -> np.ndarray:
    """The unsigned bytes of a gzipped IDX file, in the shape that its header states."""
    raw = gzip.decompress(path.read_bytes())
    zero, kind, dims = struct.unpack(">HBB", raw[:4])
    if zero != 0 or kind != 8:
        raise SystemExit(f"{path}: not an IDX file of unsigned bytes (it starts with {raw[:4].hex()})")
    shape = struct.unpack(f">{dims}I", raw[4 : 4 + 4 * dims])
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * dims).reshape(shape)


def fashion_mnist(part: str, folder: pathlib.Path = DATA) -> tuple[torch.Tensor, torch.Tensor]:
    """Images `[n, 1, 28, 28]` as bytes and labels `[n]` of `part`: "train" or "t10k"."""
    images = read_idx(folder / f"{part}-images-idx3-ubyte.gz")
    labels = read_idx(folder / f"{part}-labels-idx1-ubyte.gz")
    return torch.from_numpy(images.copy()).unsqueeze(1), torch.from_numpy(labels.astype(np.int64))


def noise(count: int, shape: tuple[int, int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Random bytes as images `[count, *shape]`, and labels of ten classes `[count]`."""
    size = math.prod(shape)
    images = Draws(0, stream("golden.images")).words(count * size) * np.uint64(256) >> np.uint64(32)
    labels = Draws(0, stream("golden.labels")).words(count) * np.uint64(10) >> np.uint64(32)
    return torch.from_numpy(images.astype(np.uint8)).view(count, *shape), torch.from_numpy(labels.astype(np.int64))


def normalise(images: torch.Tensor, mean: float = MEAN, std: float = STD) -> torch.Tensor:
    """Bytes to what the network reads: computed in float64 and rounded to float32, the precision of samcore's input."""
    return ((images.double() / 255 - mean) / std).float()


# Weights.


def initial_weights(model: nn.Module, seed: int) -> dict[str, np.ndarray]:
    """samcore's initial weights of `model` as float32, in samcore's own layout: convolutions `[co, k, k, ci]`, linear
    `[out, in]` with the inputs of `model.flattened` in the order (h, w, c).

    Convolutions are normal with variance 2 / fan_out (He et al., "Delving Deep into Rectifiers", ICCV 2015), linear
    layers uniform within 1 / sqrt(inputs); each parameter draws from the stream of its own name.
    """
    weights = {}
    for name, layer in model.named_modules():
        for kind, parameter in layer.named_parameters(recurse=False):
            draws, n = Draws(seed, stream(f"{name}.{kind}")), parameter.numel()
            match layer:
                case nn.Conv2d():
                    co, ci, k, _ = parameter.shape
                    values = (draws.normal(n) * math.sqrt(2 / (co * k * k))).reshape(co, k, k, ci)
                case nn.Linear() if kind == "bias" and getattr(model, "zero_bias", False):
                    values = np.zeros(parameter.shape)
                case nn.Linear():
                    bound = 1 / math.sqrt(layer.in_features)
                    values = draws.uniform(n, -bound, bound).reshape(parameter.shape)
                case _:
                    values = np.full(parameter.shape, 1.0 if kind == "weight" else 0.0)
            weights[f"{name}.{kind}"] = values.astype(np.float32)
    return weights


def to_torch(model: nn.Module, name: str, values: np.ndarray) -> torch.Tensor:
    """A parameter in samcore's layout as PyTorch's: KRSC to OIHW, flattened images from HWC to CHW order."""
    if values.ndim == 4:
        values = values.transpose(0, 3, 1, 2)
    elif shape := getattr(model, "flattened", {}).get(name):
        values = values.reshape(-1, *shape).transpose(0, 3, 1, 2).reshape(values.shape)
    return torch.from_numpy(np.ascontiguousarray(values))


# Fixtures.


def save_fixture(
    name: str, tensors: dict[str, torch.Tensor], metadata: dict[str, object], folder: pathlib.Path = HERE
):
    """Writes `name`.safetensors to `folder`, with `metadata` and the versions used as JSON under the one key
    "golden": safetensors writes several keys in an order that changes from run to run."""
    arrays = {key: tensor.detach().contiguous().numpy() for key, tensor in tensors.items()}
    versions = {"torch": torch.__version__, "numpy": np.__version__}
    path = folder / f"{name}.safetensors"
    save_file(arrays, path, {"golden": json.dumps(metadata | {"versions": versions})})
    path.chmod(0o644)
    print(f"{path.name}: {len(arrays)} tensors, {path.stat().st_size:,} bytes")
