"""What every configuration is: frozen, keyword-only, validated here and nowhere else."""

import hashlib
import json
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from apmae.errors import ConfigError


def _expect_share(heads: float | str) -> float | str:
    if isinstance(heads, float) and not 0 < heads <= 1:
        raise ValueError(f"heads is {heads}: expected 'all' or a share in (0, 1]")
    return heads


Share = Annotated[float | Literal["all"], AfterValidator(_expect_share)]


class Config(BaseModel):
    """Base: immutable, unknown keys refused, field docstrings kept for ``--help`` and error messages."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @property
    def digest(self) -> str:
        """Twelve hex digits of the SHA-256 of all fields: the same in every process, unlike ``hash()``."""
        fields = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(fields.encode()).hexdigest()[:12]


C = TypeVar("C", bound=Config)


def parse(kind: type[C], values: dict[str, Any], where: str) -> C:
    """Validate settings that a user wrote.

    Args:
        kind: the configuration to build.
        values: its fields.
        where: what to call the place in the message, a file name for instance.

    Raises:
        ConfigError: one line naming each field that does not fit, what came and what was expected.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = []
        for item in error.errors():
            field = ".".join(str(part) for part in item["loc"]) or kind.__name__
            came = "" if isinstance(item["input"], dict) else f", got {item['input']!r}"  # its message names what came
            problems.append(f"{field}: {item['msg']}{came}"[:300])
        raise ConfigError(f"{where}: " + "; ".join(problems)) from None
