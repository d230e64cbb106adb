"""The networks that both PyTorch peers time."""
import common
from torch import nn
from torch.nn import functional as F


def conv(inputs, outputs, kernel, stride=1):
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


def cnn():
    layers = []
    for inputs, outputs, pool in ((1, 32, False), (32, 32, True), (32, 64, False), (64, 64, True)):
        layers += [conv(inputs, outputs, 3), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
        layers += [nn.MaxPool2d(2)] if pool else []
    head = [nn.Flatten(), nn.Linear(3136, 128), nn.ReLU(inplace=True), nn.Linear(128, 10)]
    return nn.Sequential(*layers, *head)


class Wide(nn.Module):
    """A pre-activation block; where the shape changes, the shortcut is a 1x1 convolution of the activated input."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), conv(inputs, outputs, 3, stride)
        self.norm2, self.conv2 = nn.BatchNorm2d(outputs), conv(outputs, outputs, 3)
        self.shortcut = conv(inputs, outputs, 1, stride) if inputs != outputs or stride > 1 else None

    def forward(self, x):
        active = F.relu(self.norm1(x), inplace=True)
        x = x if self.shortcut is None else self.shortcut(active)
        return x + self.conv2(F.relu(self.norm2(self.conv1(active)), inplace=True))


def wide_resnet(model):
    blocks = [Wide(inputs, outputs, stride) for _, inputs, outputs, stride in common.wide_blocks(model)]
    width = blocks[-1].conv2.out_channels
    tail = [nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)]
    return nn.Sequential(conv(3, 16, 3), *blocks, *tail)


def build(model):
    return cnn() if model == "cnn" else wide_resnet(model)
