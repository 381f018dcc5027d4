"""What a planner may choose, what is asked of it, and what a choice comes to."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol

from infiniray.codec.schemes import Scheme
from infiniray.errors import ConfigError

__all__ = ["Evaluate", "Goal", "MapAll", "Outcome", "Settings", "Space", "Stage"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """A pool and its upkeep. ``warm_every_s`` and ``backup_every_s``: each node once in that time; 0: never."""

    n_nodes: int
    memory_mb: int
    scheme: str
    warm_every_s: float
    backup_every_s: float
    linger_s: float

    def __str__(self) -> str:
        warm = f"warm {_every(self.warm_every_s)}"
        backup = f"backup {_every(self.backup_every_s)}"
        pool = f"{self.n_nodes} x {self.memory_mb} MB, {self.scheme}"
        return f"{pool}, {warm}, {backup}, linger {1000 * self.linger_s:g} ms"

    @property
    def fits(self) -> bool:
        """Whether the chunks of an object have distinct nodes."""
        return Scheme.parse(self.scheme).n <= self.n_nodes


def _every(seconds: float) -> str:
    return "never" if not seconds else f"{seconds / 60:g} min"


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """The choices on each axis, in the order of :class:`Settings`' names. Neighbours in a tuple are a step apart.

    Raises:
        ConfigError: an axis without choices, or a scheme or a number that cannot be.
    """

    n_nodes: tuple[int, ...] = (100, 150, 200, 250, 300, 350, 400, 500, 700)
    memory_mb: tuple[int, ...] = (512, 768, 1024, 1536, 2048, 3008)
    scheme: tuple[str, ...] = ("rs:10+1", "rs:10+2", "rs:10+3", "rs:10+4")
    warm_every_s: tuple[float, ...] = (60.0, 120.0, 300.0, 600.0, 1200.0)
    backup_every_s: tuple[float, ...] = (0.0, 1800.0, 900.0, 300.0, 150.0, 60.0)
    linger_s: tuple[float, ...] = (0.001, 0.008, 0.05, 0.2)

    def __post_init__(self) -> None:
        for name, choices in self.axes().items():
            if not choices:
                raise ConfigError(detail=f"planner: nothing to choose from for {name}")
            least = 1 if name in ("n_nodes", "memory_mb") else 0
            if name != "scheme" and min(choices) < least:
                raise ConfigError(detail=f"planner: {name} cannot be {min(choices):g}")
        for text in self.scheme:
            Scheme.parse(text)
        if next(self.choices(), None) is None:
            raise ConfigError(detail="planner: no choice has as many nodes as its scheme has chunks")

    def axes(self) -> dict[str, tuple[Any, ...]]:
        return {axis.name: getattr(self, axis.name) for axis in fields(self)}

    def choices(self) -> Iterator[Settings]:
        """All of them that have room for their scheme."""
        axes = self.axes()
        for values in itertools.product(*axes.values()):
            settings = Settings(**dict(zip(axes, values, strict=True)))
            if settings.fits:
                yield settings

    def middle(self) -> Settings:
        return Settings(**{name: choices[len(choices) // 2] for name, choices in self.axes().items()})

    def n_steps(self, one: Settings, other: Settings) -> int:
        """From one choice to another."""
        axes = self.axes().items()
        return sum(
            abs(choices.index(getattr(one, name)) - choices.index(getattr(other, name))) for name, choices in axes
        )

    def nearest(self, settings: Settings) -> Settings:
        """The choice closest to ``settings``, which may lie between choices or be of another scheme."""
        chosen: dict[str, Any] = {}
        for name, choices in self.axes().items():
            wanted = getattr(settings, name)
            if name == "scheme":
                chosen[name] = wanted if wanted in choices else choices[len(choices) // 2]
            else:
                chosen[name] = min(choices, key=lambda choice, wanted=wanted: abs(choice - wanted))  # type: ignore[misc]
        return Settings(**chosen)

    def neighbours(self, settings: Settings) -> Iterator[Settings]:
        """All that are one step away on one axis, and have room for their scheme."""
        for name, choices in self.axes().items():
            place = choices.index(getattr(settings, name))
            for at in (place - 1, place + 1):
                if 0 <= at < len(choices):
                    step = replace(settings, **{name: choices[at]})
                    if step.fits:
                        yield step


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a choice came to on a trace, or on a part of it. ``availability``: 1 - resets / hits, as FAST'20 counts."""

    hit_ratio: float
    availability: float
    cost_usd: float
    cost_by_purpose: Mapping[str, float] = field(default_factory=dict)


class Evaluate(Protocol):
    """I find out what a choice comes to, on a fixed trace with fixed reclaims: the same every time I am asked."""

    def __call__(self, settings: Settings, /) -> Outcome: ...


#: As the builtin ``map``: outcomes in the order of the choices.
MapAll = Callable[[Evaluate, Iterable[Settings]], Iterable[Outcome]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A trace, or the beginning of one: how to evaluate choices on it, and what no cache can do better on it.

    ``best_hit_ratio`` is that of an infinite cache that loses nothing: on a short part most requests are first ones.
    ``map_all`` evaluates several choices, and may do so at the same time.
    """

    evaluate: Evaluate
    hours: float
    best_hit_ratio: float
    map_all: MapAll = map


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """The least ``hit_ratio`` and ``availability`` (0 to 1) on the whole trace. Raises ConfigError: out of range."""

    hit_ratio: float = 0.0
    availability: float = 0.0

    def __post_init__(self) -> None:
        for name in ("hit_ratio", "availability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(detail=f"planner: the goal's {name} is between 0 and 1, not {getattr(self, name):g}")

    def on(self, part: Stage, whole: Stage) -> Goal:
        """The same goal for a part of the trace: as far below an infinite cache's hit ratio as on the whole."""
        most_lost = max(0.0, whole.best_hit_ratio - self.hit_ratio)
        return replace(self, hit_ratio=max(0.0, part.best_hit_ratio - most_lost))

    def on_flattering(self, part: Stage, whole: Stage, *, there: Outcome, really: Outcome) -> Goal:
        """The same goal for a part, on which a choice came to ``there``, and on the whole to ``really``: losses may be
        as much smaller there as they were."""
        may_lose = _in_proportion(
            whole.best_hit_ratio - self.hit_ratio,
            part.best_hit_ratio - there.hit_ratio,
            whole.best_hit_ratio - really.hit_ratio,
        )
        may_lack = _in_proportion(1 - self.availability, 1 - there.availability, 1 - really.availability)
        return Goal(hit_ratio=_share(part.best_hit_ratio - may_lose), availability=_share(1 - may_lack))

    def shortfall(self, outcome: Outcome) -> float:
        """By how much it is missed, in all; 0: it is met."""
        lacks_hits = max(0.0, self.hit_ratio - outcome.hit_ratio)
        return lacks_hits + max(0.0, self.availability - outcome.availability)

    def rank(self, outcome: Outcome) -> tuple[float, float]:
        """The smaller the better: first by what is missed, then by cost."""
        return self.shortfall(outcome), outcome.cost_usd


def _in_proportion(allowed: float, lost_there: float, really_lost: float) -> float:
    return allowed * max(0.0, lost_there) / really_lost if really_lost > 0 else allowed


def _share(value: float) -> float:
    return min(1.0, max(0.0, value))
