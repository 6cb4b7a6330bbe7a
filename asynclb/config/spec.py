"""What every part of the configuration has in common."""

from typing import get_args

from pydantic import BaseModel, ConfigDict


class Spec(BaseModel):
    """A part of the configuration: unknown keys are refused, nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @classmethod
    def part(cls, key: str) -> "type[Spec] | None":
        """Return the class of the part under `key` (`tls` of a probe), or None where there is a plain value."""
        field = cls.model_fields.get(key)
        kind = field.annotation if field is not None else None
        choices = get_args(kind) or (kind,)  # `AdminTlsSpec | None` is one of two
        return next((found for found in choices if isinstance(found, type) and issubclass(found, Spec)), None)
