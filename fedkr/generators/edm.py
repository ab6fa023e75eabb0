"""``edm``: class-conditional diffusion with the preconditioning, loss and noise of Karras et al. 2022 (EDM).

The network is diffusers' UNet, the samplers are diffusers' EDM schedulers. Images of 14 pixels and more are folded into
2x2 blocks of channels, so that the network works at half the side: four times fewer positions a step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import EDMDPMSolverMultistepScheduler, UNet2DModel
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from fedkr.artifacts import Artifact
from fedkr.batches import BatchOrder
from fedkr.config import GeneratorConfig
from fedkr.data.imageset import ImageSet
from fedkr.errors import UserError
from fedkr.generators.base import Knobs
from fedkr.progress import Progress
from fedkr.seeds import derive_seed, torch_rng
from fedkr.training import Runtime, Training, flat_warmup, to_model_input

FOLD_FROM = 14
# Of the UNet's group normalisation.
GROUPS = 8
# The UNet's sinusoids have frequencies of at most 1 per unit, and ln(sigma)/4 spans 3 units: spread it.
NOISE_SCALE = 10.0
# Positions (images times pixels of the network's input) in one sampling batch: bounds the memory at any image size.
SAMPLE_POSITIONS = 256 * 14 * 14
MOST_SAMPLED = 256


@dataclass
class Options:
    """Options of ``edm`` beside the common ones; symbols as in Karras et al. 2022, table 1."""

    width: int = 32
    multiplier: int = 2
    blocks: int = 1
    lr: float = 2e-3
    ema: float = 0.995
    drop_class: float = 0.1
    sigma_data: float = 0.5
    p_mean: float = -1.2
    p_std: float = 1.2
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    steps_sample: int = 10
    guidance: float = 1.0


class Generator:
    """Diffusion generator; see :class:`fedkr.generators.base.Generator`."""

    def __init__(
        self,
        config: GeneratorConfig,
        options: Options,
        *,
        channels: int,
        size: int,
        classes: int,
        flip: str,
        runtime: Runtime,
    ) -> None:
        self.config, self.options, self.runtime, self.flip = config, options, runtime, flip
        self.channels, self.size, self.classes = channels, size, classes
        self.fold = 2 if size >= FOLD_FROM else 1
        if size % (2 * self.fold):
            raise UserError(f"data.size={size}: the edm generator needs a side that {2 * self.fold} divides")
        if options.width < 1 or options.width % GROUPS:
            raise UserError(f"generator.options.width={options.width}: must be a multiple of {GROUPS}")
        self.net = runtime.place(build_unet(options, channels * self.fold**2, size // self.fold, classes))

    def fit(
        self,
        data: ImageSet,
        *,
        seed: tuple[object, ...],
        progress: Progress,
        save: Callable[[int, Artifact], None],
        state: Artifact | None,
    ) -> None:
        """Train with the EDM loss (equation 8) and save the averaged weights ``checkpoints`` times."""
        o, steps = self.options, self.config.steps
        reset_weights(self.net, *seed)
        optimizer = torch.optim.AdamW(self.net.parameters(), lr=o.lr, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
        training = Training(
            self.net, optimizer, lambda step: flat_warmup(step, steps), self.runtime, ema_decay=o.ema, clip=1.0
        )
        if state is not None:
            training.restore({k: v.to(self.runtime.device) for k, v in state.tensors.items()}, state.info["step"])
        loss_at = self._loss(data, seed)
        for step in checkpoint_steps(steps, self.config.checkpoints):
            if step > training.step:
                training.advance(loss_at, step, progress, "generator", total=steps)
                save(step, Artifact(training.state(), {"step": step}))
        progress.finish("generator")

    def _loss(self, data: ImageSet, seed: tuple[object, ...]) -> Callable[[int], Tensor]:
        order = BatchOrder(len(data), self.config.batch, *seed)

        def at(step: int) -> Tensor:
            chosen, rng = order.at(step), torch_rng(*seed, "noise", step)
            images = self._fold(mirror(to_model_input(torch.from_numpy(data.images[chosen])), self.flip, rng))
            labels = torch.from_numpy(data.labels[chosen])
            dropped = torch.rand(len(labels), generator=rng) < self.options.drop_class
            labels = labels.masked_fill(dropped, self.classes)
            return self._edm_loss(images, labels, rng)

        return at

    def _edm_loss(self, images: Tensor, labels: Tensor, rng: torch.Generator) -> Tensor:
        """Denoising loss weighted by 1/c_out^2: the error of the raw network output (appendix B.6)."""
        o, device = self.options, self.runtime.device
        sigma = torch.exp(o.p_mean + o.p_std * torch.randn(len(images), 1, 1, 1, generator=rng))
        noisy = images + sigma * torch.randn(images.shape, generator=rng)
        total = sigma**2 + o.sigma_data**2
        c_in, c_skip = total.rsqrt(), o.sigma_data**2 / total
        c_out = sigma * o.sigma_data * total.rsqrt()
        target = (images - c_skip * noisy) / c_out
        inputs = (c_in * noisy).to(device, memory_format=torch.channels_last)
        output = self._network(inputs, noise_input(sigma.flatten()).to(device), labels.to(device))
        return F.mse_loss(output.float(), target.to(device))

    def _network(self, inputs: Tensor, noise: Tensor, labels: Tensor) -> Tensor:
        return self.net(inputs, noise, class_labels=labels).sample

    def _fold(self, images: Tensor) -> Tensor:
        return F.pixel_unshuffle(images, self.fold) if self.fold > 1 else images

    def load(self, artifact: Artifact) -> None:
        """Take the averaged weights of a checkpoint."""
        weights = {k.removeprefix("average."): v for k, v in artifact.tensors.items() if k.startswith("average.")}
        self.net.load_state_dict(weights)
        self.net.eval()

    def prune(self, artifact: Artifact) -> Artifact:
        """Keep the averaged weights only."""
        return Artifact({k: v for k, v in artifact.tensors.items() if k.startswith("average.")}, artifact.info)

    def default_knobs(self) -> Knobs:
        """Steps of the solver and guidance scale, as the options have them."""
        return {"steps": self.options.steps_sample, "guidance": self.options.guidance}

    def knob_candidates(self) -> list[Knobs]:
        """Guidance first (it moves the trade of fidelity against diversity), then longer sampling."""
        steps = self.options.steps_sample
        pairs = [(steps, 1.0), (steps, 1.5), (2 * steps, 1.0), (steps, 0.8), (steps, 2.0), (2 * steps, 1.5)]
        return [{"steps": s, "guidance": g} for s, g in pairs]

    @torch.inference_mode()
    def sample(self, labels: NDArray[np.int64], knobs: Knobs, *seed: object) -> Iterator[NDArray[np.uint8]]:
        """Yield uint8 ``[B, H, W, C]`` for ``labels``: DPM-Solver++ of second order on EDM's sigmas."""
        side = self.size // self.fold
        batch = max(1, min(MOST_SAMPLED, SAMPLE_POSITIONS // side**2))
        for start in range(0, len(labels), batch):
            chunk = torch.from_numpy(labels[start : start + batch])
            shape = (len(chunk), self.channels * self.fold**2, side, side)
            noise = torch.randn(shape, generator=torch_rng(*seed, "sample", start))
            folded = self._solve(noise.to(self.runtime.device), chunk.to(self.runtime.device), knobs).cpu()
            images = F.pixel_shuffle(folded, self.fold) if self.fold > 1 else folded
            yield to_uint8(images)

    def _solve(self, noise: Tensor, labels: Tensor, knobs: Knobs) -> Tensor:
        o, guidance = self.options, knobs["guidance"]
        scheduler = EDMDPMSolverMultistepScheduler(
            sigma_min=o.sigma_min, sigma_max=o.sigma_max, sigma_data=o.sigma_data, final_sigmas_type="zero"
        )
        scheduler.set_timesteps(int(knobs["steps"]))
        x = (noise * scheduler.init_noise_sigma).to(memory_format=torch.channels_last)
        null = torch.full_like(labels, self.classes)
        for index, timestep in enumerate(scheduler.timesteps):
            scaled = scheduler.scale_model_input(x, timestep)
            level = noise_input(scheduler.sigmas[index].expand(len(x))).to(self.runtime.device)
            with self.runtime.autocast():
                output = self._network(scaled, level, labels).float()
                if guidance != 1.0:
                    output = torch.lerp(self._network(scaled, level, null).float(), output, guidance)
            x = scheduler.step(output, timestep, x).prev_sample
        return x


def build_unet(options: Options, channels: int, side: int, classes: int) -> UNet2DModel:
    """Return diffusers' UNet with two levels, no attention, and one more class: the null class of guidance."""
    widths = (options.width, options.width * options.multiplier)
    return UNet2DModel(
        sample_size=side,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=options.blocks,
        block_out_channels=widths,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=GROUPS,
        num_class_embeds=classes + 1,
        add_attention=False,
    )


def reset_weights(net: UNet2DModel, *seed: object) -> None:
    """Draw every weight from ``seed`` (torch's default initialisation, forked global state), output layer zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(*seed, "weights"))
        for module in net.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    torch.nn.init.zeros_(net.conv_out.weight)
    torch.nn.init.zeros_(net.conv_out.bias)


def checkpoint_steps(steps: int, checkpoints: int) -> list[int]:
    """Return the steps at which a checkpoint is kept: evenly over the last two thirds, last step included."""
    first = steps / 3 if checkpoints > 1 else steps
    return sorted({math.ceil(s) for s in np.linspace(first, steps, checkpoints)})


def noise_input(sigma: Tensor) -> Tensor:
    """Return what the UNet is told of the noise level: c_noise = ln(sigma)/4 (EDM table 1), spread out."""
    return NOISE_SCALE * sigma.log() / 4


def mirror(images: Tensor, flip: str, rng: torch.Generator) -> Tensor:
    """Mirror each image ``[N, C, H, W]`` at random along the axes that ``flip`` allows."""
    for axis, allowed in ((3, flip in ("horizontal", "both")), (2, flip == "both")):
        if allowed:
            chosen = torch.rand(len(images), 1, 1, 1, generator=rng) < 0.5
            images = torch.where(chosen, images.flip(axis), images)
    return images


def to_uint8(images: Tensor) -> NDArray[np.uint8]:
    """Turn float ``[N, C, H, W]`` in [-1, 1] into uint8 ``[N, H, W, C]``."""
    pixels = images.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous().numpy()
