"""Registries of models, scorers and samplers of this package and of others, with the keys they read."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import cache, cached_property
from importlib import import_module
from importlib.metadata import EntryPoints, entry_points
from pkgutil import resolve_name
from typing import NamedTuple, TypeVar

from recbole_dealrec.config.declared import declared
from recbole_dealrec.config.key import NOTHING, STEPS, Key
from recbole_dealrec.config.rows import KEYS
from recbole_dealrec.errors import InputError, closest

T = TypeVar("T", bound=type)
SURROGATE_PREFIX = "surrogate_"


class Entry(NamedTuple):
    """A registered class and its configuration keys."""

    registered_class: type
    keys: tuple[Key, ...]


class Registry:
    """Classes with a common base class, by name.

    Args:
        kind: kind of the classes, for errors: "sampler".
        group: entry-point group of other packages' classes.
        module: module whose import registers this package's classes.
        base: their base class, as ``module:name``.
        steps: steps of a run that their keys may change; a single one is the default of a key without a step.

    Attributes:
        entries: registered classes and their keys, by name.
    """

    def __init__(self, kind: str, group: str, module: str, base: str, steps: tuple[str, ...]) -> None:
        self.kind, self.group, self.module = kind, group, module
        self.entries: dict[str, Entry] = {}
        self._base, self._steps = base, steps

    @cached_property
    def base(self) -> type:
        """Return the class they are derived from."""
        return resolve_name(self._base)

    def register(self, name: str, keys: Iterable[Key] = ()) -> Callable[[T], T]:
        """Return a class decorator that registers a class under ``name`` with its configuration keys.

        Raises:
            TypeError: the class is not derived from ``base``.
            ValueError: another class has the name, or a key cannot be declared.
        """

        def decorate(cls: T) -> T:
            if not (isinstance(cls, type) and issubclass(cls, self.base)):
                raise TypeError(f"{self.kind} '{name}' has to be a subclass of {self.base.__name__}, not {cls!r}")
            entry = self.entries.get(name)
            if entry is None:
                self.entries[name] = Entry(cls, tuple(self._check_key(key, name) for key in keys))
            elif entry.registered_class is not cls:
                other = entry.registered_class.__qualname__
                raise ValueError(f"{self.kind} '{name}' is registered already, as {other}")
            return cls

        return decorate

    def get(self, name: str) -> type:
        """Return the class with a registered or entry-point name.

        Raises:
            InputError: there is no such class (the message lists all), or its package cannot be loaded.
            TypeError: the entry point is not a subclass of ``base``.
        """
        self.check(name)
        self.find(name)
        return self.entries[name].registered_class

    def check(self, name: str) -> None:
        """Raise InputError if there is no class of this name, and list the known names; no class is imported."""
        if name not in self:
            names = self.names()
            raise InputError(f"no {self.kind} '{name}'; choose one of {', '.join(names)}{closest(name, names)}")

    def find(self, name: str) -> Entry | None:
        """Return the entry of a name, after loading its entry point if necessary; None if there is none.

        Raises:
            InputError: the package of the entry point cannot be loaded.
            TypeError: the entry point is not a subclass of ``base``.
        """
        if name not in self.entries:
            import_module(self.module)
        for entry_point in () if name in self.entries else self._entry_points().select(name=name):
            try:
                loaded = entry_point.load()
            except Exception as error:  # another package may raise any error
                cause = f"{type(error).__name__}: {error}"
                raise InputError(f"{self.kind} '{name}' ({entry_point.value}) cannot be loaded: {cause}") from error
            keys = [key for entry in self.entries.values() if entry.registered_class is loaded for key in entry.keys]
            self.register(name, keys)(loaded)
        return self.entries.get(name)

    def names(self) -> list[str]:
        """Return all names, including those of other packages; no class is imported."""
        return sorted({*self.entries, *declared(self.module), *self._entry_points().names})

    def load_all(self) -> None:
        """Load all entry points, except those that cannot be loaded."""
        for name in self._entry_points().names:
            with suppress(InputError, TypeError, ValueError):
                self.find(name)

    def __contains__(self, name: str) -> bool:
        return name in self.names()

    def __iter__(self) -> Iterator[str]:
        import_module(self.module)
        return iter(self.entries)

    def _entry_points(self) -> EntryPoints:
        return _entry_points(self.group, tuple(sys.path))

    def _check_key(self, key: Key, name: str) -> Key:
        """Return a key of class ``name`` with its step; raise ValueError if it cannot be declared."""
        message = f"key '{key.name}' of {self.kind} '{name}'"
        step = self._steps[0] if key.step is None and len(self._steps) == 1 else key.step
        if step not in (*self._steps, NOTHING):
            raise ValueError(f"{message}: its step has to be one of {', '.join((*self._steps, NOTHING))}, not {step}")
        if not key.kind.accepts(key.default):
            raise ValueError(f"{message}: its default has to be {key.kind.description}, not {key.default!r}")
        key = replace(key, step=step)
        others = [owner for owner, other in registered_keys() if other.name == key.name and other != key]
        if key.name in KEYS or key.name.startswith(SURROGATE_PREFIX):
            others.append("recbole_dealrec")
        if others:
            raise ValueError(f"{message} is declared already, by {others[0]}")
        return key


@cache
def _entry_points(group: str, path: tuple[str, ...]) -> EntryPoints:
    """Return the entry points of a group; ``path``, the module search path, is part of the cache's key."""
    return entry_points(group=group)


MODELS = Registry(
    "model", "recbole_dealrec.models", "recbole_dealrec.model", "recbole_dealrec.model.recommender:LLMRecommender",
    steps=("language model", "effort", "fine-tuning", "evaluation"),
)  # fmt: skip
SCORERS = Registry(
    "scorer", "recbole_dealrec.scorers", "recbole_dealrec.scorer", "recbole_dealrec.scorer.scorer:Scorer",
    steps=STEPS[STEPS.index("surrogate") : STEPS.index("selection")],
)  # fmt: skip
SAMPLERS = Registry(
    "sampler", "recbole_dealrec.samplers", "recbole_dealrec.sampler", "recbole_dealrec.sampler.few_shot:FewShotSampler",
    steps=("selection",),
)  # fmt: skip
REGISTRIES = (MODELS, SCORERS, SAMPLERS)


def registered_keys() -> Iterator[tuple[str, Key]]:
    """Yield the keys of registered models, scorers and samplers, each after the name of its class."""
    for registry in REGISTRIES:
        for name, entry in registry.entries.items():
            for key in entry.keys:
                yield f"{registry.kind} '{name}'", key


def load_all() -> None:
    """Load the models, scorers and samplers of all packages for their keys, except those that cannot be loaded."""
    for registry in REGISTRIES:
        registry.load_all()


def key_of(name: str) -> Key | None:
    """Return the row of a key, None for an unknown key; the row of ``surrogate_<key>`` derives from ``<key>``."""
    if name in KEYS:
        return KEYS[name]
    for _, key in registered_keys():
        if key.name == name:
            return key
    if str(name).startswith(SURROGATE_PREFIX):
        base = KEYS.get(name.removeprefix(SURROGATE_PREFIX), Key(name))
        return replace(base, name=name, step=NOTHING if base.step == NOTHING else "surrogate", idle=None)
    return None
