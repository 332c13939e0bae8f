"""AP-MAE, in the paper's order: embed the patches, mask, encode, decode, loss (paper section 4, Figure 2).

Only patches on or below the diagonal are embedded and decoded. With ``grid="square"`` positions are numbered over the
whole grid and encoding feeds all of it, zeros above the diagonal included, as the released models expect.

Positions are looked up with ``F.embedding``, not by index: the gradient of an index is summed in no fixed order by
several threads, and two runs were never equal.

Axes: n patterns, k patches (36 at paper size), p pixels along a patch, q pixels of a patch (p * p), v visible and
m masked patches, d encoder width, e decoder width.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor, nn
from torch.nn import functional as F

from apmae.config import APMAEConfig
from apmae.errors import CaptureError, ModelError
from apmae.model import card, files, hub
from apmae.model.blocks import Transformer, init_weights
from apmae.model.folder import CONFIG
from apmae.model.masking import Masking, random_masking
from apmae.patterns import geometry
from apmae.patterns.patterns import Patterns
from apmae.seeding import subseed


class Reconstruction(NamedTuple):
    """What a training forward returns."""

    loss: Float[Tensor, ""]
    """Mean squared error over the real pixels of masked patches: what is minimised."""
    published_loss: Float[Tensor, ""]
    """The same over all their pixels, the constant upper halves of diagonal patches included: for comparison."""
    predicted: Float[Tensor, "n m q"]
    masking: Masking


class APMAE(nn.Module):
    """The attention pattern masked autoencoder.

    Attributes:
        config: its sizes, masking and scaling.
        origin: what the folder that it was loaded from says of its training; None if nothing, or if it was made here.
        source: folder, hub id or "bundled" that it was loaded from; None if it was made here.
    """

    def __init__(self, config: APMAEConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.origin: card.Origin | None = None
        self.source: str | None = None
        c = config
        pixels = c.patch_size**2
        rows, columns = geometry.tiles(c.grid_size)
        slots = torch.arange(c.num_patches) if c.grid == "triangle" else rows * c.grid_size + columns
        num_slots = c.num_patches if c.grid == "triangle" else c.grid_size**2
        self.slots: Tensor
        self.real: Tensor
        self.register_buffer("slots", slots, persistent=False)  # k -> position of the patch
        real = geometry.real_pixels(c.grid_size, c.patch_size).flatten(1)
        self.register_buffer("real", real, persistent=False)  # k q

        eps = c.layer_norm_eps
        self.embed = nn.Sequential(
            nn.LayerNorm(pixels, eps=eps), nn.Linear(pixels, c.encoder_dim), nn.LayerNorm(c.encoder_dim, eps=eps)
        )
        self.cls = nn.Parameter(torch.zeros(1, 1, c.encoder_dim))
        self.positions = nn.Parameter(torch.zeros(1, 1 + num_slots, c.encoder_dim))
        self.encoder = Transformer(
            c.encoder_layers, c.encoder_dim, c.encoder_heads, c.encoder_head_dim, c.encoder_mlp_dim, eps
        )
        self.to_decoder = nn.Linear(c.encoder_dim, c.decoder_dim)
        self.mask_token = nn.Parameter(torch.zeros(c.decoder_dim))
        self.decoder_positions = nn.Parameter(torch.zeros(1, 1 + num_slots, c.decoder_dim))
        self.decoder = Transformer(
            c.decoder_layers, c.decoder_dim, c.decoder_heads, c.decoder_head_dim, c.decoder_mlp_dim, eps
        )
        self.to_pixels = nn.Linear(c.decoder_dim, pixels)

        generator = torch.Generator().manual_seed(subseed(seed, "init"))
        init_weights(self, generator)
        for parameter in (self.cls, self.positions, self.mask_token, self.decoder_positions):
            nn.init.normal_(parameter, std=0.02, generator=generator)

    @property
    def num_parameters(self) -> int:
        """Trainable numbers."""
        return sum(parameter.numel() for parameter in self.parameters())

    # -- the method, in order ------------------------------------------------------------------------------------------

    def embed_patches(self, patches: Float[Tensor, "n v q"], slots: Int[Tensor, "n v"]) -> Float[Tensor, "n s d"]:
        """CLS and one token a patch, each with its learned position."""
        # A look-up, not an index: the gradient of an index is summed in no fixed order by several threads.
        tokens = self.embed(patches) + F.embedding(slots, self.positions[0, 1:])
        cls = (self.cls + self.positions[:, :1]).expand(len(patches), -1, -1)
        return torch.cat([cls, tokens], dim=1)

    def encode_tokens(self, patches: Float[Tensor, "n k p p"]) -> Float[Tensor, "n s d"]:
        """Encode unmasked scaled patches: CLS, then a token a patch (of the whole grid for ``grid="square"``)."""
        flat, slots = patches.flatten(2), self.slots
        if self.config.grid == "square":
            everything = flat.new_zeros(len(flat), self.config.grid_size**2, flat.shape[-1])
            everything[:, slots] = flat
            flat, slots = everything, torch.arange(everything.shape[1], device=flat.device)
        return self.encoder(self.embed_patches(flat, slots.expand(len(flat), -1)))

    def decode(self, encoded: Float[Tensor, "n s d"], masking: Masking) -> Float[Tensor, "n m q"]:
        """Predict the pixels of the masked patches from what was encoded (CLS first, then the visible patches)."""
        projected = self.to_decoder(encoded)
        num_slots = self.decoder_positions.shape[1] - 1
        visible, masked = self.slots[masking.visible], self.slots[masking.masked]
        index = visible[..., None].expand(-1, -1, projected.shape[-1])
        if self.config.decoder_input == "visible":
            tokens = self.mask_token.to(projected.dtype).expand(len(encoded), num_slots, -1)
            tokens = tokens.scatter(1, index, projected[:, 1:])
        else:
            # As published: the mask token marks the *visible* places and no encoded patch is passed on, so that
            # everything the decoder knows of the pattern comes through CLS.
            tokens = torch.zeros_like(projected[:, :1]).expand(-1, num_slots, -1)
            tokens = tokens.scatter(1, index, self.mask_token.to(tokens.dtype).expand_as(index))
        tokens = torch.cat([projected[:, :1], tokens], dim=1) + self.decoder_positions
        decoded = self.decoder(tokens)[:, 1:]
        return self.to_pixels(decoded.gather(1, masked[..., None].expand(-1, -1, decoded.shape[-1])))

    def forward(self, patches: Float[Tensor, "n k p p"], masking: Masking) -> Reconstruction:
        """Encode the visible patches, predict the masked ones.

        Args:
            patches: scaled lower-triangle patches.
            masking: which to hide.
        """
        flat = patches.flatten(2)
        seen = flat.gather(1, masking.visible[..., None].expand(-1, -1, flat.shape[-1]))
        encoded = self.encoder(self.embed_patches(seen, self.slots[masking.visible]))
        predicted = self.decode(encoded, masking)
        error, real = self.errors(patches, predicted, masking)
        # Not masked_select: on a GPU the host would have to wait for the number of real pixels.
        loss = error.masked_fill(~real, 0.0).sum() / real.sum()
        return Reconstruction(loss, error.mean(), predicted, masking)

    def errors(
        self, patches: Float[Tensor, "n k p p"], predicted: Float[Tensor, "n m q"], masking: Masking
    ) -> tuple[Float[Tensor, "n m q"], Bool[Tensor, "n m q"]]:
        """Squared error of every predicted pixel, and which of them are real: on or below the diagonal."""
        target = patches.flatten(2).gather(1, masking.masked[..., None].expand_as(predicted))
        return (predicted - target).square(), self.real[masking.masked]

    # -- what users call -----------------------------------------------------------------------------------------------

    def scale(self, patterns: Patterns) -> Float[Tensor, "n k p p"]:
        """Patterns as this model's input, on its device.

        Raises:
            CaptureError: if the patterns are longer than the model's ``pattern_size``, or square.
        """
        if not patterns.causal:
            raise CaptureError(
                "expected causal patterns, got square ones of an encoder; an AP-MAE reads the lower triangle only: "
                "use their probabilities() and scores instead"
            )
        fitted = patterns.repacked(self.config.patch_size).resized(self.config.pattern_size)
        # Moved as they are packed: half the bytes of what is made of them.
        fitted.log_patches = fitted.log_patches.to(self.cls.device)
        return fitted.scaled_patches(self.config.scaling)

    @torch.no_grad()
    def encode(self, patterns: Patterns, *, batch: int = 128) -> Float[ndarray, "n d"]:
        """Embed patterns: float32 (n, encoder_dim), the CLS vector of each.

        Args:
            patterns: at most ``pattern_size`` tokens; shorter ones fill the upper left corner, the rest is empty.
            batch: patterns a forward.

        Raises:
            CaptureError: if the patterns are too long, or square.
        """
        parts = [self.encode_tokens(self.scale(patterns[i : i + batch]))[:, 0] for i in range(0, len(patterns), batch)]
        if not parts:
            return np.zeros((0, self.config.encoder_dim), np.float32)
        return torch.cat(parts).float().cpu().numpy()

    @torch.no_grad()
    def reconstruct(self, patterns: Patterns, *, seed: int = 0) -> tuple[Float[Tensor, "n k p p"], Reconstruction]:
        """Mask patterns at random and predict the hidden patches.

        Returns:
            The scaled patches that were masked, and the reconstruction.
        """
        patches = self.scale(patterns)
        generator = torch.Generator().manual_seed(subseed(seed, "reconstruct"))
        masking = random_masking(len(patterns), self.config.num_patches, self.config.num_masked, generator)
        masking = Masking(*(index.to(patches.device) for index in masking))
        return patches, self(patches, masking)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of its settings and weights, as manifests and atlases note it: embeddings of two models may be
        compared if theirs is the same. Computed at each call, because weights change: about 2 GB/s.
        """
        return files.content_of(self.config, self.state_dict())

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype | None = None) -> None:
        """Write ``config.json`` and ``model.safetensors``; of a model that knows its :attr:`origin` also its card.

        Args:
            folder: where to; made if missing.
            dtype: of the stored weights; by default their own.
        """
        text = self.model_card() if self.origin else None
        files.save(Path(folder), self.config, self.state_dict(), dtype, text)

    @classmethod
    def from_pretrained(cls, source: str | Path = "bundled") -> "APMAE":
        """Load an AP-MAE, in our layout or the published one.

        Args:
            source: a folder, a hub id, or "bundled".

        Raises:
            ModelError: if there is none, it is damaged or of a newer format, or its weights do not fit its config.
        """
        found = files.load(source)
        model = cls(found.config)
        try:
            model.load_state_dict(found.weights)
        except RuntimeError as error:
            reason = "; ".join(line.strip() for line in str(error).splitlines()[1:3])
            where = found.folder / CONFIG
            raise ModelError(f"expected weights that fit {where}, they do not: {reason}") from None
        model.origin, model.source = card.read_origin(found), str(source)
        return model.eval()

    def model_card(self, repo_id: str | None = None, *, license: str | None = None) -> str:
        """What :meth:`push_to_hub` writes as README.md: Markdown with a YAML head.

        A card that lay beside the weights is taken as it is, so that it can be edited. Otherwise it is filled in from
        this model's sizes and, if it was loaded from the folder of a finished training, from its manifest and log.

        Args:
            repo_id: where the reader loads it from.
            license: of the weights, as hubs abbreviate it ("apache-2.0"); left open by default.

        Raises:
            ConfigError: if a license is given for a card that is there already, or is no identifier.
        """
        return card.model_card(self.config, self.state_dict(), self.origin, repo_id=repo_id, license=license)

    def write_upload(self, folder: str | Path, repo_id: str, *, license: str | None = None) -> None:
        """Write into a folder what :meth:`push_to_hub` uploads: weights, config and model card.

        Args:
            folder: where to; made if missing.
            repo_id: as for :meth:`push_to_hub`.
            license: as for :meth:`model_card`.

        Raises:
            ConfigError: as :meth:`model_card`.
        """
        text = self.model_card(repo_id, license=license)
        files.save(Path(folder), self.config, self.state_dict(), None, text)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        license: str | None = None,
        message: str = "Upload AP-MAE",
    ) -> str:
        """Upload weights, config and model card to a hub in one commit; the repository is made if missing.

        Args:
            repo_id: "name/repository", or "repository" for one's own.
            private: whether a new repository is private; None leaves it to the account's default.
            token: of the hub; by default the one that ``hf auth login`` keeps, or HF_TOKEN.
            license: as for :meth:`model_card`.
            message: of the commit.

        Returns:
            The commit's address.

        Raises:
            ConfigError: as :meth:`model_card`.
            ModelError: if the hub cannot be reached, or refuses.
        """
        self.model_card(repo_id, license=license)  # refused before anything is made on the hub

        def write(folder: Path, known: str) -> None:
            self.write_upload(folder, known, license=license)

        return hub.push(repo_id, write, private=private, token=token, message=message)
