"""Both networks in PyTorch, with our names of parameters, and their triplet losses."""

import torch
from torch import nn
from torch.nn import functional as F

MARGIN = 0.3


class ConvBlock(nn.Module):
    def __init__(self, inputs, outputs, pool):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01)
        self.pool = pool

    def forward(self, x):
        x = self.norm(F.relu(self.conv(x)))
        return F.max_pool2d(x, 2) if self.pool else x


class Original(nn.Module):
    def __init__(self, dropout):
        super().__init__()
        self.block1 = ConvBlock(3, 32, True)
        self.block2 = ConvBlock(32, 64, True)
        self.block3 = ConvBlock(64, 128, False)
        self.hidden = nn.Linear(128, 256)
        self.output = nn.Linear(256, 128)
        self.dropout = nn.Dropout(0.3 if dropout else 0.0)

    def forward(self, x):
        x = self.block3(self.block2(self.block1(x))).mean((2, 3))
        return torch.tanh(self.output(self.dropout(F.relu(self.hidden(x)))))


class ResidualBlock(nn.Module):
    def __init__(self, inputs, outputs, pool):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None
        self.pool = pool

    def forward(self, x):
        normal = F.relu(self.norm1(x))
        around = self.shortcut(normal) if self.shortcut else x
        y = self.conv2(F.relu(self.norm2(self.conv1(normal)))) + around
        return F.max_pool2d(y, 2) if self.pool else y


class NormAverage(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x):
        return F.relu(self.norm(x)).mean((2, 3))


class Residual(nn.Module):
    def __init__(self, dropout):
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.block1 = ResidualBlock(32, 32, True)
        self.block2 = ResidualBlock(32, 64, True)
        self.block3 = ResidualBlock(64, 128, False)
        self.average = NormAverage(128)
        self.output = nn.Linear(128, 128)

    def forward(self, x):
        x = self.block3(self.block2(self.block1(self.stem(x))))
        return F.normalize(self.output(self.average(x)))


def build(name, dropout=True):
    return {"original": Original, "residual": Residual}[name](dropout)


def loss(name, embeddings):
    """Returns the triplet loss: drawn triplets for the original, all valid triplets of ten classes for the residual."""
    if name == "original":
        anchor, positive, negative = embeddings.chunk(3)
        near, far = (anchor - positive).norm(dim=1), (anchor - negative).norm(dim=1)
        return F.relu(near - far + MARGIN).mean()
    count = len(embeddings)
    labels = torch.arange(count) * 10 // count
    apart = (embeddings[:, None] - embeddings[None]).square().sum(2)
    # The square root has no gradient at 0, the distance of an image from itself.
    apart = torch.where(apart > 0, apart, torch.ones_like(apart)).sqrt() * (apart > 0)
    same = labels[:, None] == labels[None]
    others = ~torch.eye(count, dtype=torch.bool)
    valid = (same & others)[:, :, None] & ~same[:, None, :]
    losses = F.relu(apart[:, :, None] - apart[:, None, :] + MARGIN) * valid
    return losses.sum() / (losses > 0).sum().clamp(min=1)


def in_both_layouts(peer):
    """Returns `peer(layout, compiled)` for both memory layouts, by name, and the names of the compiled ones."""
    peers, compiled = {}, []
    for name, layout in [("NCHW", torch.contiguous_format), ("channels_last", torch.channels_last)]:
        peers[f"PyTorch {name}"] = peer(layout, False)
        label = f"PyTorch {name} compiled"
        try:
            peers[label] = peer(layout, True)
            compiled.append(label)
        except Exception as error:
            print(f"{label} does not work here: {str(error).splitlines()[0]}")
    return peers, compiled
