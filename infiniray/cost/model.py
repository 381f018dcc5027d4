"""What a pool costs by the hour: FAST'20's closed form beside what this system's invocations come to.

Both are straight lines over the request rate (:class:`LinearCost`): so much for keeping the pool, so much for each
request. Where two such lines cross is the request rate from which on the other thing is cheaper.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from infiniray.cost.ledger import Ledger, Purpose
from infiniray.cost.price_book import FunctionRates

__all__ = [
    "Behaviour",
    "ClosedForm",
    "Crossover",
    "LinearCost",
    "Load",
    "Pool",
    "Side",
    "closed_form",
    "crossover",
    "metered_cost",
    "metered_hour",
    "transfer_ms",
]

_BURST_BYTES = 150 << 20
_BURST_BYTES_PER_S = 1200 << 20
_SUSTAINED_BYTES_PER_S = 75 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """``n_nodes`` functions of ``memory_mb``; the chunks of an object, data and parity, are on as many nodes."""

    n_nodes: int
    memory_mb: int
    data_chunks: int
    parity_chunks: int

    @property
    def n_chunks(self) -> int:
        return self.data_chunks + self.parity_chunks

    @property
    def object_bytes(self) -> int:
        """Bytes of objects that fit if all memory held chunks."""
        return (self.n_nodes * self.memory_mb << 20) * self.data_chunks // self.n_chunks


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """``requests_per_hour``, of which ``put_share`` (0 to 1) are PUTs, for objects of ``object_bytes``."""

    requests_per_hour: float
    object_bytes: int
    put_share: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """How long invocations last, and how often there are some that no request asked for.

    ``warm_every_s`` and ``backup_every_s``: every node once in that time; None: never. ``warm_ms``, ``backup_ms``:
    each of them. ``serve_ms``: an invocation that moves one chunk, from its handler's start to its end. ``linger_ms``:
    how long it then waits for more work (none comes, as far as this model knows: at high rates that is an upper bound).
    ``gets_read_parity``: a GET invokes all nodes of an object, not just those of its data chunks.
    ``reclaims_per_hour``: so many warm-ups begin with a start of ``init_ms``. Repair is not modelled: what is lost, a
    simulation finds out.
    """

    serve_ms: float
    linger_ms: float = 8.0
    gets_read_parity: bool = False
    warm_every_s: float | None = 60.0
    warm_ms: float = 1.0
    backup_every_s: float | None = 300.0
    backup_ms: float = 1560.0
    reclaims_per_hour: float = 0.0
    init_ms: float = 250.0

    def n_warmups_per_hour(self, pool: Pool) -> float:
        return pool.n_nodes * 3600 / self.warm_every_s if self.warm_every_s else 0.0

    def n_backups_per_hour(self, pool: Pool) -> float:
        return pool.n_nodes * 3600 / self.backup_every_s if self.backup_every_s else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearCost:
    """USD: ``fixed_usd_per_hour`` whatever happens, and ``usd_per_request``."""

    fixed_usd_per_hour: float
    usd_per_request: float = 0.0

    def usd_per_hour(self, requests_per_hour: float) -> float:
        return self.fixed_usd_per_hour + requests_per_hour * self.usd_per_request

    def plus_usd_per_hour(self, usd: float) -> LinearCost:
        """With something more that costs the same every hour, such as proxies' hosts."""
        return LinearCost(fixed_usd_per_hour=self.fixed_usd_per_hour + usd, usd_per_request=self.usd_per_request)


class Side(str, enum.Enum):
    """Where the first of two costs is the lower one: below some request rate, above it, everywhere or nowhere."""

    BELOW = "below"
    ABOVE = "above"
    ALWAYS = "always"
    NEVER = "never"


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossover:
    """``requests_per_hour`` is None where the lines do not cross (ALWAYS, NEVER)."""

    cheaper: Side
    requests_per_hour: float | None = None


def crossover(ours: LinearCost, other: LinearCost) -> Crossover:
    """At which request rates ``ours`` costs less than ``other``. Equal costs do not count as less."""
    lead_usd = other.fixed_usd_per_hour - ours.fixed_usd_per_hour
    slope_usd = ours.usd_per_request - other.usd_per_request
    if lead_usd > 0 and slope_usd > 0:
        return Crossover(cheaper=Side.BELOW, requests_per_hour=lead_usd / slope_usd)
    if lead_usd < 0 and slope_usd < 0:
        return Crossover(cheaper=Side.ABOVE, requests_per_hour=lead_usd / slope_usd)
    if lead_usd == 0 and slope_usd < 0:
        return Crossover(cheaper=Side.ABOVE, requests_per_hour=0.0)
    return Crossover(cheaper=Side.ALWAYS if lead_usd > 0 else Side.NEVER)


