"""The zoo as PyTorch knows it: loads an exported model, and runs or times it.

    python3 tests/python/zoo.py check MODEL.safetensors PROBE.json
    python3 tests/python/zoo.py time --model resnet18-gn --size 28 --batch 16

How an export becomes a PyTorch model: every tensor has the name and the shape that it has here.

- resnet18-gn: torchvision's `resnet18` with `GroupNorm(32, ...)` for each `BatchNorm2d`.
- densenet121-gn: torchvision's `densenet121` with the same.
- vit-tiny: timm's `vit_tiny_patch16_224` with `patch_size` 4 up to 40 pixels to a side, 8 up to 128,
  and 16 above.
- Up to 40 pixels to a side, the first convolution of the two former has a 3x3 window, stride 1 and
  padding 1, and no pooling follows it.
- The others have no counterpart; they are written out below.

`check` compares the scores of PROBE.json (`arch`, `classes`, `input` [channels, depth, height, width],
`images`, `scores`) with those that PyTorch computes. It exits with 3 when torch, or what else
the model needs, is not installed.
"""

import argparse
import importlib
import json
import sys
import time

try:
    import torch
    from torch import nn
except ImportError:
    print("torch is not installed", file=sys.stderr)
    sys.exit(3)

FULL_RESOLUTION = 40


