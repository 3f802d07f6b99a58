"""How a setting is declared: everything that is known of it, in one place.

A setting is a field of a frozen dataclass, made with :func:`setting`. Flags, help, checks, the tables of the
documentation, what a run directory compares and what may differ between runs in lockstep are all computed from
:func:`declared`; a new setting is one field and nothing else.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

from finetune_jax.config.groups import RUN, Group
from finetune_jax.config.ranges import Range

Conditions = Mapping[str, tuple[Any, ...]]
"""``{another setting: its values}``; all of them have to hold."""

_AS_DEFAULT: Any = object()


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is known of a setting.

    Attributes:
        name: of the field, and of its flag.
        type: its annotation.
        default: its value where none is given.
        text: of its flag, one or more sentences that stand alone.
        group: where ``--help`` shows it.
        important: its place among the few that every ``--help`` begins with, from 1; 0 is not among them.
        choices: the values it may have; None where they are not listed.
        words: what may stand in the place of a number.
        range: of its numbers.
        only_with: values of other settings without which it has no effect.
        value_only_with: the same for single values of it, ``{value: conditions}``.
        why: completes "has no meaning with --method=standard, …" where ``only_with`` does not hold; empty lists
            what it is for.
        runtime: whether no compiled program knows it, so that runs that differ in it can train in lockstep.
        local: whether it is about the machine or the place, and may differ when a run is started again.
        reading: whether it decides which images are read and how, and counts for every data set that is compared.
        before: the value that runs behaved as that were made before the setting existed.
        spelling: from a word on the command line to the value that is kept.
        aliases: what other tools call it; a flag of that name is answered with ours.
    """

    name: str
    type: Any
    default: Any
    text: str
    group: Group
    important: int
    choices: tuple[str, ...] | None
    words: tuple[str, ...]
    range: Range | None
    only_with: Conditions
    value_only_with: Mapping[Any, Conditions]
    why: str
    runtime: bool
    local: bool
    reading: bool
    before: Any
    spelling: Callable[[str], str] | None
    aliases: tuple[str, ...]

    @property
    def needs(self) -> str:
        """A sentence on the settings that give this one an effect; empty where it always has one."""
        conditions = [
            f"--{other}={_listed(list(map(written, needed)))}" for other, needed in self.only_with.items()
        ]
        return f"Only with {_listed(conditions, 'and')}." if conditions and not self.why else ""

    def unmet(self, values: Mapping[str, Any]) -> str | None:
        """The other setting for which this one has no effect.

        Args:
            values: of all settings, ``{name: value}``; conditions on settings that are not among them hold.

        Returns:
            Its name; None where the setting has its default or an effect.
        """
        value = values[self.name]
        if value == self.default:
            return None
        conditions = [self.only_with]
        if isinstance(value, str):
            conditions.append(self.value_only_with.get(value, {}))
        for condition in conditions:
            for other, needed in condition.items():
                if other in values and values[other] not in needed:
                    return other
        return None

    def refusal(self, values: Mapping[str, Any]) -> str | None:
        """A sentence that says why the setting has no effect; None where it has one, or its default."""
        other = self.unmet(values)
        if other is None:
            return None
        flag = f"--{self.name}={written(values[self.name])}"
        switch = f"--{other}={written(values[other])}"
        if values[other] in self.only_with.get(other, (values[other],)):
            needed = self.value_only_with[values[self.name]][other]
        elif self.why:
            return f"{flag} has no meaning with {switch}, {self.why}"
        else:
            needed = self.only_with[other]
        return f"{flag} is for --{other}={' or '.join(map(written, needed))} and has no meaning with {switch}"


def setting(
    default: Any,
    text: str,
    choices: tuple[str, ...] | None = None,
    *,
    group: Group = RUN,
    important: int = 0,
    words: tuple[str, ...] = (),
    range: Range | None = None,
    only_with: Conditions | None = None,
    value_only_with: Mapping[Any, Conditions] | None = None,
    why: str = "",
    runtime: bool = False,
    local: bool = False,
    reading: bool = False,
    before: Any = _AS_DEFAULT,
    spelling: Callable[[str], str] | None = None,
    aliases: tuple[str, ...] = (),
) -> Any:
    """A dataclass field that is a setting; see :class:`Setting` for the arguments.

    A tuple is a list of whole numbers where its annotation says so, else of words. None is a number that is not
    given.
    """
    known = {
        "text": text,
        "group": group,
        "important": important,
        "choices": choices,
        "words": words,
        "range": range,
        "only_with": only_with or {},
        "value_only_with": value_only_with or {},
        "why": why,
        "runtime": runtime,
        "local": local,
        "reading": reading,
        "before": default if before is _AS_DEFAULT else before,
        "spelling": spelling,
        "aliases": aliases,
    }
    return dataclasses.field(default=default, metadata=known)


def declared(config_class: Any) -> Mapping[str, Setting]:
    """The settings of a config dataclass, ``{name: setting}``, in the order of its fields."""
    return _declared(config_class)


@functools.cache
def _declared(config_class: Any) -> Mapping[str, Setting]:
    return {
        field.name: Setting(field.name, field.type, field.default, **field.metadata)
        for field in dataclasses.fields(config_class)
    }


def written(value: Any) -> str:
    """A value as it is typed on the command line; an empty text for None and for nothing.

    >>> written((2, 4)), written(True), written(0.5)
    ('2,4', 'true', '0.5')
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return ",".join(map(str, value))
    return str(value)


def _listed(words: list[str], last: str = "or") -> str:
    return f" {last} ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def with_property(config_class: type, name: str) -> tuple[str, ...]:
    """Names of the settings of a config dataclass for which ``runtime``, ``local``, … is true."""
    return tuple(setting.name for setting in declared(config_class).values() if getattr(setting, name))
