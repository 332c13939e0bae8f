"""The autoencoder and its training (paper section 4)."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from apmae.config.base import Config
from apmae.config.capture import CaptureConfig

Decay = Annotated[float, Field(ge=0, lt=1)]


class APMAEConfig(Config):
    """Architecture of an AP-MAE (paper Table 2)."""

    pattern_size: int = Field(default=256, ge=2, le=2**16)
    """Side of a pattern, in tokens."""

    patch_size: int = Field(default=32, ge=1)
    """Side of a patch, in tokens; divides ``pattern_size``."""

    causal: bool = True
    """Whether patterns have nothing above the diagonal. The square ones of encoders have all patches of the grid: 64 at
    256 tokens, where causal ones have 36."""

    mask_ratio: float = Field(default=0.5, gt=0, lt=1)
    """Share of the patches hidden from the encoder while training."""

    scaling: Literal["log_normalize", "log", "raw"] = "log_normalize"
    """How log patterns become pixels (DESIGN section 4; "raw" is the paper's ablation)."""

    pixels: Literal["log", "log_and_root"] = "log"
    """What the encoder sees of a patch: scaled pixels, normalised patch by patch (the paper's way); or beside them root
    probabilities, both standardised by constants, so that patches keep their level (``docs/studies/embedding.md``)."""

    decoder_input: Literal["visible", "cls"] = "visible"
    """What the decoder sees: every visible patch ("visible", a true masked autoencoder) or the CLS vector alone
    ("cls", what the published code does)."""

    grid: Literal["triangle", "square"] = "triangle"
    """Which patches of causal patterns have a token: those on or below the diagonal, or all (the released models)."""

    encoder_layers: int = Field(default=24, ge=1)
    encoder_dim: int = Field(default=512, ge=1)
    """Length of an embedding."""
    encoder_heads: int = Field(default=16, ge=1)
    encoder_head_dim: int = Field(default=64, ge=1)
    encoder_mlp_dim: int = Field(default=2048, ge=1)

    decoder_layers: int = Field(default=8, ge=1)
    decoder_dim: int = Field(default=512, ge=1)
    decoder_heads: int = Field(default=8, ge=1)
    decoder_head_dim: int = Field(default=64, ge=1)
    decoder_mlp_dim: int = Field(default=2048, ge=1)

    layer_norm_eps: float = Field(default=1e-12, gt=0)
    """As ViT's (DESIGN section 4)."""

    @model_validator(mode="after")
    def _patches_tile_the_pattern(self) -> Self:
        if self.pattern_size % self.patch_size:
            fits = [size for size in range(1, self.pattern_size) if self.pattern_size % size == 0]
            nearest = sorted(sorted(fits, key=lambda size: abs(size - self.patch_size))[:3])
            raise ValueError(
                f"patch_size {self.patch_size} does not divide pattern_size {self.pattern_size}: take "
                f"{', '.join(map(str, nearest))}"
            )
        if self.channels > 1 and self.scaling != "log_normalize":
            raise ValueError(f"pixels {self.pixels} go with scaling log_normalize, not {self.scaling}")
        if self.grid == "square" and not self.causal:
            raise ValueError("grid 'square' is the released models' way to read causal patterns: leave it out")
        if self.num_patches < 2:
            raise ValueError(f"a pattern of {self.num_patches} patch cannot be masked: take a smaller patch_size")
        return self

    @property
    def grid_size(self) -> int:
        """Patches along one side."""
        return self.pattern_size // self.patch_size

    @property
    def channels(self) -> int:
        """Numbers per pixel."""
        return 1 if self.pixels == "log" else 2

    @property
    def num_patches(self) -> int:
        """Patches that exist: on or below the diagonal, or all if patterns are square."""
        return self.grid_size * (self.grid_size + 1) // 2 if self.causal else self.grid_size**2

    @property
    def num_masked(self) -> int:
        """Patches masked while training: at least one, and at least one stays visible."""
        return min(max(round(self.num_patches * self.mask_ratio), 1), self.num_patches - 1)


SQUARE: dict[str, Any] = {"causal": False, "crop": 0.0}
"""Settings of a training on the square patterns of encoders, which cannot be cropped."""


class TrainConfig(Config):
    """How an AP-MAE is trained (paper section 4, Training Setup)."""

    flat: ClassVar = ("capture", "model")

    model: APMAEConfig = APMAEConfig()

    objective: Literal["mae", "guided"] = "mae"
    """What is minimised: the masked autoencoder's loss (the paper's way); or that with contrast over programs of a
    grammar and over heads, and prediction of the descriptor, both from the masked CLS (``train/objectives.py``)."""

    grammar_share: float = Field(default=0.5, ge=0, lt=1)
    """Share of a guided batch that are patterns of the grammar (``patterns/grammar.py``)."""

    head_labels: bool = True
    """Whether guided training contrasts the patterns of a head with those of other heads."""

    steps: int = Field(default=150_000, ge=1)
    """Optimizer steps."""

    batch_size: int = Field(default=480, ge=1)
    """Patterns per step, over all processes."""

    accumulate: int = Field(default=1, ge=1)
    """Forward passes into which each process splits its share of a batch, if that does not fit into memory."""

    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the autoencoder's matrix products; weights, gradients and optimizer stay in float32."""

    compile: bool = False
    """Compile the autoencoder (``torch.compile``). The language model's next forward then waits for the step."""

    base_lr: float = Field(default=1.5e-4, gt=0)
    """Learning rate for a batch of 50; scaled linearly with the batch."""

    warmup_steps: int = Field(default=0, ge=0)
    """Steps of linear warm-up before the cosine; the paper does not mention any."""

    betas: tuple[Decay, Decay] = (0.9, 0.95)
    weight_decay: float = Field(default=0.05, ge=0)

    clip_norm: float | None = Field(default=None, gt=0)
    """Largest norm of the gradient; None does not clip, as in the paper."""

    capture: CaptureConfig = CaptureConfig(heads=0.25)
    """A share of each layer's heads (paper: 25 %)."""

    outcome: Literal["correct", "any"] = "correct"
    """Train on prompts that the language model answers correctly (the paper's way), or on all."""

    redraw: bool = True
    """Whether each epoch of a corpus draws other prompts. False reads the same ones again, without those that the model
    answered incorrectly: fewer forwards, where the model is often wrong and steps are many for the prompts."""

    buffer: int = Field(default=16_384, ge=1)
    """Patterns kept in each process to draw batches from, so that a batch mixes many prompts, layers and heads. They
    take 73.7 kB each at 256 tokens, 1.2 GB by default: 91 prompts of a model with 30 layers of 24 heads."""

    ema: float | None = Field(default=None, gt=0, lt=1)
    """Decay per step of a running average of the weights, which becomes the encoder. Not in the paper."""

    crop: float = Field(default=0.0, ge=0, le=1)
    """Share of patterns cropped to a random shorter prompt, so that the encoder knows short ones. Not in the paper."""

    checkpoint_every: int = Field(default=500, ge=1)
    """Steps between checkpoints: the most that a killed run has to repeat."""

    log_every: int = Field(default=10, ge=1)
    """Steps between lines of ``metrics.jsonl``."""

    panel_every: int = Field(default=1000, ge=1)
    """Steps between pictures of how the decoder fills in hidden patches (paper Figure 3)."""

    seed: int = 0

    @model_validator(mode="after")
    def _square_patterns_are_whole(self) -> Self:
        if self.crop and not self.model.causal:
            raise ValueError(f"crop is {self.crop}, but rows of square patterns depend on all tokens: set it to 0")
        return self

    @property
    def lr(self) -> float:
        """Peak learning rate: ``base_lr * batch_size / 50`` (paper: 1.44e-3 at batch 480)."""
        return self.base_lr * self.batch_size / 50
