"""Prices, each with its source and date, from a YAML file.

The books that come with the package are in ``books/`` (in a checkout also to be found in ``configs/``); a book of one's
own is any file of that form. A price that is needed and not there is an error, never zero.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Hashable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from infiniray.errors import ConfigError, PriceMissing

__all__ = ["GIB", "Architecture", "FunctionRates", "LambdaBilling", "Price", "PriceBook", "load_price_book"]

#: bytes; AWS calls it a GB wherever it bills bytes
GIB = 1 << 30

_NODE = "elasticache.node."
_HOST = "ec2."
#: steps; so that the noise of floating point (0.1 s * 1000 = 100.00000000000001 ms) is not billed as a step
_NOISE = 1e-9

Architecture = Literal["x86", "arm"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Price(_Record):
    """``usd`` buys ``quantity`` of what ``per`` names. ``date``: since when, or when, ``source`` gives this price."""

    usd: float = Field(ge=0, allow_inf_nan=False)
    per: str = Field(min_length=1)
    quantity: int = Field(1, ge=1)
    capacity_gib: float | None = Field(None, gt=0, allow_inf_nan=False, description="memory of a cache node")
    source: str = Field(min_length=1)
    date: datetime.date

    @property
    def unit_usd(self) -> float:
        """USD for one of what ``per`` names."""
        return self.usd / self.quantity


class LambdaBilling(_Record):
    """How a function's time becomes billed time."""

    step_ms: int = Field(ge=1, description="durations are rounded up to this")
    init_billed: bool = Field(description="whether the start of an instance counts as its work does")
    source: str = Field(min_length=1)
    date: datetime.date


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionRates:
    """What a function costs, ready to multiply: all that a ledger needs. A GB of function memory is 1024 MB."""

    usd_per_request: float
    usd_per_gb_second: float
    step_ms: int
    init_billed: bool

    def billed_ms(self, duration_ms: float) -> int:
        """Rounded up to the step; at least one."""
        return (math.ceil(duration_ms / self.step_ms - _NOISE) or 1) * self.step_ms

    def invocations_usd(self, n_invocations: float, duration_ms: float, memory_mb: int) -> float:
        """Fee and ``duration_ms``, unrounded, of each of so many."""
        return n_invocations * (self.usd_per_request + self.duration_usd(duration_ms, memory_mb))

    def duration_usd(self, duration_ms: float, memory_mb: int) -> float:
        """Of ``duration_ms`` as it is, unrounded, without the fee."""
        return duration_ms / 1000 * memory_mb / 1024 * self.usd_per_gb_second


class PriceBook(_Record):
    """A dated list of prices by name, such as ``s3.standard.get``.

    ``not_offered`` names what could not be bought at that time (a name, or the dotted beginning of names) and why;
    a comparison may leave that out, but only that.
    """

    title: str
    as_of: datetime.date
    lambda_billing: LambdaBilling
    entries: dict[str, Price]
    not_offered: dict[str, str] = Field(default_factory=dict)
    file: str = Field("", exclude=True, description="where it was read from, for messages")

    @model_validator(mode="after")
    def _is_consistent(self) -> PriceBook:
        for name, price in self.entries.items():
            if name.startswith(_NODE) and price.capacity_gib is None:
                raise ValueError(f"entry {name!r} is a cache node: say its capacity_gib")
            if self.why_not_offered(name) is not None:
                raise ValueError(f"entry {name!r} has a price and is not offered")
        return self

    def price(self, name: str, *, per: str) -> float:
        """USD for one ``per`` (GB-s, request, hour, ...) of the entry ``name``.

        Raises:
            PriceMissing: there is no such entry.
            ConfigError: the entry's price is for another unit.
        """
        entry = self._entry(name)
        if entry.per != per:
            raise ConfigError(detail=f"price book {self.file}: entry {name!r} is per {entry.per!r}, needed per {per!r}")
        return entry.unit_usd

    def why_not_offered(self, name: str) -> str | None:
        """Why ``name`` (of an entry, or of a group of them) could not be bought; None if it could."""
        for gone, why in self.not_offered.items():
            if name == gone or name.startswith(gone + "."):
                return why
        return None

    def function_rates(self, architecture: Architecture = "x86") -> FunctionRates:
        """What functions cost.

        Raises:
            PriceMissing: no price for requests, or for this architecture.
        """
        return FunctionRates(
            usd_per_request=self.price("lambda.request", per="request"),
            usd_per_gb_second=self.price(f"lambda.gb_second.{architecture}", per="GB-s"),
            step_ms=self.lambda_billing.step_ms,
            init_billed=self.lambda_billing.init_billed,
        )

    def node_types(self) -> list[str]:
        """The ElastiCache node types that have a price, the smallest first."""
        names = [name.removeprefix(_NODE) for name in self.entries if name.startswith(_NODE)]
        return sorted(names, key=lambda name: (self.node_bytes(name), name))

    def node_usd_per_hour(self, node_type: str) -> float:
        """Raises PriceMissing."""
        return self.price(_NODE + node_type, per="hour")

    def node_bytes(self, node_type: str) -> int:
        """Memory of a node, all of which is taken to hold objects, as FAST'20 does. Raises PriceMissing."""
        capacity_gib = self._entry(_NODE + node_type).capacity_gib
        assert capacity_gib is not None  # validated
        return int(capacity_gib * GIB)

    def host_usd_per_hour(self, instance_type: str) -> float:
        """An EC2 instance, for proxies. Raises PriceMissing."""
        return self.price(_HOST + instance_type, per="hour")

    def _entry(self, name: str) -> Price:
        try:
            return self.entries[name]
        except KeyError:
            raise PriceMissing(entry=name, file=self.file) from None


def load_price_book(which: str | Path = "2026") -> PriceBook:
    """The book of a year that comes with the package (``"2019"``, ``"2026"``), or that in a file.

    Raises:
        ConfigError: there is no such file, or it is no price book; names what is wrong.
    """
    bundled = resources.files("infiniray.cost") / "books" / f"prices-{which}.yaml"
    name = bundled.name if bundled.is_file() else str(which)
    try:
        text = bundled.read_text(encoding="utf-8") if bundled.is_file() else Path(which).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(detail=f"cannot read price book {name}: {error}") from None
    return _parse(text, name)


def _parse(text: str, name: str) -> PriceBook:
    try:
        tree = yaml.load(text, Loader=_Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        raise ConfigError(detail=f"price book {name} is not YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(detail=f"price book {name} is not a mapping")
    try:
        return PriceBook.model_validate({**tree, "file": name})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the book"
        raise ConfigError(detail=f"price book {name}: {where}: {first['msg']}") from None


class _Loader(yaml.SafeLoader):
    """I refuse a name that is given twice: YAML would take the last one, silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        names = [key.value for key, _ in node.value]
        twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
        if twice is not None:
            raise yaml.YAMLError(f"{twice!r} is given twice (line {node.start_mark.line + 1} and after)")
        return super().construct_mapping(node, deep)
