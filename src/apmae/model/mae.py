"""AP-MAE, in the paper's order: embed the patches, mask, encode, decode, loss (paper section 4, Figure 2).

Of causal patterns only patches on or below the diagonal are embedded and decoded, of square ones all. With
``grid="square"`` there are positions for the whole grid of causal patterns, and encoding feeds all of it, zeros above
the diagonal included, as the released models expect.

With ``pixels="log_and_root"`` a patch has two channels: the scaled pixels and root probabilities. They are standardised
by constants, where the published patch embedding begins with a LayerNorm, which takes every patch's level and contrast
away; and the loss is over both.

Positions are looked up with ``F.embedding``, not by index: several threads sum the gradient of an index in no fixed
order, and no two runs would be equal.

Axes: n patterns, k patches (36 at paper size), c channels, p pixels along a patch, q pixels of a patch (p * p), v
visible and m masked patches, d encoder width, e decoder width.
"""

from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor, nn
from torch.nn import functional as F

from apmae.config import APMAEConfig
from apmae.errors import ModelError
from apmae.model import card, files, hub
from apmae.model.blocks import Standardise, Transformer, init_weights
from apmae.model.encoding import Encoding
from apmae.model.folder import CONFIG, expect_shape
from apmae.model.masking import Masking, random_masking
from apmae.patterns import geometry
from apmae.patterns.patterns import Patterns
from apmae.patterns.whitening import Whitening
from apmae.seeding import subseed

_BATCH = 128
"""Patterns encoded at a time where ``Encoding`` does not: on another device, or under autocast."""


class Reconstruction(NamedTuple):
    """What a training forward returns."""

    loss: Float[Tensor, ""]
    """Mean squared error over the real pixels of masked patches, of all standardised channels: what is minimised."""
    published_loss: Float[Tensor, ""]
    """Of the scaled pixels alone, over all of them, the constant upper halves of diagonal patches included: for
    comparison."""
    predicted: Float[Tensor, "n m q"]
    """Scaled pixels."""
    masking: Masking
    cls: Float[Tensor, "n d"]
    """What the encoder made of the visible patches."""