def group_norm(module, groups=32):
    """Each batch normalisation becomes a group normalisation."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, nn.GroupNorm(groups, child.num_features))
        else:
            group_norm(child, groups)
    return module


def stem(channels, full):
    if full:
        return nn.Conv2d(channels, 64, 3, 1, 1, bias=False)
    return nn.Conv2d(channels, 64, 7, 2, 3, bias=False)


class Plain(nn.Module):
    """cnn-tiny and cnn-small: convolutions one after the other."""

    def __init__(self, blocks, channels, classes, full):
        super().__init__()
        for index, (name, out, stride, groups) in enumerate(blocks):
            stride = (1 if full else 2) if index == 0 else stride
            block = nn.Module()
            block.conv = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
            block.norm = nn.GroupNorm(groups, out)
            setattr(self, name, block)
            channels = out
        self.order = [name for name, *_ in blocks]
        self.head = nn.Linear(2 * channels, classes)

    def forward(self, x):
        for name in self.order:
            block = getattr(self, name)
            x = torch.relu(block.norm(block.conv(x)))
        return self.head(torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1))


class Twice(nn.Module):
    """Two convolutions of a U-shaped network."""

    def __init__(self, conv, channels, out, stride):
        super().__init__()
        groups = min(8, out // 2)
        self.conv1 = conv(channels, out, 3, stride, 1, bias=False)
        self.norm1 = nn.GroupNorm(groups, out)
        self.conv2 = conv(out, out, 3, 1, 1, bias=False)
        self.norm2 = nn.GroupNorm(groups, out)

    def forward(self, x):
        x = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(x)))


class Unet(nn.Module):
    """unet2d and unet3d."""

    def __init__(self, solid, channels, classes):
        super().__init__()
        widths = [8, 16, 32, 64] if solid else [16, 32, 64, 128]
        conv, up = (nn.Conv3d, nn.ConvTranspose3d) if solid else (nn.Conv2d, nn.ConvTranspose2d)
        self.encoder, self.decoder = nn.ModuleDict(), nn.ModuleDict()
        for level, out in enumerate(widths):
            self.encoder[str(level)] = Twice(conv, channels, out, 1 if level == 0 else 2)
            channels = out
        for level in reversed(range(3)):
            block = Twice(conv, 2 * widths[level], widths[level], 1)
            block.up = up(widths[level + 1], widths[level], 2, 2, bias=False)
            self.decoder[str(level)] = block
        self.head = conv(widths[0], classes, 1)

    def forward(self, x):
        seen = []
        for level in range(4):
            x = self.encoder[str(level)](x)
            seen.append(x)
        for level in reversed(range(3)):
            block = self.decoder[str(level)]
            x = block(torch.cat([seen[level], block.up(x)], 1))
        return self.head(x)


def wanted(name):
    try:
        return importlib.import_module(name)
    except ImportError:
        print(f"{name} is not installed", file=sys.stderr)
        sys.exit(3)


def build(arch, channels, height, width, classes):
    side = max(height, width)
    full = side <= FULL_RESOLUTION
    tiny = [("stem", 16, 1, 4), ("block1", 32, 2, 8), ("block2", 32, 2, 8)]
    small = [
        ("stem", 16, 1, 4),
        ("block1", 32, 2, 8),
        ("block2", 32, 1, 8),
        ("block3", 64, 2, 8),
        ("block4", 64, 1, 8),
    ]
    if arch == "cnn-tiny":
        return Plain(tiny, channels, classes, full)
    if arch == "cnn-small":
        return Plain(small, channels, classes, full)
    if arch in ("unet2d", "unet3d"):
        return Unet(arch == "unet3d", channels, classes)
    if arch == "vit-tiny":
        timm = wanted("timm")
        patch = 4 if full else 8 if side <= 128 else 16
        return timm.create_model(
            "vit_tiny_patch16_224",
            patch_size=patch,
            img_size=(height, width),
            in_chans=channels,
            num_classes=classes,
        )
    torchvision = wanted("torchvision")
    if arch == "resnet18-gn":
        model = torchvision.models.resnet18(num_classes=classes)
        model.conv1 = stem(channels, full)
        if full:
            model.maxpool = nn.Identity()
    elif arch == "densenet121-gn":
        model = torchvision.models.densenet121(num_classes=classes)
        model.features.conv0 = stem(channels, full)
        if full:
            model.features.pool0 = nn.Identity()
    else:
        sys.exit(f"no such model: {arch}")
    return group_norm(model)


def check(arguments):
    load_file = wanted("safetensors.torch").load_file
    with open(arguments.probe) as file:
        probe = json.load(file)
    channels, depth, height, width = probe["input"]
    model = build(probe["arch"], channels, height, width, probe["classes"])
    model.load_state_dict(load_file(arguments.model), strict=True)
    model.eval()
    shape = (-1, channels, depth, height, width) if depth > 1 else (-1, channels, height, width)
    with torch.no_grad():
        scores = model(torch.tensor(probe["images"]).reshape(shape))
    # Classes last, as here.
    scores = scores.flatten(2).transpose(1, 2) if scores.dim() > 2 else scores
    ours = torch.tensor(probe["scores"])
    apart = (scores.flatten() - ours).norm() / ours.norm()
    print(json.dumps({"arch": probe["arch"], "apart": apart.item()}))
    sys.exit(0 if apart < 1e-4 else 1)


def measure(arguments):
    torch.set_num_threads(1)
    torch.manual_seed(1)
    size = arguments.size
    depth = size if arguments.model == "unet3d" else 1
    model = build(arguments.model, 1, size, size, 2)
    shape = (arguments.batch, 1) + ((depth,) if depth > 1 else ()) + (size, size)
    images = torch.randn(shape)
    segments = arguments.model.startswith("unet")
    classes = torch.randint(0, 2, (arguments.batch,) + (shape[2:] if segments else ()))
    taken = []
    for repeat in range(arguments.repeats + 1):
        begun = time.process_time()
        model.zero_grad()
        nn.functional.cross_entropy(model(images), classes).backward()
        taken.append(time.process_time() - begun)
    # The first pays for pages.
    median = sorted(taken[1:])[arguments.repeats // 2]
    line = {"model": arguments.model, "size": size, "batch": arguments.batch}
    print(json.dumps(line | {"samples_per_cpu_second": arguments.batch / median}))


def main():
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(required=True)
    checking = commands.add_parser("check")
    checking.add_argument("model")
    checking.add_argument("probe")
    checking.set_defaults(run=check)
    timing = commands.add_parser("time")
    timing.add_argument("--model", default="resnet18-gn")
    timing.add_argument("--size", type=int, default=28)
    timing.add_argument("--batch", type=int, default=16)
    timing.add_argument("--repeats", type=int, default=7)
    timing.set_defaults(run=measure)
    arguments = parser.parse_args()
    arguments.run(arguments)


main()
