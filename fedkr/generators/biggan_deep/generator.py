"""``biggan_deep``: a reconstruction of KR's generator, which is unpublished, from its ancestor GaFi (arXiv 2305.10118).

GaFi's recipe is BigGAN-deep with hinge loss, three discriminator steps for each of the generator's, a small learning
rate and a moving average of the weights that starts late, for hundreds of epochs. All of these are options, and the
defaults are for minutes on processors; the YAML file says GaFi's own values.
The knob is the standard deviation ``sigma`` of the latent at sampling: GaFi's Expansion Trick, 1.00 to 2.00.

The averaged weights need batch statistics and spectral vectors of their own: an average of those seen in training
belongs to no weights. Each checkpoint measures them anew (BigGAN's standing statistics, Brock et al. 2019,
appendix D) on latents of sigma 1 with the training set's labels; sampling then normalises each image alone, so an
image does not depend on its batch, nor the statistics on the knob.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedkr.config import at_least, nearest, positive
from fedkr.data.images import ImageSet
from fedkr.errors import UserError
from fedkr.generators.base import Knobs, Task
from fedkr.generators.biggan_deep.adversarial import AdversarialTraining, discriminator_hinge, generator_hinge
from fedkr.generators.biggan_deep.differentiable_augment import AUGMENTATIONS, differentiable_augment
from fedkr.generators.biggan_deep.networks import BOTTLENECK, Discriminator, ImageGenerator, Layout, power_iteration
from fedkr.generators.checkpointed import STAGE, CheckpointedGenerator, check_decay
from fedkr.generators.pixels import mirror, to_uint8
from fedkr.learning.batches import BatchOrder
from fedkr.learning.prediction import to_model_input
from fedkr.learning.training import Average, Training
from fedkr.progress import Progress
from fedkr.seeds import derive_seed, torch_rng

BETAS = (0.5, 0.999)
SIDES = (8, 64)
# Pixels of all images in one sampling batch: bounds the memory at any image size.
SAMPLE_PIXELS = 256 * 28 * 28
MOST_SAMPLED = 256
STANDING_BATCHES = 8
SETTLING_ITERATIONS = 16
# GaFi's grid for sigma: 1.00 to 2.00 in steps of 0.05.
SIGMA_STEPS = 20


@dataclass
class Options:
    """Options of ``biggan_deep`` beside the common ones; ``generator.steps`` counts the generator's own steps."""

    width: int = 32
    multiplier: int = 4
    blocks: int = 1
    attention: int = 16
    latent: int = 128
    embedding: int = 128
    lr: float = 1e-3
    d_steps: int = 1
    ema: float = 0.999
    ema_start: int = 100
    augment: list[str] = field(default_factory=list)
    sigma: float = 1.0


class Generator(CheckpointedGenerator):
    """Adversarial generator; see :class:`fedkr.generators.base.Generator`."""

    prefix = "generator.average."
    options: Options

    def __init__(self, task: Task, options: Options) -> None:
        super().__init__(task, options)
        check_options(options, task.shape.size, f"{task.where}.options")
        o = options
        self.layout = Layout(task.shape, o.width, o.multiplier, o.blocks, o.attention)
        self.net = self._build(lambda: ImageGenerator(self.layout, o.latent, o.embedding), "blank")

    def _build(self, make: Callable[[], nn.Module], *seed: object) -> nn.Module:
        """Return the network on the device, its weights and spectral vectors drawn from ``seed`` alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(*seed, "weights"))
            return self.task.runtime.place(make())

    def begin(self, data: ImageSet, seed: tuple[object, ...]) -> AdversarialWork:
        """Train with the hinge loss; each checkpoint has the averaged weights with standing statistics."""
        training = self._training(seed)
        losses = Losses(self, data, training.discriminator.model, seed)
        return AdversarialWork(self, training, losses)

    def _training(self, seed: tuple[object, ...]) -> AdversarialTraining:
        o = self.options
        self.net = self._build(lambda: ImageGenerator(self.layout, o.latent, o.embedding), *seed)
        judge = self._build(lambda: Discriminator(self.layout), *seed, "discriminator")

        def training(net: nn.Module, ema: float | None) -> Training:
            optimizer = torch.optim.Adam(net.parameters(), lr=o.lr, betas=BETAS, fused=True)
            average = None if ema is None else Average(ema, o.ema_start)
            return Training(net, optimizer, lambda step: 1.0, self.task.runtime, average)

        return AdversarialTraining(training(self.net, o.ema), training(judge, None), o.d_steps)

    @torch.no_grad()
    def measure(self, average: dict[str, Tensor], losses: Losses, step: int) -> None:
        """Give the averaged weights, in place, batch statistics and spectral vectors of their own."""
        net = copy.deepcopy(self.net)
        net.load_state_dict(average)
        net.train()
        for _ in range(SETTLING_ITERATIONS):
            power_iteration(net)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
                # A plain mean over the batches below instead of one that forgets.
                module.momentum = None
        rng = torch_rng(*losses.seed, "standing", step)
        for _ in range(STANDING_BATCHES):
            latents, labels = losses.conditions(sample_batch(self.task.shape.size), rng)
            with self.task.runtime.autocast():
                net(latents, labels)
        for name, value in net.state_dict().items():
            average[name].copy_(value)

    def default_knobs(self) -> Knobs:
        """Standard deviation of the latent, as the options have it."""
        return {"sigma": self.options.sigma}

    def knob_candidates(self) -> list[Knobs]:
        """GaFi's 21 values of sigma from 1.00 to 2.00: first every fourth, then those between."""
        order = sorted(range(SIGMA_STEPS + 1), key=lambda i: (i % 4 > 0) + (i % 2 > 0))
        values = [round(1 + i / SIGMA_STEPS, 2) for i in order]
        return [{"sigma": s} for s in dict.fromkeys([self.options.sigma, *values])]

    @torch.inference_mode()
    def sample(self, labels: NDArray[np.int64], knobs: Knobs, *seed: object) -> Iterator[NDArray[np.uint8]]:
        """Yield uint8 ``[B, H, W, C]`` for ``labels``, from latents of standard deviation ``sigma``."""
        device, batch = self.task.runtime.device, sample_batch(self.task.shape.size)
        sigma = (self.default_knobs() | knobs)["sigma"]
        for start in range(0, len(labels), batch):
            chunk = torch.from_numpy(labels[start : start + batch])
            rng = torch_rng(*seed, "sample", start)
            latents = sigma * torch.randn(len(chunk), self.options.latent, generator=rng)
            with self.task.runtime.autocast():
                images = self.net(latents.to(device), chunk.to(device))
            yield to_uint8(images.float().cpu())


