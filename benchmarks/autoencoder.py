"""What does our AP-MAE cost, compared with the published architecture at the same sizes, in the same run?

    python benchmarks/autoencoder.py [--batch 16] [--rounds 5]

The published code embeds 64 patches and keeps 18, decodes 65 tokens and predicts pixels for all of them, encodes with
65 tokens and materialises its attention (DESIGN section 4). That work is done here; ours is the package's code. Each
number is the median, over interleaved rounds, of the published time divided by ours.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from apmae.config import APMAEConfig
from apmae.model.blocks import Attention
from apmae.model.mae import APMAE
from apmae.model.masking import Masking, random_masking
from apmae.recipes import RECIPES, train_recipe


class Published(APMAE):
    """The published work: every patch embedded, every token decoded and turned into pixels, attention materialised."""

    def __init__(self, config: APMAEConfig) -> None:
        super().__init__(config.model_copy(update={"grid": "square", "decoder_input": "cls", "pixels": "log"}))
        for module in self.modules():
            if isinstance(module, Attention):
                module.__class__ = MaterialisedAttention

    def whole(self, patches: Tensor) -> Tensor:
        """Scaled pixels of lower-triangle patches on the whole grid, zeros elsewhere: (n, 64, q)."""
        everything = patches.new_zeros(len(patches), self.config.grid_size**2, patches.shape[-1] ** 2)
        everything[:, self.slots] = patches[:, :, 0].flatten(2)
        return everything

    def loss(self, patches: Tensor, masking: Masking) -> Tensor:
        """The loss of one training step."""
        everything = self.whole(patches)
        visible, masked = self.slots[masking.visible], self.slots[masking.masked]
        tokens = self.embed(everything) + self.positions[:, 1:]
        tokens = tokens.gather(1, visible[..., None].expand(-1, -1, tokens.shape[-1]))
        cls = (self.cls + self.positions[:, :1]).expand(len(patches), -1, -1)
        projected = self.to_decoder(self.encoder(torch.cat([cls, tokens], dim=1)))
        slots = torch.zeros_like(self.decoder_positions[:, 1:]).repeat(len(patches), 1, 1)
        index = visible[..., None].expand(-1, -1, slots.shape[-1])
        slots = slots.scatter(1, index, self.mask_token.expand_as(index))
        decoded = self.decoder(torch.cat([projected[:, :1], slots], dim=1) + self.decoder_positions)
        pixels = self.to_pixels(decoded)[:, 1:]
        index = masked[..., None].expand(-1, -1, pixels.shape[-1])
        return (pixels.gather(1, index) - everything.gather(1, index)).square().mean()


class MaterialisedAttention(Attention):
    """Attention that materialises its weights, as the published code does."""

    def forward(self, x: Tensor) -> Tensor:
        """See :class:`Attention`."""
        query, key, value = self.to_qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        weights = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(-1)
        return self.to_out((weights @ value).transpose(1, 2).flatten(2))


def trainer(model: APMAE, loss: Callable[[Tensor, Masking], Tensor]) -> Callable[[Tensor, Masking], None]:
    """One whole step: forward, backward, AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step(patches: Tensor, masking: Masking) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(patches, masking).backward()
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="paper-3b", choices=tuple(RECIPES))
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    config = train_recipe(arguments.recipe).model
    ours, published = APMAE(config), Published(config)
    generator = torch.Generator().manual_seed(0)
    side = config.patch_size
    patches = torch.rand(arguments.batch, config.num_patches, config.channels, side, side, generator=generator)
    masking = random_masking(arguments.batch, config.num_patches, config.num_masked, generator)
    steps = {
        "train step": (
            trainer(published, published.loss),
            trainer(ours, lambda patches, masking: ours(patches, masking).loss),
        ),
        "encode": (
            lambda patches, _: published.encode_tokens(patches[:, :, :1]),
            lambda patches, _: ours.encode_tokens(patches),
        ),
    }
    print(f"{ours.num_parameters / 1e6:.1f} M parameters, batch {arguments.batch}, {arguments.rounds} rounds, CPU time")
    print("| job | published ms | ours ms | published / ours |")
    print("|---|---|---|---|")
    for name, (theirs, mine) in steps.items():
        seconds: tuple[list[float], list[float]] = ([], [])
        for number in range(-1, arguments.rounds):  # one round to warm up
            for spent, run in zip(seconds, (theirs, mine), strict=True):
                start = time.process_time()
                with torch.set_grad_enabled(name != "encode"):
                    run(patches, masking)
                if number >= 0:
                    spent.append(time.process_time() - start)
        ratio = statistics.median(a / b for a, b in zip(*seconds, strict=True))
        theirs_ms, ours_ms = (1000 * statistics.median(spent) for spent in seconds)
        print(f"| {name} | {theirs_ms:.0f} | {ours_ms:.0f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
