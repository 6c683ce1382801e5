"""A training step of a preset, and an equal one in PyTorch, each on random images.

PyTorch gets the same network and the same work: uint8 images gathered, shifted, mirrored and
shrunk, loss with label smoothing, Nesterov descent with decay in groups of parameters, or Muon of
the kernels, lookahead.
"""

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np

from experiments.cifar10.backend import current_backend, data_mesh
from experiments.cifar10.config import Config
from experiments.cifar10.data.augment import MEAN, STANDARD_DEVIATION
from experiments.cifar10.training.muon import ITERATIONS, QUINTIC
from experiments.cifar10.training.programs import TrainingPrograms

NUM_IMAGES = 8192
NUM_CLASSES = 10
# what PyTorch's step is written for
WRITTEN_FOR = {
    "network": "airbench",
    "convs": 2,
    "whiten": True,
    "cutout": 0,
    "loss": "cross_entropy",
}

Step = Callable[[], Any]


def not_written_for(config: Config) -> list[str]:
    """List the settings for which there is no equal step in PyTorch."""
    return [name for name, value in WRITTEN_FOR.items() if getattr(config, name) != value]


def images_and_labels() -> tuple[np.ndarray, np.ndarray]:
    """Make random images [N, 32, 32, 3] and labels."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (NUM_IMAGES, 32, 32, 3), dtype=np.uint8)
    return images, rng.integers(NUM_CLASSES, size=NUM_IMAGES, dtype=np.int32)


def xentjax_step(config: Config, side: int, *, train_whitening: bool) -> Step:
    """Make a step of the experiment's compiled training program; it returns the losses."""
    images, labels = images_and_labels()
    config = replace(
        config, image_sides=(side,), whiten_bias_epochs=1.0 if train_whitening else 0.0
    )
    mesh = data_mesh(config.batch_size)
    programs = TrainingPrograms(config, current_backend(), mesh, NUM_IMAGES, NUM_CLASSES)
    step, plan = programs.step(0), programs.plan_epoch(0, 0)
    data = programs.replicate(images), programs.replicate(labels), plan
    state = programs.initial_state(0, images)

    def take() -> Any:
        nonlocal state
        state, losses = programs.train_steps(state, *data, step=step, num_steps=1)
        return losses

    return take


def torch_step(
    torch: ModuleType,
    config: Config,
    side: int,
    *,
    train_whitening: bool,
    compiled: bool = False,
    autocast: bool = False,
) -> Step:
    """Make an equal step, written for PyTorch; it returns the loss.

    Args:
        torch: the package.
        config: settings for which `not_written_for` lists nothing.
        side: of the images in pixels.
        train_whitening: train the bias of the first layer.
        compiled: compile the augmentation and the network by `torch.compile`.
        autocast: compute the network's convolutions and products in bfloat16, by `torch.autocast`.
    """
    torch.manual_seed(0)
    network = _network(torch, config, train_whitening).to(memory_format=torch.channels_last)
    optimizers = [_descent(torch, config, network)]
    if _by_muon(config):
        optimizers.append(_muon(torch, config, network))
    images, labels = (torch.from_numpy(x) for x in images_and_labels())
    labels = labels.long()
    mean, deviation = (255 * torch.tensor(x) for x in (MEAN, STANDARD_DEVIATION))
    slow = {name: x.clone() for name, x in network.state_dict().items()}
    size, reach, mirrored = config.batch_size, config.shift, 0.5 if config.flip else 0.0
    count = 0

    def augmented(chosen: Any) -> Any:
        x = (images[chosen].float() - mean) / deviation
        x = torch.nn.functional.pad(x.permute(0, 3, 1, 2), (reach,) * 4, mode="reflect")
        positions = torch.arange(32)[None]
        rows = positions + torch.randint(0, 2 * reach + 1, (size, 1))
        columns = torch.where(torch.rand(size, 1) < mirrored, 31 - positions, positions)
        columns = columns + torch.randint(0, 2 * reach + 1, (size, 1))
        each = torch.arange(size)[:, None, None]
        x = x.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)
        if side != 32:
            x = torch.nn.functional.interpolate(x, (side, side), mode="bilinear", antialias=True)
        return x

    forward, augment = network, augmented
    if compiled:
        forward, augment = torch.compile(network), torch.compile(augmented)

    def take() -> float:
        nonlocal count
        chosen = torch.randint(0, NUM_IMAGES, (size,))
        y = labels[chosen]
        x = augment(chosen)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            logits = forward(x).float() / 9
        loss = torch.nn.functional.cross_entropy(
            logits, y, reduction="sum", label_smoothing=config.label_smoothing
        )
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        (logits.detach().argmax(1) == y).sum()
        count += 1
        if config.lookahead and count % 5 == 0:
            for name, x in network.state_dict().items():
                if x.is_floating_point():
                    slow[name].lerp_(x, 0.3)
                    x.copy_(slow[name])
        return float(loss.detach())

    return take


