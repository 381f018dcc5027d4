"""One load, one pool, one price book: what it costs here, by the paper, and elsewhere."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from infiniray.cost.alternatives import Alternative, NotOffered, alternatives
from infiniray.cost.model import (
    Behaviour,
    ClosedForm,
    Crossover,
    LinearCost,
    Load,
    Pool,
    closed_form,
    crossover,
    metered_cost,
    metered_hour,
)
from infiniray.cost.price_book import Architecture, PriceBook

__all__ = ["Comparison", "Hosts", "Other", "compare"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosts:
    """``n`` EC2 instances that the proxies run on. FAST'20 counts none; a Ray cluster that is there anyway is none."""

    instance_type: str
    n: int
    usd_per_hour: float  #: of all of them

    @property
    def name(self) -> str:
        return f"{self.n} x {self.instance_type}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Other:
    """An alternative, and at which request rates this cache costs less: as metered, with its proxies' hosts, and by
    the paper's closed form."""

    alternative: Alternative
    metered: Crossover
    with_hosts: Crossover
    closed_form: Crossover


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """``metered_usd`` and ``closed_form_usd``: one hour by purpose, and ``total``, hosts not included. ``metered`` is
    the same as a line over the request rate."""

    book: PriceBook
    pool: Pool
    load: Load
    behaviour: Behaviour
    held_bytes: int
    hosts: Hosts
    metered: LinearCost
    metered_usd: dict[str, float]
    closed_form: ClosedForm
    closed_form_usd: dict[str, float]
    others: tuple[Other, ...]
    not_offered: tuple[NotOffered, ...]

    def to_json_dict(self) -> dict[str, Any]:
        """All figures, in values that :mod:`json` takes."""
        rate = self.load.requests_per_hour
        return {
            "prices": {"title": self.book.title, "as_of": self.book.as_of.isoformat(), "file": self.book.file},
            "pool": asdict(self.pool),
            "load": asdict(self.load) | {"held_bytes": self.held_bytes},
            "behaviour": asdict(self.behaviour),
            "hosts": asdict(self.hosts),
            "metered": {"cost_usd_per_hour": self.metered_usd, **asdict(self.metered)},
            "closed_form": {"cost_usd_per_hour": self.closed_form_usd, **asdict(self.closed_form)},
            "alternatives": [
                {
                    "name": other.alternative.name,
                    "usd_per_hour": other.alternative.cost.usd_per_hour(rate),
                    **asdict(other.alternative.cost),
                    "infiniray_is_cheaper": {
                        "metered": _crossover_dict(other.metered),
                        "with_hosts": _crossover_dict(other.with_hosts),
                        "closed_form": _crossover_dict(other.closed_form),
                    },
                }
                for other in self.others
            ],
            "not_offered": [asdict(gone) for gone in self.not_offered],
        }


def compare(
    book: PriceBook,
    pool: Pool,
    load: Load,
    behaviour: Behaviour,
    *,
    held_bytes: int | None = None,
    host_type: str = "c5n.4xlarge",
    n_hosts: int = 1,
    architecture: Architecture = "x86",
) -> Comparison:
    """The costs of a load here and elsewhere. ``held_bytes`` of objects, by default as much as the pool has room for.

    Raises:
        PriceMissing: the price book lacks something that this takes.
    """
    rates = book.function_rates(architecture)
    held_bytes = pool.object_bytes if held_bytes is None else held_bytes
    host_usd = book.host_usd_per_hour(host_type) if n_hosts else 0.0
    hosts = Hosts(instance_type=host_type, n=n_hosts, usd_per_hour=n_hosts * host_usd)
    metered = metered_cost(rates, pool, load, behaviour)
    paper = closed_form(rates, pool, behaviour)
    found, gone = alternatives(book, held_bytes=held_bytes, object_bytes=load.object_bytes, put_share=load.put_share)
    return Comparison(
        book=book,
        pool=pool,
        load=load,
        behaviour=behaviour,
        held_bytes=held_bytes,
        hosts=hosts,
        metered=metered,
        metered_usd=metered_hour(rates, pool, load, behaviour).cost_usd(),
        closed_form=paper,
        closed_form_usd=paper.cost_usd(load.requests_per_hour),
        others=tuple(
            Other(
                alternative=other,
                metered=crossover(metered, other.cost),
                with_hosts=crossover(metered.plus_usd_per_hour(hosts.usd_per_hour), other.cost),
                closed_form=crossover(paper.cost, other.cost),
            )
            for other in found
        ),
        not_offered=tuple(gone),
    )


def _crossover_dict(found: Crossover) -> dict[str, Any]:
    return {"when": found.cheaper.value, "requests_per_hour": found.requests_per_hour}
