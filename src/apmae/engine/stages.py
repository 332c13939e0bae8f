"""What the stages have in common: their language model, and what decides their bytes."""

from typing import TYPE_CHECKING, Any

from apmae.config import Config, LMConfig

if TYPE_CHECKING:
    from apmae.lm.language_model import LM


def opened(lm: "LM | LMConfig") -> "LM":
    """A language model, loaded if it is not yet."""
    if not isinstance(lm, LMConfig):
        return lm
    from apmae.lm.load import load

    return load(lm)


def decisive(config: Config, lm: "LM | None") -> dict[str, Any]:
    """What decides a stage's bytes besides its inputs.

    Its configuration, the precision of the model, how prompts are arranged and answers judged; and the attention
    implementation, if one was chosen.
    """
    settings = config.model_dump(mode="json")
    if lm is None:
        return settings
    arrangement = lm.sentinels or lm.masks
    infill = arrangement.template if arrangement else "none"
    chosen = {} if lm.config.attention is None else {"attention": lm.config.attention}
    dtype = str(lm.model.dtype).removeprefix("torch.")
    return {**settings, "dtype": dtype, "infill": infill, "outcome_rule": lm.config.outcome_rule} | chosen
