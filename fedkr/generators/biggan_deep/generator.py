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
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedkr.config import Count, Natural, OneOf, Positive, at_most, multiple_of
from fedkr.data.images import ImageSet
from fedkr.errors import UserError
from fedkr.generators.base import Knobs, Task
from fedkr.generators.biggan_deep.adversarial import AdversarialWork, discriminator_hinge, generator_hinge
from fedkr.generators.biggan_deep.differentiable_augment import AUGMENTATIONS, differentiable_augment
from fedkr.generators.biggan_deep.networks import BOTTLENECK, Discriminator, ImageGenerator, Layout, power_iteration
from fedkr.generators.checkpointed import CheckpointedGenerator, Decay
from fedkr.generators.pixels import mirror, to_uint8
from fedkr.learning.batches import BatchOrder
from fedkr.learning.prediction import to_model_input
from fedkr.learning.training import Average, Training
from fedkr.seeds import derive_seed, torch_rng

BETAS = (0.5, 0.999)
SIDES = (8, 128)
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

    width: Annotated[int, multiple_of(BOTTLENECK), at_most(1024)] = 32
    multiplier: Annotated[Count, at_most(64)] = 4
    blocks: Annotated[Count, at_most(16)] = 1
    attention: Natural = 16
    latent: Annotated[Count, at_most(4096)] = 128
    embedding: Annotated[Count, at_most(4096)] = 128
    lr: Positive = 1e-3
    d_steps: Annotated[Count, at_most(100)] = 1
    ema: Decay = 0.999
    ema_start: Natural = 100
    augment: list[Annotated[str, OneOf(*AUGMENTATIONS, what="augmentation")]] = field(default_factory=list)
    sigma: Positive = 1.0


class Generator(CheckpointedGenerator):
    """Adversarial generator; see :class:`fedkr.generators.base.Generator`."""

    prefix = "generator.average."
    options: Options

    def __init__(self, task: Task, options: Options) -> None:
        super().__init__(task, options)
        size = task.shape.size
        if size % 4 or not SIDES[0] <= size <= SIDES[1]:
            raise UserError(
                f"data.size={size}: the biggan_deep generator needs a side of 8 to 128 pixels that 4 divides"
            )
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
        o = self.options
        self.net = self._build(lambda: ImageGenerator(self.layout, o.latent, o.embedding), *seed)
        judge = self._build(lambda: Discriminator(self.layout), *seed, "discriminator")
        trainings = self._training(self.net, Average(o.ema, o.ema_start)), self._training(judge, None)
        return HingeWork(self, *trainings, data, seed)

    def _training(self, net: nn.Module, average: Average | None) -> Training:
        optimizer = torch.optim.Adam(net.parameters(), lr=self.options.lr, betas=BETAS, fused=True)
        return Training(net, optimizer, lambda step: 1.0, self.task.runtime, average)

    @torch.no_grad()
    def measure(self, work: HingeWork) -> None:
        """Give a training's averaged weights, in place, batch statistics and spectral vectors of their own."""
        net = copy.deepcopy(self.net)
        net.load_state_dict(work.generator.average)
        net.train()
        for _ in range(SETTLING_ITERATIONS):
            power_iteration(net)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
                # A plain mean over the batches below instead of one that forgets.
                module.momentum = None
        rng = torch_rng(*work.seed, "standing", work.step)
        for _ in range(STANDING_BATCHES):
            latents, labels = work.conditions(sample_batch(self.task.shape.size), rng)
            with self.task.runtime.autocast():
                net(latents, labels)
        for name, value in net.state_dict().items():
            work.generator.average[name].copy_(value)

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


class HingeWork(AdversarialWork):
    """The training of both networks, whose averaged weights are measured when its state is taken."""

    def __init__(
        self, owner: Generator, generator: Training, discriminator: Training, data: ImageSet, seed: tuple[object, ...]
    ) -> None:
        config = owner.task.config
        super().__init__(generator, discriminator, owner.options.d_steps, config.steps)
        self.owner, self.data, self.seed = owner, data, seed
        self.batch, self.device = config.batch, owner.task.runtime.device
        self.order = BatchOrder(len(data), self.batch, *seed)
        self.labels = torch.from_numpy(data.labels)

    def state(self) -> dict[str, Tensor]:
        """Return both trainings' tensors."""
        self.owner.measure(self)
        return super().state()

    def conditions(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return latents ``[count, latent]`` and labels ``[count]``, as frequent as in the data.

        So a class that the data lack is never drawn, and the discriminator cannot tell by the class.
        """
        labels = self.labels[torch.randint(len(self.labels), (count,), generator=rng)]
        return self._latents(count, rng), labels.to(self.device)

    def discriminator_loss(self, step: int) -> Tensor:
        """Return the discriminator's loss on real images and as many drawn ones of the same classes."""
        chosen, rng = self.order.at(step), torch_rng(*self.seed, "discriminator", step)
        images = to_model_input(torch.from_numpy(self.data.images[chosen]))
        real = mirror(images, self.owner.task.flip, rng).to(self.device)
        labels = self.labels[torch.from_numpy(chosen)].to(self.device)
        with torch.no_grad():
            drawn = self.owner.net(self._latents(self.batch, rng), labels)
        shown = differentiable_augment(torch.cat([real, drawn]), self.owner.options.augment, rng)
        return discriminator_hinge(*self.discriminator.model(shown, labels.repeat(2)).chunk(2))

    def generator_loss(self, step: int) -> Tensor:
        """Return the generator's loss on fresh latents."""
        rng = torch_rng(*self.seed, "generator", step)
        latents, labels = self.conditions(self.batch, rng)
        drawn = differentiable_augment(self.owner.net(latents, labels), self.owner.options.augment, rng)
        return generator_hinge(self.discriminator.model(drawn, labels))

    def _latents(self, count: int, rng: torch.Generator) -> Tensor:
        return torch.randn(count, self.owner.options.latent, generator=rng).to(self.device)


def sample_batch(size: int) -> int:
    """Return how many images of a side are drawn at once."""
    return max(1, min(MOST_SAMPLED, SAMPLE_PIXELS // size**2))
