"""``edm``: class-conditional diffusion with the preconditioning, loss and noise of Karras et al. 2022 (EDM).

Images of 14 pixels and more are folded into 2x2 blocks of channels, so that the network works at half the side: four
times fewer positions a step. It has as many levels as the side needs, and attention where the side is small
(:mod:`fedkr.generators.edm.layout`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from fedkr.config import ClipNorm, Count, Must, Natural, NonNegative, OneOf, Positive, at_most, multiple_of
from fedkr.data.images import ImageSet, Shape
from fedkr.errors import UserError
from fedkr.generators.base import Knobs, Task
from fedkr.generators.checkpointed import CheckpointedGenerator, Decay, LossWork, Work
from fedkr.generators.edm.augment import CONDITIONS, augment_with_parameters
from fedkr.generators.edm.layout import check_channels, layout_for
from fedkr.generators.edm.network import GROUPS, RawOutput, denoising, noise_input, reset_weights
from fedkr.generators.edm.samplers import SOLVERS, Sampler
from fedkr.generators.pixels import mirror, to_uint8
from fedkr.learning.batches import BatchOrder, by_class_power
from fedkr.learning.job import Seed
from fedkr.learning.one_launch import OneLaunch
from fedkr.learning.prediction import to_model_input
from fedkr.learning.training import Average, Training, flat_warmup
from fedkr.seeds import torch_rng
from fedkr.stages import Artifact

# Positions (images times pixels of the network's input) in one sampling batch: bounds the memory at any image size.
SAMPLE_POSITIONS = 256 * 14 * 14
MOST_SAMPLED = 256
# What a training by DP-SGD tells beside weights.
COUNTED = ("counts", "count_noise")
# Guidance for a class that the teacher hardly recognises.
FIRM = 2.0
# Of 18 evaluations, as EDM has 40 of 256 for ImageNet (table 5), rounded to what 18 can hold.
CHURN = 5.0

Probability = Annotated[float, Must(lambda x: 0 <= x < 1, "a probability, from 0 to below 1")]
Power = Annotated[float, Must(lambda x: 0 <= x <= 1, "a power from 0 to 1")]


@dataclass
class Options:
    """Options of ``edm`` beside the common ones; symbols as in Karras et al. 2022, table 1."""

    width: Annotated[int, multiple_of(GROUPS), at_most(1024)] = 32
    multiplier: Annotated[Count, at_most(64)] = 2
    blocks: Annotated[Count, at_most(16)] = 1
    levels: Annotated[Natural, at_most(16)] = 0
    attention: Annotated[Natural, at_most(64)] = 0
    scale_shift: bool = False
    lr: Positive = 2e-3
    lr_decay: Annotated[float, Must(lambda x: 0 < x <= 1, "a share of the steps, above 0 and up to 1")] = 0.2
    ema: Decay = 0.995
    drop_class: Probability = 0.1
    class_power: Power = 0.5
    augment: Probability = 0.0
    sigma_data: Positive = 0.5
    p_mean: float = -1.2
    p_std: float = 1.2
    sigma_min: Positive = 0.002
    sigma_max: float = 80.0
    solver: Annotated[str, OneOf(*SOLVERS, what="solver")] = "dpm++2m"
    steps_sample: Annotated[Count, at_most(1000)] = 10
    guidance: float = 1.0
    churn: NonNegative = 0.0
    private_clip: ClipNorm = 1.0
    private_draws: Annotated[Count, at_most(64)] = 4


class Generator(CheckpointedGenerator):
    """Diffusion generator; see :class:`fedkr.generators.base.Generator`."""

    options: Options

    def __init__(self, task: Task, options: Options) -> None:
        super().__init__(task, options)
        image, sigmas, where = task.shape, (options.sigma_min, options.sigma_max), f"{task.where}.options"
        self.layout = layout_for(image.size, options.levels, options.attention, where)
        check_channels(self.layout, options.width, options.multiplier, where)
        if not sigmas[1] > sigmas[0]:
            raise UserError(f"{where}.sigma_max={sigmas[1]}: must be above sigma_min={sigmas[0]}")
        if task.privacy.guaranteed and options.augment:
            raise UserError(f"{where}.augment={options.augment}: privacy.mode=dp trains on images as they are; set 0")
        if task.privacy.guaranteed and options.class_power != 1:
            raise UserError(
                f"{where}.class_power={options.class_power}: privacy.mode=dp takes each image as often as all others; "
                "set 1"
            )
        self.folded = Shape(image.channels * self.layout.fold**2, self.layout.side, image.classes)

    @cached_property
    def net(self) -> nn.Module:  # type: ignore[override]
        """The network, built when it is first used: diffusers takes seconds to import, and a check of options none."""
        from fedkr.generators.edm.unet import build_unet

        o = self.options
        channels = list(self.layout.channels(o.width, o.multiplier))
        conditions = CONDITIONS if o.augment else 0
        net = build_unet(self.folded, self.layout, channels, o.blocks, conditions, o.scale_shift)
        return self.task.runtime.place(net)

    def begin(self, data: ImageSet, seed: Seed) -> Work:
        """Train with the EDM loss (equation 8); where privacy is promised, by DP-SGD."""
        o, steps = self.options, self.task.config.steps
        reset_weights(self.net, *seed)
        optimizer = torch.optim.AdamW(self.net.parameters(), lr=o.lr, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
        schedule = partial(flat_warmup, steps=steps, decay=o.lr_decay)
        training = Training(self.net, optimizer, schedule, self.task.runtime, Average(o.ema), clip=1.0)
        if self.task.privacy.guaranteed:
            # Imported here: it takes the accountant, which nothing else needs.
            from fedkr.generators.edm.private import PrivateWork

            return PrivateWork(self, training, data, seed)
        return LossWork(training, self._loss(data, seed), steps)

    def _loss(self, data: ImageSet, seed: tuple[object, ...]) -> Callable[[int], Tensor]:
        examples = by_class_power(data.labels, self.options.class_power)
        order = BatchOrder(len(examples), self.task.config.batch, *seed)
        network = OneLaunch(RawOutput(self.net), self.task.runtime)

        def at(step: int) -> Tensor:
            """Return the loss of the images, noise levels and noise of ``step``."""
            chosen, rng = examples[order.at(step)], torch_rng(*seed, "noise", step)
            images = mirror(to_model_input(torch.from_numpy(data.images[chosen])), self.task.flip, rng)
            parameters = None
            if self.options.augment:
                images, parameters = augment_with_parameters(
                    images, self.options.augment, torch_rng(*seed, "augment", step)
                )
            labels = self.partly_dropped(torch.from_numpy(data.labels[chosen]), rng)
            return self._edm_loss(network, self.layout.fold_in(images), labels, rng, parameters)

        return at

    def _edm_loss(
        self,
        network: Callable[..., Tensor],
        images: Tensor,
        labels: Tensor,
        rng: torch.Generator,
        parameters: Tensor | None = None,
    ) -> Tensor:
        send = self.task.runtime.send
        inputs, levels, target = self.noised(images, rng)
        inputs = send(inputs.contiguous(memory_format=torch.channels_last))
        output = network(inputs, send(levels), *self._conditions(send(labels), parameters))
        return F.mse_loss(output.float(), send(target))

    def partly_dropped(self, labels: Tensor, rng: torch.Generator) -> Tensor:
        """Return labels ``[N]`` with the null class in place of some."""
        dropped = torch.rand(len(labels), generator=rng) < self.options.drop_class
        return labels.masked_fill(dropped, self.task.shape.classes)

    def noised(self, images: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Draw a noise level and noise for each of ``images [..., C, H, W]``; return :func:`.denoising` of them."""
        o = self.options
        sigma = torch.exp(o.p_mean + o.p_std * torch.randn((*images.shape[:-3], 1, 1, 1), generator=rng))
        return denoising(images, sigma, torch.randn(images.shape, generator=rng), o.sigma_data)

    def _conditions(self, labels: Tensor, parameters: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return what an image is described with; without ``parameters`` it is taken as it is."""
        if not self.options.augment:
            return (labels,)
        further = torch.zeros(len(labels), CONDITIONS) if parameters is None else parameters
        return labels, self.task.runtime.send(further)

    def default_knobs(self) -> Knobs:
        """Evaluations of the network an image, guidance scale and churn, as the options have them."""
        return {"steps": self.options.steps_sample, "guidance": self.options.guidance, "churn": self.options.churn}

    def knob_candidates(self) -> list[Knobs]:
        """Guidance first (it moves the trade of fidelity against diversity), then length, cheap ones before dear ones.

        Guidance other than 1 doubles the evaluations.
        """
        default, steps = self.default_knobs(), self.options.steps_sample
        plain: list[Knobs] = [
            {"steps": steps, "guidance": 1.0},
            {"steps": steps, "guidance": 1.5},
            {"steps": 2 * steps, "guidance": 1.0},
            {"steps": 5, "guidance": 1.0},
            {"steps": 8, "guidance": 1.0},
            {"steps": 18, "guidance": 1.0},
            {"steps": 18, "guidance": 1.0, "churn": CHURN},
            {"steps": steps, "guidance": 0.8},
            {"steps": steps, "guidance": 2.0},
            {"steps": 2 * steps, "guidance": 1.5},
        ]
        candidates = [default, *(default | knobs for knobs in plain)]
        return [knobs for i, knobs in enumerate(candidates) if knobs not in candidates[:i]]

    def firmer_knobs(self, knobs: Knobs) -> Knobs:
        """Return them with more guidance, where the training left out the class at times, to be guided away from."""
        guidance = knobs.get("guidance", self.options.guidance)
        return knobs | {"guidance": FIRM} if self.options.drop_class and guidance < FIRM else knobs

    def prune(self, artifact: Artifact) -> Artifact:
        """Keep the weights that draw, and the noisy counts of a training by DP-SGD."""
        counted = {name: artifact.tensors[name] for name in COUNTED if name in artifact.tensors}
        drawing = super().prune(artifact)
        return Artifact(drawing.tensors | counted, drawing.info)

    @torch.inference_mode()
    def sample(self, labels: NDArray[np.int64], knobs: Knobs, *seed: object) -> Iterator[NDArray[np.uint8]]:
        """Yield uint8 ``[B, H, W, C]`` for ``labels``; a knob that is not named has its default."""
        device = self.task.runtime.device
        batch = max(1, min(MOST_SAMPLED, SAMPLE_POSITIONS // self.folded.size**2))
        for start in range(0, len(labels), batch):
            chunk = torch.from_numpy(labels[start : start + batch]).to(device)
            rng = torch_rng(*seed, "sample", start)
            noise = torch.randn((len(chunk), self.folded.channels, self.folded.size, self.folded.size), generator=rng)
            folded = self._solve(noise.to(device), chunk, self.default_knobs() | knobs, rng).cpu()
            yield to_uint8(self.layout.fold_out(folded))

    def _solve(self, noise: Tensor, labels: Tensor, knobs: Knobs, rng: torch.Generator) -> Tensor:
        o, guidance, raw = self.options, knobs["guidance"], RawOutput(self.net)
        given = self._conditions(labels)
        nothing = self._conditions(torch.full_like(labels, self.task.shape.classes))

        def network(scaled: Tensor, sigma: Tensor) -> Tensor:
            """Return the raw output, guided away from the output without a class."""
            level = noise_input(sigma).to(scaled.device)
            with self.task.runtime.autocast():
                output = raw(scaled, level, *given).float()
                if guidance != 1.0:
                    output = torch.lerp(raw(scaled, level, *nothing).float(), output, guidance)
            return output

        schedule = {"sigma_min": o.sigma_min, "sigma_max": o.sigma_max, "sigma_data": o.sigma_data}
        return Sampler(o.solver, int(knobs["steps"]), schedule, knobs["churn"]).draw(network, noise, rng)