class AdversarialWork:
    """A training whose averaged weights are measured when its state is taken."""

    def __init__(self, owner: Generator, training: AdversarialTraining, losses: Losses) -> None:
        self.owner, self.training, self.losses = owner, training, losses
        self.restore = training.restore

    @property
    def step(self) -> int:
        """Steps that the generator has taken."""
        return self.training.step

    def advance(self, until: int, progress: Progress) -> None:
        """Train up to step ``until``."""
        losses, steps = self.losses, self.owner.task.config.steps
        self.training.advance(losses.generator, losses.discriminator, until, progress, STAGE, steps)

    def state(self) -> dict[str, Tensor]:
        """Return both trainings' tensors."""
        self.owner.measure(self.training.generator.average, self.losses, self.step)
        return self.training.state()


class Losses:
    """The two losses, each a function of its network's step: all randomness comes from the step's number."""

    def __init__(self, owner: Generator, data: ImageSet, judge: nn.Module, seed: tuple[object, ...]) -> None:
        self.owner, self.data, self.judge, self.seed = owner, data, judge, seed
        self.batch, self.device = owner.task.config.batch, owner.task.runtime.device
        self.order = BatchOrder(len(data), self.batch, *seed)
        self.labels = torch.from_numpy(data.labels)

    def conditions(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return latents ``[count, latent]`` and labels ``[count]``, as frequent as in the data.

        So a class that the data lack is never drawn, and the discriminator cannot tell by the class.
        """
        labels = self.labels[torch.randint(len(self.labels), (count,), generator=rng)]
        return self._latents(count, rng), labels.to(self.device)

    def discriminator(self, step: int) -> Tensor:
        """Return the discriminator's loss on real images and as many drawn ones of the same classes."""
        chosen, rng = self.order.at(step), torch_rng(*self.seed, "discriminator", step)
        images = to_model_input(torch.from_numpy(self.data.images[chosen]))
        real = mirror(images, self.owner.task.flip, rng).to(self.device)
        labels = self.labels[torch.from_numpy(chosen)].to(self.device)
        with torch.no_grad():
            drawn = self.owner.net(self._latents(self.batch, rng), labels)
        shown = differentiable_augment(torch.cat([real, drawn]), self.owner.options.augment, rng)
        return discriminator_hinge(*self.judge(shown, labels.repeat(2)).chunk(2))

    def generator(self, step: int) -> Tensor:
        """Return the generator's loss on fresh latents."""
        rng = torch_rng(*self.seed, "generator", step)
        latents, labels = self.conditions(self.batch, rng)
        drawn = differentiable_augment(self.owner.net(latents, labels), self.owner.options.augment, rng)
        return generator_hinge(self.judge(drawn, labels))

    def _latents(self, count: int, rng: torch.Generator) -> Tensor:
        return torch.randn(count, self.owner.options.latent, generator=rng).to(self.device)


def sample_batch(size: int) -> int:
    """Return how many images of a side are drawn at once."""
    return max(1, min(MOST_SAMPLED, SAMPLE_PIXELS // size**2))


def check_options(options: Options, size: int, where: str) -> None:
    """Raise :class:`UserError` for the first value that no network could have."""
    if size % 4 or not SIDES[0] <= size <= SIDES[1]:
        raise UserError(f"data.size={size}: the biggan_deep generator needs a side of 8 to 64 pixels that 4 divides")
    if options.width < 1 or options.width % BOTTLENECK:
        raise UserError(f"{where}.width={options.width}: must be a multiple of {BOTTLENECK}")
    for name in ("multiplier", "blocks", "latent", "embedding", "d_steps"):
        at_least(f"{where}.{name}", getattr(options, name), 1)
    for name in ("attention", "ema_start"):
        if getattr(options, name) < 0:
            raise UserError(f"{where}.{name}={getattr(options, name)}: must not be negative")
    for name in ("lr", "sigma"):
        positive(f"{where}.{name}", getattr(options, name))
    check_decay(f"{where}.ema", options.ema)
    for name in options.augment:
        if name not in AUGMENTATIONS:
            raise UserError(f"{where}.augment={name!r}: unknown augmentation{nearest(name, AUGMENTATIONS)}")
