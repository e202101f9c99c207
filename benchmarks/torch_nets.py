"""The networks of resnet.py as modules of plain torch, as one writes them there."""

import torch
from torch import nn


def resnet(depth=20, width=16, num_classes=10):
    """The CIFAR ResNet of He et al., 2016, from images (batch, 3, height, width) to logits."""
    blocks, channels = [], width
    for stage in range(3):
        for block in range((depth - 2) // 6):
            filters = width * 2**stage
            blocks.append(Block(channels, filters, 2 if stage and not block else 1))
            channels = filters
    stem = [_conv(3, width, 3, 1), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*stem, *blocks, *_head(channels, num_classes))


def wide_resnet(depth=16, width=4, num_classes=10):
    """WRN-depth-width of Zagoruyko and Komodakis, 2016."""
    blocks, channels = [], 16
    for stage in range(3):
        for block in range((depth - 4) // 6):
            filters = 16 * width * 2**stage
            blocks.append(PreActivationBlock(channels, filters, 2 if stage and not block else 1))
            channels = filters
    end = [nn.BatchNorm2d(channels), nn.ReLU()]
    return nn.Sequential(_conv(3, 16, 3, 1), *blocks, *end, *_head(channels, num_classes))


class Block(nn.Module):
    def __init__(self, channels, filters, strides):
        super().__init__()
        self.body = nn.Sequential(
            _conv(channels, filters, 3, strides),
            nn.BatchNorm2d(filters),
            nn.ReLU(),
            _conv(filters, filters, 3, 1),
            nn.BatchNorm2d(filters),
        )
        self.shortcut = nn.Identity()
        if channels != filters:
            self.shortcut = nn.Sequential(_conv(channels, filters, 1, strides), nn.BatchNorm2d(filters))

    def forward(self, x):
        return torch.relu(self.body(x) + self.shortcut(x))


class PreActivationBlock(nn.Module):
    def __init__(self, channels, filters, strides):
        super().__init__()
        self.active = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())
        self.body = nn.Sequential(
            _conv(channels, filters, 3, strides), nn.BatchNorm2d(filters), nn.ReLU(), _conv(filters, filters, 3, 1)
        )
        self.shortcut = None if channels == filters else _conv(channels, filters, 1, strides)

    def forward(self, x):
        y = self.active(x)
        return self.body(y) + (x if self.shortcut is None else self.shortcut(y))


def _conv(channels, filters, size, strides):
    return nn.Conv2d(channels, filters, size, strides, padding=size // 2, bias=False)


def _head(channels, num_classes):
    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes)