# ---------------------------------------------------------------- the paper


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedForm:
    """FAST'20 section 4.3, in USD: C = n_ser * C_ser + C_w + C_bak."""

    serving_usd_per_request: float
    warmup_usd_per_hour: float
    backup_usd_per_hour: float

    @property
    def cost(self) -> LinearCost:
        return LinearCost(
            fixed_usd_per_hour=self.warmup_usd_per_hour + self.backup_usd_per_hour,
            usd_per_request=self.serving_usd_per_request,
        )

    def cost_usd(self, requests_per_hour: float) -> dict[str, float]:
        """An hour's, by purpose, and ``total``."""
        serving = requests_per_hour * self.serving_usd_per_request
        parts = {"serving": serving, "warmup": self.warmup_usd_per_hour, "backup": self.backup_usd_per_hour}
        return parts | {"total": sum(parts.values())}


def closed_form(rates: FunctionRates, pool: Pool, behaviour: Behaviour) -> ClosedForm:
    """The paper's hourly cost: serving (every request invokes all its nodes), warm-up (a billing step each), backup
    (its duration unrounded, as the paper writes it). It knows neither linger nor the start of an instance."""
    return ClosedForm(
        serving_usd_per_request=rates.invocations_usd(
            pool.n_chunks, rates.billed_ms(behaviour.serve_ms), pool.memory_mb
        ),
        warmup_usd_per_hour=rates.invocations_usd(behaviour.n_warmups_per_hour(pool), rates.step_ms, pool.memory_mb),
        backup_usd_per_hour=rates.invocations_usd(
            behaviour.n_backups_per_hour(pool), behaviour.backup_ms, pool.memory_mb
        ),
    )


# ---------------------------------------------------------------- this system


def metered_hour(rates: FunctionRates, pool: Pool, load: Load, behaviour: Behaviour) -> Ledger:
    """The ledger of one hour of ``load``, invocation by invocation as this system makes them, to whole invocations."""
    ledger = Ledger(rates)
    n_puts = round(load.requests_per_hour * load.put_share)
    n_gets = round(load.requests_per_hour) - n_puts
    n_serving = n_puts * pool.n_chunks + n_gets * _chunks_per_get(pool, behaviour)
    ledger.charge(Purpose.SERVING, behaviour.serve_ms + behaviour.linger_ms, pool.memory_mb, n_serving)
    _charge_upkeep(ledger, pool, behaviour)
    return ledger


def metered_cost(rates: FunctionRates, pool: Pool, load: Load, behaviour: Behaviour) -> LinearCost:
    """The same as a line over the request rate; ``load`` says what the requests are like."""
    upkeep = Ledger(rates)
    _charge_upkeep(upkeep, pool, behaviour)
    n_chunks = load.put_share * pool.n_chunks + (1 - load.put_share) * _chunks_per_get(pool, behaviour)
    billed_ms = rates.billed_ms(behaviour.serve_ms + behaviour.linger_ms)
    return LinearCost(
        fixed_usd_per_hour=upkeep.total_usd,
        usd_per_request=rates.invocations_usd(n_chunks, billed_ms, pool.memory_mb),
    )


def _chunks_per_get(pool: Pool, behaviour: Behaviour) -> int:
    return pool.n_chunks if behaviour.gets_read_parity else pool.data_chunks


def _charge_upkeep(ledger: Ledger, pool: Pool, behaviour: Behaviour) -> None:
    n_warmups = round(behaviour.n_warmups_per_hour(pool))
    n_cold = min(n_warmups, round(behaviour.reclaims_per_hour))
    ledger.charge(Purpose.WARMUP, behaviour.warm_ms, pool.memory_mb, n_warmups - n_cold)
    ledger.charge(Purpose.WARMUP, behaviour.warm_ms, pool.memory_mb, n_cold, init_ms=behaviour.init_ms)
    n_backups = round(behaviour.n_backups_per_hour(pool))
    ledger.charge(Purpose.BACKUP, behaviour.backup_ms, pool.memory_mb, n_backups)


def transfer_ms(n_bytes: int) -> float:
    """How long a function that has been quiet takes to move so many bytes: 150 MiB at 1.2 GiB/s, what is more at
    75 MiB/s, whatever its memory size (measured on AWS in 2024, arXiv 2501.07771)."""
    burst_bytes = min(n_bytes, _BURST_BYTES)
    return 1000 * (burst_bytes / _BURST_BYTES_PER_S + (n_bytes - burst_bytes) / _SUSTAINED_BYTES_PER_S)
