"""What is found by its name, in this package or another: models, scorers and samplers, with the keys they read."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import cache, cached_property
from importlib import import_module
from importlib.metadata import EntryPoints, entry_points
from pkgutil import resolve_name
from typing import NamedTuple, TypeVar

from recbole_dealrec.config.key import NOTHING, STEPS, Key
from recbole_dealrec.config.rows import KEYS
from recbole_dealrec.errors import InputError

T = TypeVar("T", bound=type)
SURROGATE_PREFIX = "surrogate_"


class Entry(NamedTuple):
    """A registered class and the configuration keys that are declared with it."""

    thing: type
    keys: tuple[Key, ...]


class Registry:
    """Classes of one sort by name.

    Args:
        sort: what they are, for errors: "sampler".
        group: entry-point group in which other packages name theirs.
        home: module whose import registers this package's own.
        base: class they are derived from, or protocol they follow, as ``module:name``.
        steps: steps of a run that their keys may change; if there is but one, it is what a key changes that names none.

    Attributes:
        entries: what is registered, by name.
    """

    def __init__(self, sort: str, group: str, home: str, base: str, steps: tuple[str, ...]) -> None:
        self.sort, self.group, self.home = sort, group, home
        self.entries: dict[str, Entry] = {}
        self._base, self._steps = base, steps

    @cached_property
    def base(self) -> type:
        """The class they are derived from."""
        return resolve_name(self._base)

    def register(self, name: str, keys: Iterable[Key] = ()) -> Callable[[T], T]:
        """Make a class known as ``name``, and configuration keys of its own; a class decorator.

        Raises:
            TypeError: the class is not derived from ``base``.
            ValueError: the name is taken by another class, or a key cannot be declared.
        """

        def enter(thing: T) -> T:
            if not (isinstance(thing, type) and issubclass(thing, self.base)):
                raise TypeError(f"{self.sort} '{name}' has to be a subclass of {self.base.__name__}, not {thing!r}")
            known = self.entries.get(name)
            if known is None:
                self.entries[name] = Entry(thing, tuple(self._declared(key, name) for key in keys))
            elif known.thing is not thing:
                raise ValueError(f"{self.sort} '{name}' is registered already, as {known.thing.__qualname__}")
            return thing

        return enter

    def get(self, name: str) -> type:
        """Return the class of a registered name or entry point.

        Raises:
            InputError: there is none of this name, or its package fails; the known names are listed.
            TypeError: the entry point is something else.
        """
        if self.find(name) is None:
            raise InputError(f"no {self.sort} '{name}'; known are {', '.join(self.names())}")
        return self.entries[name].thing

    def find(self, name: str) -> Entry | None:
        """Return what is registered under a name, whose entry point is loaded if need be; None if there is nothing.

        Raises:
            InputError: the package of the entry point fails.
            TypeError: the entry point is something else.
        """
        if name not in self.entries:
            import_module(self.home)
        for entry_point in () if name in self.entries else self._entry_points().select(name=name):
            try:
                thing = entry_point.load()
            except Exception as error:  # a package of somebody else may fail in any way
                told = f"{type(error).__name__}: {error}"
                raise InputError(f"{self.sort} '{name}' ({entry_point.value}) cannot be loaded: {told}") from error
            keys = [key for entry in self.entries.values() if entry.thing is thing for key in entry.keys]
            self.register(name, keys)(thing)
        return self.entries.get(name)

    def names(self) -> list[str]:
        """Return all names, those of other packages included."""
        import_module(self.home)
        return sorted({*self.entries, *self._entry_points().names})

    def load_all(self) -> None:
        """Load the entry points of all packages but of those that fail."""
        for name in self._entry_points().names:
            with suppress(InputError, TypeError, ValueError):
                self.find(name)

    def __contains__(self, name: str) -> bool:
        return self.find(name) is not None

    def __iter__(self) -> Iterator[str]:
        import_module(self.home)
        return iter(self.entries)

    def _entry_points(self) -> EntryPoints:
        return _entry_points(self.group, tuple(sys.path))

    def _declared(self, key: Key, name: str) -> Key:
        """Return a key as it is declared with ``name``: with its step, and refused if it cannot be."""
        told = f"key '{key.name}' of {self.sort} '{name}'"
        step = self._steps[0] if key.step is None and len(self._steps) == 1 else key.step
        if step not in (*self._steps, NOTHING):
            raise ValueError(f"{told}: its step has to be one of {', '.join((*self._steps, NOTHING))}, not {step}")
        if not key.kind.holds(key.default):
            raise ValueError(f"{told}: its default has to be {key.kind.wanted}, not {key.default!r}")
        key = replace(key, step=step)
        others = [owner for owner, other in registered_keys() if other.name == key.name and other != key]
        if key.name in KEYS or key.name.startswith(SURROGATE_PREFIX):
            others.append("recbole_dealrec")
        if others:
            raise ValueError(f"{told} is declared already, by {others[0]}")
        return key


@cache
def _entry_points(group: str, path: tuple[str, ...]) -> EntryPoints:
    """Return the entry points of a group; they are looked for anew when the module search path ``path`` changes."""
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
    """Yield the keys that are declared with models, scorers and samplers, each with what it is declared with."""
    for registry in REGISTRIES:
        for name, entry in registry.entries.items():
            for key in entry.keys:
                yield f"{registry.sort} '{name}'", key


def load_all() -> None:
    """Load the models, scorers and samplers of all packages but of those that fail, for the keys they declare."""
    for registry in REGISTRIES:
        registry.load_all()


def key_of(name: str) -> Key | None:
    """Return the row of a key; None for a key that neither this package nor what is registered declares.

    That of ``surrogate_<key>`` follows from that of ``<key>``.
    """
    if name in KEYS:
        return KEYS[name]
    for _, key in registered_keys():
        if key.name == name:
            return key
    if str(name).startswith(SURROGATE_PREFIX):
        base = KEYS.get(name.removeprefix(SURROGATE_PREFIX), Key(name))
        return replace(base, name=name, step=NOTHING if base.step == NOTHING else "surrogate")
    return None
