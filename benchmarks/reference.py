"""The pieces of the benchmark as one writes them down first: simple, correct, and slow.

float32, contiguous tensors, images as PNG files read by Pillow through a DataLoader, a copy of a module
for every inner loop, autograd's own graph for second order. A test holds each to freelib's numbers.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset


class Block(nn.Module):
    """3x3 convolution, BatchNorm, ReLU, max-pool."""

    def __init__(self, channels_in: int, channels_out: int, batch_stats: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels_out, track_running_stats=not batch_stats)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.relu(self.norm(self.conv(x))), 2)


class Conv4(nn.Module):
    """Four blocks and a linear head."""

    def __init__(self, width: int, image_size: int, batch_stats: bool = False) -> None:
        super().__init__()
        self.encoder = nn.Sequential(*(Block(width if i else 3, width, batch_stats) for i in range(4)))
        self.head = nn.Linear(width * (image_size // 16) ** 2, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x).flatten(1))


class Generator(nn.Module):
    """The public release's generator."""

    def __init__(self, image_size: int, z_dim: int, ngf: int) -> None:
        super().__init__()
        self.side, self.ngf = image_size // 4, ngf
        self.project = nn.Linear(z_dim, 2 * ngf * self.side**2)
        self.norm0 = nn.BatchNorm2d(2 * ngf, track_running_stats=False)
        self.conv1 = nn.Conv2d(2 * ngf, 2 * ngf, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(2 * ngf, track_running_stats=False)
        self.conv2 = nn.Conv2d(2 * ngf, ngf, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(ngf, track_running_stats=False)
        self.to_pixels = nn.Conv2d(ngf, 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.norm0(self.project(z).view(len(z), 2 * self.ngf, self.side, self.side))
        x = F.leaky_relu(self.norm1(self.conv1(F.interpolate(x, scale_factor=2))), 0.2)
        x = F.leaky_relu(self.norm2(self.conv2(F.interpolate(x, scale_factor=2))), 0.2)
        return torch.sigmoid(self.to_pixels(x))


def read(path: Path) -> Tensor:
    """An image file as float `(3, H, W)` in [0, 1]."""
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


class Files(Dataset):
    """Image files with their labels."""

    def __init__(self, files: list[Path], labels: list[int]) -> None:
        self.files, self.labels = files, labels

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return read(self.files[i]), self.labels[i]


def augment(images: Tensor, rng: torch.Generator, padding: int = 4) -> Tensor:
    """Random crop and flip, image by image."""
    n, _, height, width = images.shape
    tops, lefts = torch.randint(0, 2 * padding + 1, (2, n), generator=rng).tolist()
    mirrored = (torch.rand(n, generator=rng) < 0.5).tolist()
    out = []
    for image, top, left, mirror in zip(F.pad(images, [padding] * 4), tops, lefts, mirrored, strict=True):
        crop = image[:, top : top + height, left : left + width]
        out.append(crop.flip(2) if mirror else crop)
    return torch.stack(out)


class Reference:
    """The four pieces on the benchmark's inputs, `studies.benchmark.Work`."""

    def __init__(self, work: Any) -> None:
        self.work, size = work, work.size
        self.teacher = Conv4(size.width, size.image_size)
        self.teacher.load_state_dict(work.teachers[0].module.state_dict())
        self.teacher.eval()
        self.student = Conv4(size.width, size.image_size, batch_stats=True)
        self.student.load_state_dict(work.student.backbone.state_dict())
        self.generator = Generator(size.image_size, work.inversion.z_dim, size.ngf)
        self.generator.load_state_dict(work.start.state_dict())
        self.mean = torch.tensor(work.student.transform.mean).view(3, 1, 1)
        self.std = torch.tensor(work.student.transform.std).view(3, 1, 1)

    def normalise(self, images: Tensor) -> Tensor:
        """From [0, 1] to a network's input."""
        return (images - self.mean) / self.std

    def pretraining(self) -> nn.Module:
        """One epoch of Adam, images from files."""
        n, per_class = len(self.work.images), len(self.work.images) // 20
        files = [self.work.file(i // per_class, i % per_class) for i in range(n)]
        order = torch.randperm(n, generator=torch.Generator().manual_seed(1))
        batches = [rows.tolist() for rows in order.tensor_split(-(-n // 128))]
        net = copy.deepcopy(self.teacher).train()
        adam = torch.optim.Adam(net.parameters(), lr=0.01)
        labels = [i // per_class % 5 for i in range(n)]
        for images, targets in DataLoader(Files(files, labels), batch_sampler=batches):
            loss = F.cross_entropy(net(self.normalise(images)), targets)
            adam.zero_grad()
            loss.backward()
            adam.step()
        return net.eval()

    def recovery(self) -> tuple[Tensor, list[Tensor]]:
        """Five steps on a copy of the generator and on z; the images go to files."""
        config, rng = self.work.inversion, torch.Generator().manual_seed(1)
        labels = torch.arange(5).repeat_interleave(config.images_per_class)
        z = torch.randn(len(labels), config.z_dim, generator=rng).requires_grad_()
        generator = copy.deepcopy(self.generator)
        adam = torch.optim.Adam([*generator.parameters(), z], lr=config.generator_lr, betas=(0.5, 0.999))
        for step in range(config.adapt_steps):
            images = generator(z)
            x = self.normalise(augment(images, rng))
            teacher, student = self.teacher(x), self.student(x)
            kl = F.kl_div(student.log_softmax(1), teacher.log_softmax(1), log_target=True, reduction="none")
            agree = teacher.argmax(1) == student.argmax(1)
            loss = F.cross_entropy(teacher, labels) - config.lambda_adv * (kl.sum(1) * agree).mean()
            adam.zero_grad()
            loss.backward()
            if step < config.adapt_steps - 1:
                adam.step()
        for i, image in enumerate(images.detach().mul(255).round().byte().permute(0, 2, 3, 1).numpy()):
            Image.fromarray(image).save(self.work.folder / f"recovered_{i:04d}.png")
        return images.detach(), [p.grad for p in generator.parameters()]

    def replay(self) -> list[Tensor]:
        """MAML through five steps on images from files, the graph kept."""
        rng, size = torch.Generator().manual_seed(1), self.work.size
        torch.randint(1, (1,), generator=rng)
        classes = torch.randperm(20, generator=rng)[:5].tolist()
        groups = []
        for c in classes:
            rows = torch.randperm(self.work.remembered, generator=rng)[: 1 + size.n_query].tolist()
            groups.append(torch.stack([read(self.work.file(c, row)) for row in rows]))
        support = self.normalise(torch.cat([group[:1] for group in groups]))
        query = self.normalise(torch.cat([group[1:] for group in groups]))
        start = dict(self.student.named_parameters())
        params = start
        for _ in range(5):
            logits = torch.func.functional_call(self.student, params, (support,))
            loss = F.cross_entropy(logits, torch.arange(5))
            gradients = torch.autograd.grad(loss, list(params.values()), create_graph=True)
            params = {n: p - 0.01 * g for (n, p), g in zip(params.items(), gradients, strict=True)}
        logits = torch.func.functional_call(self.student, params, (query,))
        loss = F.cross_entropy(logits, torch.arange(5).repeat_interleave(size.n_query))
        return list(torch.autograd.grad(loss, list(start.values())))

    def test(self) -> Tensor:
        """Ten steps of gradient descent on a copy of the student, images from files."""
        per_class = len(self.work.images) // 20
        groups = [
            torch.stack([read(self.work.file(row // per_class, row % per_class)) for row in rows])
            for rows in self.work.sampler.indices(0).tolist()
        ]
        support = self.normalise(torch.cat([group[:1] for group in groups]))
        query = self.normalise(torch.cat([group[1:] for group in groups]))
        net = copy.deepcopy(self.student)
        sgd = torch.optim.SGD(net.parameters(), lr=0.01)
        for _ in range(10):
            loss = F.cross_entropy(net(support), torch.arange(5))
            sgd.zero_grad()
            loss.backward()
            sgd.step()
        with torch.no_grad():
            return net(query)