class APMAE(nn.Module):
    """The attention pattern masked autoencoder.

    Attributes:
        config: its sizes, masking and scaling.
        origin: what its folder says about its training; None if nothing, or if it was not loaded.
        source: folder, hub id or "bundled" that it was loaded from; None if it was not loaded.
        whitening: constants for its CLS in a joint representation (``model/represent.py``); None if not computed yet.
    """

    def __init__(self, config: APMAEConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.origin: card.Origin | None = None
        self.source: str | None = None
        self.whitening: Whitening | None = None
        c = config
        pixels = c.channels * c.patch_size**2
        rows, columns = geometry.tiles(c.grid_size, c.causal)
        slots = torch.arange(c.num_patches) if c.grid == "triangle" else rows * c.grid_size + columns
        num_slots = c.num_patches if c.grid == "triangle" else c.grid_size**2
        self.slots: Tensor
        self.real: Tensor
        self.register_buffer("slots", slots, persistent=False)  # k -> position of the patch
        real = geometry.real_pixels(c.grid_size, c.patch_size, c.causal).flatten(1)
        self.register_buffer("real", real, persistent=False)  # k q

        eps = c.layer_norm_eps
        first = nn.LayerNorm(pixels, eps=eps) if c.channels == 1 else Standardise(c.patch_size)
        self.embed = nn.Sequential(first, nn.Linear(pixels, c.encoder_dim), nn.LayerNorm(c.encoder_dim, eps=eps))
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
        """How many trainable parameters it has."""
        return sum(parameter.numel() for parameter in self.parameters())

    # -- the method, in order ------------------------------------------------------------------------------------------

    def embed_patches(self, patches: Float[Tensor, "n v q"], slots: Int[Tensor, "n v"]) -> Float[Tensor, "n s d"]:
        """CLS and one token per patch, each with its learned position."""
        tokens = self.embed(patches) + F.embedding(slots, self.positions[0, 1:])
        cls = (self.cls + self.positions[:, :1]).expand(len(patches), -1, -1)
        return torch.cat([cls, tokens], dim=1)

    def encode_tokens(self, patches: Float[Tensor, "n k c p p"]) -> Float[Tensor, "n s d"]:
        """Encode unmasked scaled patches: CLS, then one token per patch (of the whole grid for ``grid="square"``)."""
        flat = self._fed(patches)
        return self.encoder(self.embed_patches(flat, self._fed_slots.expand(len(flat), -1)))

    def _fed(self, patches: Float[Tensor, "n k c p p"]) -> Float[Tensor, "n v q"]:
        """What is fed of unmasked patches: all of them, or the whole grid with nothing in place of the others."""
        flat = patches.flatten(2)
        if self.config.grid == "triangle":
            return flat
        everything = flat.new_zeros(len(flat), self.config.grid_size**2, flat.shape[-1])
        everything[:, self.slots] = flat
        return everything

    @property
    def _fed_slots(self) -> Int[Tensor, " v"]:
        """The positions of what is fed."""
        return self.slots if self.config.grid == "triangle" else torch.arange(self.config.grid_size**2).to(self.slots)

    def decode(self, encoded: Float[Tensor, "n s d"], masking: Masking) -> Float[Tensor, "n m cq"]:
        """Predict the pixels of the masked patches from what was encoded (CLS first, then the visible patches)."""
        projected = self.to_decoder(encoded)
        num_slots = self.decoder_positions.shape[1] - 1
        visible, masked = self.slots[masking.visible], self.slots[masking.masked]
        index = visible[..., None].expand(-1, -1, projected.shape[-1])
        if self.config.decoder_input == "visible":
            tokens = self.mask_token.to(projected.dtype).expand(len(encoded), num_slots, -1)
            tokens = tokens.scatter(1, index, projected[:, 1:])
        else:
            # As published: the mask token is put in the *visible* places and no encoded patch is passed on. All that
            # the decoder knows about the pattern comes through CLS.
            tokens = torch.zeros_like(projected[:, :1]).expand(-1, num_slots, -1)
            tokens = tokens.scatter(1, index, self.mask_token.to(tokens.dtype).expand_as(index))
        tokens = torch.cat([projected[:, :1], tokens], dim=1) + self.decoder_positions
        decoded = self.decoder(tokens)[:, 1:]
        return self.to_pixels(decoded.gather(1, masked[..., None].expand(-1, -1, decoded.shape[-1])))

    def forward(self, patches: Float[Tensor, "n k c p p"], masking: Masking) -> Reconstruction:
        """Encode the visible patches, predict the masked ones.

        Args:
            patches: those that exist, from :meth:`scale`.
            masking: which patches to hide.
        """
        flat = patches.flatten(2)
        seen = flat.gather(1, masking.visible[..., None].expand(-1, -1, flat.shape[-1]))
        encoded = self.encoder(self.embed_patches(seen, self.slots[masking.visible]))
        decoded = self.decode(encoded, masking)
        scaled = self.config.patch_size**2
        if self.config.channels == 1:
            predicted = decoded
            error, real = self.errors(patches, predicted, masking)
            loss = _mean(error, real)
        else:
            target = flat.gather(1, masking.masked[..., None].expand_as(decoded))
            standard = cast(Standardise, self.embed[0])
            wrong = (decoded - standard(target)).square().unflatten(2, (self.config.channels, scaled))
            predicted = standard.inverse(decoded)[..., :scaled]
            error, real = self.errors(patches, predicted, masking)
            loss = _mean(wrong.mean(2), real)
        return Reconstruction(loss, error.mean(), predicted, masking, encoded[:, 0])

    def errors(
        self, patches: Float[Tensor, "n k c p p"], predicted: Float[Tensor, "n m q"], masking: Masking
    ) -> tuple[Float[Tensor, "n m q"], Bool[Tensor, "n m q"]]:
        """Squared error of every predicted scaled pixel, and which are real: not above a causal pattern's diagonal."""
        target = patches[:, :, 0].flatten(2).gather(1, masking.masked[..., None].expand_as(predicted))
        return (predicted - target).square(), self.real[masking.masked]

    # -- what users call -----------------------------------------------------------------------------------------------

    def scale(self, patterns: Patterns) -> Float[Tensor, "n k c p p"]:
        """Patterns as this model's input, on its device: scaled pixels and, in a second channel, root probabilities.

        Raises:
            CaptureError: if the patterns are longer than the model's ``pattern_size``, or square where the model reads
                causal ones, or the other way round.
        """
        expect_shape(causal=self.config.causal, found=patterns.causal)
        fitted = patterns.repacked(self.config.patch_size).resized(self.config.pattern_size)
        # Moved while packed: half the bytes of the scaled patches.
        fitted.log_patches = fitted.log_patches.to(self.cls.device)
        scaled = fitted.scaled_patches(self.config.scaling)
        if self.config.channels == 1:
            return scaled[:, :, None]
        return torch.stack([scaled, fitted.log_patches.float().mul(0.5).exp_()], dim=2)

    @torch.no_grad()
    def encode(self, patterns: Patterns, *, batch: int | None = None) -> Float[ndarray, "n d"]:
        """Embed patterns: float32 (n, encoder_dim), the CLS vector of each.

        Args:
            patterns: at most ``pattern_size`` tokens; shorter ones fill the upper left corner, the rest is empty.
            batch: patterns per forward pass; None: as many as a core's cache holds on a CPU, 128 elsewhere.

        Raises:
            CaptureError: as for :meth:`scale`.
        """
        if not len(patterns):
            return np.zeros((0, self.config.encoder_dim), np.float32)
        own = list(self.parameters())
        if all(of.device.type == "cpu" and of.dtype == torch.float32 for of in own) and not torch.is_autocast_enabled(
            "cpu"
        ):
            places = self.positions[0]
            encoding = Encoding(self.embed, self.encoder, self.cls[0, 0] + places[0], places[1 + self._fed_slots])

            def pixels(begin: int, end: int) -> Float[Tensor, "n v q"]:
                return self._fed(self.scale(patterns[begin:end]))

            return encoding.encode(pixels, len(patterns), batch).numpy()
        batch = batch or _BATCH
        starts = range(0, len(patterns), batch)
        parts = [self.encode_tokens(self.scale(patterns[i : i + batch]))[:, 0] for i in starts]
        return torch.cat(parts).float().cpu().numpy()

    @torch.no_grad()
    def reconstruct(self, patterns: Patterns, *, seed: int = 0) -> tuple[Float[Tensor, "n k p p"], Reconstruction]:
        """Mask patterns at random and predict the hidden patches.

        Returns:
            The scaled pixels of all patches, and the reconstruction.
        """
        patches = self.scale(patterns)
        generator = torch.Generator().manual_seed(subseed(seed, "reconstruct"))
        masking = random_masking(len(patterns), self.config.num_patches, self.config.num_masked, generator)
        masking = Masking(*(index.to(patches.device) for index in masking))
        return patches[:, :, 0], self(patches, masking)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of its settings and weights, as in manifests and atlases: embeddings of two models may be compared if
        theirs is the same. It is computed at each call, because weights change, at about 2 GB/s.
        """
        return files.content_of(self.config, self.state_dict())

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype | None = None) -> None:
        """Write ``config.json`` and ``model.safetensors``; for a model that knows its :attr:`origin`, also its card.

        Args:
            folder: where to write; created if missing.
            dtype: type of the stored weights; by default their own.
        """
        text = self.model_card() if self.origin else None
        files.save(Path(folder), self.config, self.state_dict(), dtype, text, self.whitening)

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
        model.whitening = found.whitening
        return model.eval()

    def model_card(self, repo_id: str | None = None, *, license: str | None = None) -> str:
        """What :meth:`push_to_hub` writes as README.md: Markdown with a YAML header.

        A card beside the weights is used as it is, so that it can be edited. Otherwise the card is filled in from
        this model's sizes and, if it was loaded from the folder of a finished training, from its manifest and log.

        Args:
            repo_id: where readers load the model from.
            license: of the weights, as hubs abbreviate it ("apache-2.0"); left open by default.

        Raises:
            ConfigError: if a license is given although there is a card already, or is not an identifier.
        """
        return card.model_card(self.config, self.state_dict(), self.origin, repo_id=repo_id, license=license)

    def write_upload(self, folder: str | Path, repo_id: str, *, license: str | None = None) -> None:
        """Write into a folder what :meth:`push_to_hub` uploads: weights, config and model card.

        Args:
            folder: where to write; created if missing.
            repo_id: as for :meth:`push_to_hub`.
            license: as for :meth:`model_card`.

        Raises:
            ConfigError: as :meth:`model_card`.
        """
        text = self.model_card(repo_id, license=license)
        files.save(Path(folder), self.config, self.state_dict(), None, text, self.whitening)

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
            repo_id: "name/repository", or "repository" under your own account.
            private: whether a new repository is private; None leaves it to the account's default.
            token: the hub's; by default the one that ``hf auth login`` stored, or HF_TOKEN.
            license: as for :meth:`model_card`.
            message: the commit message.

        Returns:
            The URL of the commit.

        Raises:
            ConfigError: as :meth:`model_card`.
            ModelError: if the hub cannot be reached, or refuses.
        """
        self.model_card(repo_id, license=license)  # refused before anything is made on the hub

        def write(folder: Path, full_name: str) -> None:
            self.write_upload(folder, full_name, license=license)

        return hub.push(repo_id, write, private=private, token=token, message=message)


def _mean(error: Float[Tensor, "n m q"], real: Bool[Tensor, "n m q"]) -> Float[Tensor, ""]:
    """The mean over real pixels. Not masked_select: on a GPU the host would have to wait for their number."""
    return error.masked_fill(~real, 0.0).sum() / real.sum()
