"""samcore's models in PyTorch, with the names that their checkpoints have.

Every ReLU and pool that decides by comparing values is a module, so that `steps.py` can watch its inputs.
"""

import torch
from torch import nn


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
        case [word] if word.startswith("resnet"):
            return CifarResNet(int(word.removeprefix("resnet")), **sizes)
    raise SystemExit(f"there is no PyTorch model for '{name}' here")
