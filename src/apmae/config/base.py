"""The base of every configuration: frozen, keyword-only, validated here and nowhere else.

Parts that are passed on whole (``capture``, ``lm``) are separate configurations. In files and on the command line their
fields may be given directly (``Config.flat``): ``--set batch=4`` instead of ``--set capture.batch=4``.
"""

import hashlib
import json
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from apmae.errors import ConfigError


class Config(BaseModel):
    """Base: immutable, unknown keys refused, field docstrings kept for ``--help`` and error messages."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    flat: ClassVar[tuple[str, ...]] = ()
    """Fields that hold a configuration as a part, whose fields may also be given directly, beside the part."""

    @classmethod
    def lifted(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Settings as a user writes them, the fields of :attr:`flat` parts moved into their part. Not validated.

        Raises:
            ValueError: if a field is given in both places.
        """
        values = dict(values)
        for part in cls.flat:
            kind = type(cls.model_fields[part].default)
            direct = {name: values.pop(name) for name in kind.model_fields if name in values}
            if not direct:
                continue
            given = values.get(part, {})
            names = given
            if not isinstance(given, dict):  # a whole configuration
                try:
                    found = kind.model_validate(given)
                except ValidationError:
                    continue  # refused where the part is validated
                given, names = found.model_dump(), found.model_fields_set
            for name in direct.keys() & set(names):
                raise ValueError(f"{name} is given twice, as {name} and as {part}.{name}: leave one out")
            values[part] = given | direct
        return values

    @model_validator(mode="before")
    @classmethod
    def _parts(cls, values: Any) -> Any:
        """Fill in the fields that a part leaves out: they are this configuration's default."""
        if not isinstance(values, dict):
            return values
        values = cls.lifted(values)
        for part in cls.flat:
            default = cls.model_fields[part].default
            if isinstance(values.get(part), dict):
                values[part] = {**default.model_dump(), **values[part]}
        return values

    def changed(self, changes: dict[str, Any]) -> dict[str, Any]:
        """All fields, some of them changed; not yet validated (see :func:`parse`).

        Args:
            changes: the new values; those of :attr:`flat` parts directly or in their part.

        Raises:
            ConfigError: if a field is given in both places.
        """
        try:
            changes = self.lifted(changes)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        values = self.model_dump()
        for name, value in changes.items():
            part = name in self.flat and isinstance(value, dict)
            values[name] = values[name] | value if part else value
        return values

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
        where: what the message calls the place they come from, for instance a file name.

    Raises:
        ConfigError: one line that names each field that does not fit, what was given and what was expected.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = []
        for item in error.errors():
            field = ".".join(str(part) for part in item["loc"]) or kind.__name__
            # pydantic's message about a whole configuration names the values itself
            got = "" if isinstance(item["input"], dict) else f", got {item['input']!r}"
            problems.append(f"{field}: {item['msg'].removeprefix('Value error, ')}{got}"[:300])
        raise ConfigError(f"{where}: " + "; ".join(problems)) from None