def _network(torch: ModuleType, config: Config, train_whitening: bool) -> Any:
    nn = torch.nn
    channels = 2 * config.whiten_components
    layers = [nn.Conv2d(3, channels, 2), nn.SiLU()]
    layers[0].weight.requires_grad_(False)
    layers[0].bias.requires_grad_(train_whitening)
    for width in config.widths:
        for inputs, pool in ((channels, [nn.MaxPool2d(2)]), (width, [])):
            convolution = nn.Conv2d(inputs, width, 3, padding=1, bias=False)
            norm = nn.BatchNorm2d(width, eps=1e-5, momentum=0.4)
            norm.weight.requires_grad_(False)
            layers += [convolution, *pool, norm, nn.SiLU()]
        channels = width
    layers += [nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(channels, NUM_CLASSES, bias=False)]
    return nn.Sequential(*layers)


def _descent(torch: ModuleType, config: Config, network: Any) -> Any:
    """Make Nesterov descent, at rates so small that the loss of random labels cannot overflow."""
    norms = [m.bias for m in network if isinstance(m, torch.nn.BatchNorm2d)]
    elsewhere = {id(p) for p in [*norms, *(_kernels(torch, network) if _by_muon(config) else ())]}
    others = [p for p in network.parameters() if p.requires_grad and id(p) not in elsewhere]
    groups = [
        {"params": norms, "lr": 64e-6, "weight_decay": 2e-2},
        {"params": others, "lr": 1e-6, "weight_decay": 1.3},
    ]
    return torch.optim.SGD(groups, lr=1e-6, momentum=config.momentum, nesterov=True)


def _muon(torch: ModuleType, config: Config, network: Any) -> Any:
    """Make `training.muon.muon` of the kernels, as matrices [D, C H W]."""
    a, b, c = QUINTIC

    def polynomial(square: Any) -> Any:
        result = b * square + c * square @ square
        result.diagonal().add_(a)
        return result

    class Muon(torch.optim.Optimizer):
        @torch.no_grad()
        def step(self) -> None:
            for kernel in self.param_groups[0]["params"]:
                gradient, state = kernel.grad, self.state[kernel]
                buffer = state.setdefault("momentum", torch.zeros_like(gradient))
                buffer.mul_(config.muon_momentum).add_(gradient)
                x = gradient.add(buffer, alpha=config.muon_momentum).flatten(1)
                x = x / (x.norm() + 1e-7)
                square = x @ x.T
                factors = polynomial(square)
                for _ in range(ITERATIONS - 1):
                    factors = factors @ polynomial(factors @ square @ factors)
                kernel.mul_(len(kernel) ** 0.5 / kernel.norm())
                kernel.add_((factors @ x).view_as(kernel), alpha=-1e-6)

    return Muon(_kernels(torch, network), {})


def _by_muon(config: Config) -> bool:
    return config.optimizer == "muon"


def _kernels(torch: ModuleType, network: Any) -> list[Any]:
    """Return the trained kernels of the convolutions."""
    convolutions = [m for m in network if isinstance(m, torch.nn.Conv2d)]
    return [each.weight for each in convolutions if each.weight.requires_grad]
