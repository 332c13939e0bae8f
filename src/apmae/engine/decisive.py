"""What decides a stage's bytes beside its inputs. Torch-free."""

from typing import TYPE_CHECKING, Any

from apmae.config import Config

if TYPE_CHECKING:
    from apmae.lm.load import LM


def decisive(config: Config, lm: "LM | None") -> dict[str, Any]:
    """Its configuration, the precision that the model ran in, and how its prompts were arranged."""
    settings = config.model_dump(mode="json")
    if lm is None:
        return settings
    infill = lm.sentinels.template if lm.sentinels else "none"
    return {**settings, "dtype": str(lm.model.dtype).removeprefix("torch."), "infill": infill}
