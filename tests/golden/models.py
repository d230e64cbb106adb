"""samcore's models in PyTorch, with the names that their checkpoints have.

Every ReLU and pool that decides by comparing values is a module, so that `steps.py` can watch its inputs.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from common import Draws, stream


class Cnn(nn.Module):
    """samcore's `cnn`: four 3x3 convolutions with batch-norm and two linear layers; 468,010 parameters for 1x28x28."""

    # Linear weights whose inputs are images, as (h, w, c): samcore has them in that order, PyTorch in c, h, w.
    flattened = {"fc1.weight": (7, 7, 64)}

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 32, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(32)
        self.conv3 = nn.Conv2d(32, 64, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(64)
        self.conv4 = nn.Conv2d(64, 64, 3, padding=1, bias=False)
        self.bn4 = nn.BatchNorm2d(64)
        self.fc1 = nn.Linear(64 * 7 * 7, 128)
        self.fc2 = nn.Linear(128, 10)
        self.relu, self.pool = nn.ReLU(), nn.MaxPool2d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.pool(self.relu(self.bn2(self.conv2(x))))
        x = self.relu(self.bn3(self.conv3(x)))
        x = self.pool(self.relu(self.bn4(self.conv4(x))))
        x = self.relu(self.fc1(x.flatten(1)))
        return self.fc2(x)


def conv(inputs: int, outputs: int, k: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, k, stride, padding=k // 2, bias=False)


class WideBlock(nn.Module):
    """BN-ReLU-conv-BN-ReLU-conv; the shortcut reads the activated input where it is a convolution."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv(inputs, outputs, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), conv(outputs, outputs, 3)
        self.convShortcut = conv(inputs, outputs, 1, stride) if inputs != outputs else None
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.relu(self.bn1(x))
        h = self.conv2(self.relu(self.bn2(self.conv1(a))))
        return h + (x if self.convShortcut is None else self.convShortcut(a))


class WideStage(nn.Module):
    def __init__(self, inputs: int, outputs: int, blocks: int, stride: int):
        super().__init__()
        first, rest = WideBlock(inputs, outputs, stride), (WideBlock(outputs, outputs, 1) for _ in range(blocks - 1))
        self.layer = nn.Sequential(first, *rest)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


class WideResNet(nn.Module):
    """`wrn-D-K` (Zagoruyko and Komodakis 2016), without dropout, with the names of xternalz/WideResNet-pytorch."""

    # The last layer's bias begins at 0.
    zero_bias = True

    def __init__(self, depth: int, width: int, channels: int = 3, classes: int = 10):
        super().__init__()
        blocks = (depth - 4) // 6
        self.conv1 = conv(channels, 16, 3)
        self.block1 = WideStage(16, 16 * width, blocks, 1)
        self.block2 = WideStage(16 * width, 32 * width, blocks, 2)
        self.block3 = WideStage(32 * width, 64 * width, blocks, 2)
        self.bn1, self.relu = nn.BatchNorm2d(64 * width), nn.ReLU()
        self.fc = nn.Linear(64 * width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(self.relu(self.bn1(x)).mean((2, 3)))


class Block(nn.Module):
    """torchvision's BasicBlock (`widening` None) or Bottleneck, whose stride is its 3x3 convolution's."""

    def __init__(self, inputs: int, channels: int, stride: int, widening: int | None):
        super().__init__()
        if widening is None:
            layers = [(channels, 3, stride), (channels, 3, 1)]
        else:
            layers = [(widening * channels, 1, 1), (widening * channels, 3, stride), (4 * channels, 1, 1)]
        self.depth, last = len(layers), inputs
        for n, (outputs, k, step) in enumerate(layers, start=1):
            setattr(self, f"conv{n}", conv(last, outputs, k, step))
            setattr(self, f"bn{n}", nn.BatchNorm2d(outputs))
            last = outputs
        self.downsample = None
        if stride != 1 or inputs != last:
            self.downsample = nn.Sequential(conv(inputs, last, 1, stride), nn.BatchNorm2d(last))
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x
        for n in range(1, self.depth + 1):
            h = getattr(self, f"bn{n}")(getattr(self, f"conv{n}")(h))
            h = self.relu(h) if n < self.depth else h
        return self.relu(h + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """torchvision's ResNets: `resnet18` and `resnet34` with a 3x3 stem unless `large`, bottlenecks with ImageNet's."""

    def __init__(
        self,
        blocks: tuple[int, ...],
        widening: int | None = None,
        base: int = 64,
        channels: int = 3,
        classes: int = 10,
        large: bool = False,
    ):
        super().__init__()
        large = large or widening is not None
        self.conv1 = conv(channels, base, 7, 2) if large else conv(channels, base, 3)
        self.bn1, self.relu = nn.BatchNorm2d(base), nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1) if large else nn.Identity()
        self.stages, last, expansion = len(blocks), base, 1 if widening is None else 4
        for stage, count in enumerate(blocks):
            layer = []
            for i in range(count):
                layer.append(Block(last, base << stage, 2 if stage and not i else 1, widening))
                last = expansion * (base << stage)
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layer))
        self.fc = nn.Linear(last, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in range(1, self.stages + 1):
            x = getattr(self, f"layer{stage}")(x)
        return self.fc(x.mean((2, 3)))


class CifarBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut without parameters (option A): every second pixel, and zeros for half of
    the new channels in front and half behind."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = conv(outputs, outputs, 3), nn.BatchNorm2d(outputs)
        self.stride, self.new, self.relu = stride, (outputs - inputs) // 2, nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        x = x[:, :, :: self.stride, :: self.stride]
        return self.relu(h + nn.functional.pad(x, (0, 0, 0, 0, self.new, self.new)))


class CifarResNet(nn.Module):
    """`resnet20` and so on (He et al. 2016, section 4.2), with the names of akamaster/pytorch_resnet_cifar10."""

    def __init__(self, depth: int, channels: int = 3, classes: int = 10):
        super().__init__()
        self.conv1, self.bn1, self.relu = conv(channels, 16, 3), nn.BatchNorm2d(16), nn.ReLU()
        last = 16
        for stage in range(3):
            layer = []
            for i in range((depth - 2) // 6):
                layer.append(CifarBlock(last, 16 << stage, 2 if stage and not i else 1))
                last = 16 << stage
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layer))
        self.linear = nn.Linear(64, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


class Mixed(torch.autograd.Function):
    """a x1 + (1 - a) x2, whose gradients are b dy and (1 - b) dy."""

    @staticmethod
    def forward(ctx, x1: torch.Tensor, x2: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(b)
        return a * x1 + (1 - a) * x2

    @staticmethod
    def backward(ctx, dy: torch.Tensor):
        (b,) = ctx.saved_tensors
        return b * dy, (1 - b) * dy, None, None


class Scaled(torch.autograd.Function):
    """forth x, whose gradient is back dy."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, forth: torch.Tensor, back: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(back)
        return forth * x

    @staticmethod
    def backward(ctx, dy: torch.Tensor):
        (back,) = ctx.saved_tensors
        return back * dy, None, None


class Drawing(nn.Module):
    """A layer that draws for each image of a batch what samcore draws with seed 0 in epoch 0: by the stream of its own
    dotted name, `stream`, and the image's position in the epoch, which is `first` for the first one."""

    stream, first = 0, 0

    def draws(self, x: torch.Tensor) -> torch.Tensor:
        """Three numbers in [0, 1) for each image of `x`, in steps of 2^-24, as `[3, n, 1, 1, 1]`."""
        words = [Draws(0, self.stream, 0, self.first + row).words(3) for row in range(len(x))]
        units = torch.from_numpy((np.stack(words) >> np.uint64(8)).astype(np.float64) / 2**24)
        return units.T.to(x.dtype).reshape(3, -1, 1, 1, 1)


class Shake(Drawing):
    """Shake-Shake's mixture of two branches, drawn for each image."""

    def forward(self, x1: torch.Tensor, x2: torch.Tensor) -> torch.Tensor:
        a, b, _ = self.draws(x1)
        return Mixed.apply(x1, x2, a, b) if self.training else (x1 + x2) / 2


class ShakeDrop(Drawing):
    """ShakeDrop of a branch that stays as it is at probability `p`, drawn for each image."""

    def __init__(self, p: float):
        super().__init__()
        self.p = float(np.float32(p))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return self.p * x
        a, b, chance = self.draws(x)
        d, a = (chance < self.p).to(x.dtype), 2 * a - 1
        return Scaled.apply(x, d + a - d * a, d + b - d * b)


def name_streams(model: nn.Module):
    """Gives each layer that draws the stream of its name."""
    for name, layer in model.named_modules():
        if isinstance(layer, Drawing):
            layer.stream = stream(name)


def begin_at(model: nn.Module, first: int):
    """Says that the next batch begins at position `first` of the epoch."""
    for layer in model.modules():
        if isinstance(layer, Drawing):
            layer.first = first


class ShakeShortcut(nn.Module):
    """Two paths, the second of the image moved right and down by one pixel (xgastaldi/shake-shake), side by side."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1, self.conv2 = conv(inputs, outputs // 2, 1), conv(inputs, outputs // 2, 1)
        self.bn, self.relu, self.stride = nn.BatchNorm2d(outputs), nn.ReLU(), stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, step = self.relu(x), self.stride
        moved = F.pad(x, (1, -1, 1, -1))
        paths = self.conv1(x[:, :, ::step, ::step]), self.conv2(moved[:, :, ::step, ::step])
        return self.bn(torch.cat(paths, 1))


class ShakeBlock(nn.Module):
    """Two branches ReLU-conv-BN-ReLU-conv-BN, mixed at random, beside the identity or the shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.branch1, self.branch2 = (self.branch(inputs, outputs, stride) for _ in range(2))
        self.shake = Shake()
        self.shortcut = ShakeShortcut(inputs, outputs, stride) if inputs != outputs else nn.Identity()

    @staticmethod
    def branch(inputs: int, outputs: int, stride: int) -> nn.Sequential:
        first = nn.ReLU(), conv(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs)
        return nn.Sequential(*first, nn.ReLU(), conv(outputs, outputs, 3), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.shortcut(x) + self.shake(self.branch1(x), self.branch2(x))


class ShakeShake(nn.Module):
    """`shake-shake-D-2xWd` (Gastaldi 2017), with the names of owruby/shake-shake_pytorch and `bn_in` behind the stem."""

    # The last layer's bias begins at 0.
    zero_bias = True

    def __init__(self, depth: int, width: int, channels: int = 3, classes: int = 10):
        super().__init__()
        self.c_in, self.bn_in, self.relu = conv(channels, 16, 3), nn.BatchNorm2d(16), nn.ReLU()
        last = 16
        for stage in range(3):
            layer = []
            for i in range((depth - 2) // 6):
                layer.append(ShakeBlock(last, width << stage, 2 if stage and not i else 1))
                last = width << stage
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layer))
        self.fc_out = nn.Linear(last, classes)
        name_streams(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer3(self.layer2(self.layer1(self.bn_in(self.c_in(x)))))
        return self.fc_out(self.relu(x).mean((2, 3)))


class PyramidBlock(nn.Module):
    """BN-conv-BN-ReLU-conv-BN (bottleneck: one ReLU-conv-BN more), beside the mean of 2x2 pixels and channels of zeros."""

    def __init__(self, inputs: int, width: int, stride: int, bottleneck: bool, kept: float | None):
        super().__init__()
        layers = [(width, 3, stride), (width, 3, 1)]
        if bottleneck:
            layers = [(width, 1, 1), (width, 3, stride), (4 * width, 1, 1)]
        self.depth, self.bn1, last = len(layers), nn.BatchNorm2d(inputs), inputs
        for n, (outputs, k, step) in enumerate(layers, start=1):
            setattr(self, f"conv{n}", conv(last, outputs, k, step))
            setattr(self, f"bn{n + 1}", nn.BatchNorm2d(outputs))
            last = outputs
        self.shake_drop = nn.Identity() if kept is None else ShakeDrop(kept)
        self.pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.new, self.outputs, self.relu = last - inputs, last, nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.bn1(x)
        for n in range(1, self.depth + 1):
            h = getattr(self, f"bn{n + 1}")(getattr(self, f"conv{n}")(h))
            h = self.relu(h) if n < self.depth else h
        return F.pad(self.pool(x), (0, 0, 0, 0, 0, self.new)) + self.shake_drop(h)


class PyramidNet(nn.Module):
    """`pyramidnet-D-aA` (Han, Kim and Kim 2017), with the names of dyhan0920/PyramidNet-PyTorch."""

    def __init__(
        self,
        depth: int,
        alpha: int,
        bottleneck: bool = False,
        shake_drop: bool = False,
        channels: int = 3,
        classes: int = 10,
    ):
        super().__init__()
        self.conv1, self.bn1 = conv(channels, 16, 3), nn.BatchNorm2d(16)
        each = (depth - 2) // (9 if bottleneck else 6)
        count, last = 3 * each, 16
        for stage in range(3):
            layer = []
            for i in range(each):
                number = stage * each + i + 1
                width = round(16 + alpha * number / count)
                kept = 1 - 0.5 * number / count if shake_drop else None
                layer.append(PyramidBlock(last, width, 2 if stage and not i else 1, bottleneck, kept))
                last = layer[-1].outputs
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layer))
        self.bn_final, self.relu_final = nn.BatchNorm2d(last), nn.ReLU()
        self.fc = nn.Linear(last, classes)
        name_streams(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer3(self.layer2(self.layer1(self.bn1(self.conv1(x)))))
        return self.fc(self.relu_final(self.bn_final(x)).mean((2, 3)))


def by_name(name: str, channels: int, classes: int) -> nn.Module:
    """The PyTorch model of a samcore model's name."""
    sizes = {"channels": channels, "classes": classes}
    match name.split("-"):
        case ["cnn"]:
            return Cnn()
        case ["wrn", depth, width]:
            return WideResNet(int(depth), int(width), **sizes)
        case ["resnet18"]:
            return ResNet((2, 2, 2, 2), **sizes)
        case ["resnet34"]:
            return ResNet((3, 4, 6, 3), **sizes)
        case ["resnet18", "imagenet"]:
            return ResNet((2, 2, 2, 2), large=True, **sizes)
        case ["resnet34", "imagenet"]:
            return ResNet((3, 4, 6, 3), large=True, **sizes)
        case ["wide_resnet50_2"]:
            return ResNet((3, 4, 6, 3), widening=2, **sizes)
        case ["shake", "shake", depth, width]:
            return ShakeShake(int(depth), int(width.removeprefix("2x").removesuffix("d")), **sizes)
        case ["pyramidnet", depth, alpha, *more]:
            kind = {"bottleneck": "bottleneck" in more, "shake_drop": "shakedrop" in more}
            return PyramidNet(int(depth), int(alpha.removeprefix("a")), **kind, **sizes)
        case [word] if word.startswith("resnet"):
            return CifarResNet(int(word.removeprefix("resnet")), **sizes)
    raise SystemExit(f"there is no PyTorch model for '{name}' here")
