"""The configuration: one frozen, validated tree.

What is set where wins in this order: keyword arguments, environment (``INFINIRAY_POOL__NODES=32``), file (YAML),
defaults. Unknown keys are refused with the nearest known name. Sizes and durations may be text (``"64MiB"``,
``"500ms"``).
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from infiniray.codec.schemes import Scheme
from infiniray.errors import ConfigError, SchemeError
from infiniray.faas.local.settings import LocalPlatformSettings
from infiniray.sim.settings import SimulationSettings
from infiniray.units import Bytes, Seconds

__all__ = ["BackingConfig", "ChannelConfig", "CodecConfig", "Config", "DeployConfig", "LimitsConfig", "NearConfig",
           "PlatformConfig", "PoolConfig", "ReadConfig", "RedundancyRule", "RingConfig", "SessionConfig"]  # fmt: skip

_ENV_PREFIX = "INFINIRAY_"
#: Set by the system itself, not settings.
_ENV_RESERVED = {"INFINIRAY_SECRET", "INFINIRAY_RESERVE_MB", "INFINIRAY_STATE_DIR"}


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class PoolConfig(_Section):
    """The functions whose memory is the cache."""

    nodes: int = Field(28, ge=1, le=10_000, description="functions in the pool, over all shards")
    memory_mb: int = Field(1536, ge=128, le=10_240, description="memory size of a function, MB")
    reserve_mb: int = Field(128, ge=32, description="share of it that the runtime keeps for itself, MB")
    timeout_s: Seconds = Field(120.0, ge=1, le=900, description="longest session; the platform ends it then")

    @model_validator(mode="after")
    def _leaves_room(self) -> PoolConfig:
        if self.reserve_mb >= self.memory_mb:
            raise ValueError(f"reserve_mb {self.reserve_mb} leaves nothing of memory_mb {self.memory_mb} for chunks")
        return self

    @property
    def node_bytes(self) -> int:
        """Bytes of chunks that one node may hold."""
        return (self.memory_mb - self.reserve_mb) << 20


class RingConfig(_Section):
    """How keys and nodes are spread over shards."""

    shards: int = Field(2, ge=1, le=1000, description="proxy shards (Ray actors)")
    virtual_nodes: int = Field(128, ge=1, le=4096, description="points on the ring for a shard of weight 1")


class RedundancyRule(_Section):
    """Objects of at most ``up_to`` bytes (null: of any size) are stored as ``scheme``."""

    up_to: Bytes | None = None
    scheme: str

    @field_validator("scheme")
    @classmethod
    def _parses(cls, text: str) -> str:
        try:
            return str(Scheme.parse(text))
        except SchemeError as error:
            raise ValueError(str(error)) from None


class EvictionConfig(_Section):
    """Which objects are given up, beside those that CLOCK evicts when there is no room (FAST'20 section 3.2)."""

    idle_gb_h: float = Field(
        0.0,
        ge=0,
        le=1e9,
        description="an object that nobody has used for this many gigabytes (with its redundancy) times hours is given "
        "up: what a hit is worth over what a gigabyte costs in an hour; 0: kept while there is room",
    )


class ReadConfig(_Section):
    """First-d reads: which chunks are asked for, and when."""

    hedge: Literal["all", "delayed"] = Field(
        "delayed",
        description="'all': all k + r chunks at once (FAST'20); 'delayed': k, and parity when they are overdue",
    )
    hedge_delay_s: Seconds = Field(0.02, description="after this long without k chunks, parity is asked for too")


class NearConfig(_Section):
    """Small values that shards keep a copy of, beside the chunks on the nodes: reading them asks no node."""

    bytes: Bytes = Field(
        0, description="of each shard's memory, for the values that were written or read last, like 64MiB; 0: none"
    )
    max_value_bytes: Bytes = Field(1 << 20, description="larger values are not kept")


class AvailabilityConfig(_Section):
    """What keeps the data while functions vanish."""

    warm: Literal["all", "holding", "fixed", "none"] = Field(
        "all",
        description="keep nodes from being reclaimed as idle: all of them, or those that hold chunks; 'fixed': all, at "
        "every interval, used or not (FAST'20 section 4.2)",
    )
    warm_interval_s: Seconds = Field(60.0, gt=0, description="invoke a node that nothing has used for this long")
    warm_replicas: bool = Field(
        False,
        description="warm nodes in pairs, so that replicas answer, too: one that was reclaimed is missed within an "
        "interval, and backed up to at once",
    )
    backup_interval_s: Seconds = Field(
        300.0, description="back up a node that has changed to its peer replica this often; 0: never"
    )
    backup_max_age_s: Seconds = Field(
        900.0, gt=0, description="back up a node that has not changed this often: the replica may be gone"
    )
    backup_burst_bytes: Bytes = Field(
        150 << 20, gt=0, description="moved by one backup at most: what a function's network does at its burst rate"
    )
    backup_window_bytes: Bytes = Field(
        32 << 20, gt=0, description="copied at a time by one backup: through the shard's memory"
    )
    backup_retry_s: Seconds = Field(
        15.0, gt=0, description="pause before a backup goes on that stopped there, or that failed"
    )
    backup_slots: int = Field(8, ge=1, description="backups at a time, over all shards")
    repair: Literal["always", "reads", "none"] = Field(
        "always", description="rebuild lost chunks in the background; only those that reads find lost; never"
    )
    repair_bytes_per_s: Bytes = Field(100 << 20, gt=0, description="read and written by a shard's repairs, on average")
    repair_usd_per_h: float = Field(0.25, gt=0, description="what a shard's repairs may cost on the platform")
    recovery_timeout_s: Seconds = Field(
        30.0, gt=0, description="a shard that restarts waits so long for its nodes to say what they hold"
    )


class SessionConfig(_Section):
    """How long functions stay up, and how the shard tells that one does not answer."""

    linger_s: Seconds = Field(0.008, le=60, description="wait for more work before ending a session (ski-rental rule)")
    ping_timeout_s: Seconds = Field(
        0.02, gt=0, description="FAST'20 section 3.3: silence after a PING that means asleep"
    )
    stall_s: Seconds = Field(
        2.0, gt=0, description="a chunk transfer with no answer this long, beyond its size's share, failed"
    )
    connect_timeout_s: Seconds = Field(
        3.0, gt=0, description="from invoking a node to hearing from it, cold start included"
    )
    min_bytes_per_s: Bytes = Field(20 << 20, gt=0, description="slowest transfer that is not taken for a stalled one")
    tls: bool = Field(
        False,
        description="encrypt what functions and shards send each other; each shard makes its own certificate, whose "
        "fingerprint an invocation tells",
    )


class CodecConfig(_Section):
    """Where parity is computed."""

    kernel: Literal["auto", "isal", "zfec"] = "auto"
    task_min_bytes: Bytes = Field(
        128 << 20,
        description="objects this large are coded in a Ray worker task, smaller in a thread: below, mapping the object "
        "into another process costs more than the kernel does",
    )


class ChannelConfig(_Section):
    """The direct way between clients and shards; what cannot go this way goes through Ray."""

    enabled: bool = Field(True, description="clients connect to shards directly where they can")
    shared_memory_bytes: Bytes = Field(
        1 << 30,
        description="of one shard, for large values that clients on its machine map; beyond it, copies. 0: none",
    )
    idle_s: Seconds = Field(30.0, gt=0, description="memory that nobody has used for so long is given back")
    listen_host: str | None = Field(
        None,
        description="where shards listen for clients on other machines, 'auto': where Ray knows theirs; "
        "None: those go through Ray",
    )


class LimitsConfig(_Section):
    """Bounds on what is in flight, and deadlines."""

    deadline_s: Seconds = Field(30.0, gt=0, description="default deadline of a request")
    max_in_flight: int = Field(256, ge=1, description="operations that a shard works on at once; more are refused")
    max_in_flight_bytes: Bytes = Field(4 << 30, description="bytes of objects that a shard buffers at once")
    inline_max_bytes: Bytes = Field(
        96 << 10, description="values below this travel inside the call, not in Ray's store"
    )
    invoke_attempts: int = Field(4, ge=1, description="invocations of a node before its requests fail over")


class PlatformConfig(_Section):
    """The function platform."""

    kind: Literal["local", "aws"] = "local"
    endpoint_url: str | None = Field(
        None, description="None: AWS's own endpoint, or the embedded platform's once started"
    )
    region: str = "us-east-1"
    listen_host: str = Field(
        "127.0.0.1",
        description="where shards listen for nodes; 'auto': at the address by which Ray knows their machine. Loopback "
        "keeps them on one machine",
    )
    advertise_host: str | None = Field(
        None,
        description="what nodes dial, whichever machine a shard is on; None: listen_host, or if that is all "
        "interfaces, the machine's own address",
    )
    local: LocalPlatformSettings = Field(default_factory=LocalPlatformSettings)


#: What CloudWatch Logs takes: https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_PutRetentionPolicy.html
_RetentionDays = Literal[1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922,
                         3288, 3653]  # fmt: skip


class DeployConfig(_Section):
    """What ``infiniray deploy`` makes, beside the pool's own settings. The region is ``platform.region``."""

    account: str | None = Field(
        None, pattern=r"^\d{12}$", description="deploy to this account only; None: the credentials' own"
    )
    role: str | None = Field(
        None,
        pattern=r"^arn:aws[a-z-]*:iam::\d{12}:role/.+$",
        description="execution role, there already; None: make one that may write logs, and nothing else",
    )
    architecture: Literal["x86_64", "arm64"] = "x86_64"
    subnets: tuple[str, ...] = Field((), max_length=16, description="attach the functions to these; (): to no VPC")
    security_groups: tuple[str, ...] = Field((), max_length=5, description="of the functions, in the subnets' VPC")
    code_bucket: str | None = Field(
        None, min_length=3, max_length=63, description="upload the code here once; None: with every function"
    )
    log_retention_days: _RetentionDays = 7
    reserved_concurrency: int | None = Field(
        None, ge=2, description="kept free for each function; 2: a node and its peer replica. None: the account's pool"
    )
    tags: dict[str, str] = Field(default_factory=dict, max_length=40, description="on everything, beside its own")

    @field_validator("subnets")
    @classmethod
    def _are_subnets(cls, ids: tuple[str, ...]) -> tuple[str, ...]:
        return _with_prefix("subnet-", ids)

    @field_validator("security_groups")
    @classmethod
    def _are_groups(cls, ids: tuple[str, ...]) -> tuple[str, ...]:
        return _with_prefix("sg-", ids)

    @field_validator("tags")
    @classmethod
    def _are_the_users(cls, tags: dict[str, str]) -> dict[str, str]:
        taken = sorted(key for key in tags if key.lower().startswith(("aws:", "infiniray:")))
        if taken:
            raise ValueError(f"tags that begin with aws: or infiniray: are not yours to set: {', '.join(taken)}")
        if any(not 0 < len(key) <= 128 or len(value) > 256 for key, value in tags.items()):
            raise ValueError("a tag's key has 1 to 128 characters, its value at most 256")
        return tags

    @model_validator(mode="after")
    def _is_whole_vpc(self) -> DeployConfig:
        if bool(self.subnets) != bool(self.security_groups):
            raise ValueError("subnets and security_groups go together: a VPC attachment needs both")
        return self


def _with_prefix(prefix: str, ids: tuple[str, ...]) -> tuple[str, ...]:
    other = [text for text in ids if not text.startswith(prefix)]
    if other or len(set(ids)) != len(ids):
        raise ValueError(f"{other[0]!r} does not begin with {prefix}" if other else "one is given twice")
    return ids


class BackingConfig(_Section):
    """The store behind the cache: see docs/backing.md for what each mode promises."""

    url: str | None = Field(None, min_length=1, description="s3://BUCKET/PREFIX, a directory, any URL of fsspec's")
    mode: Literal["read-through", "write-through", "write-back"] = Field(
        "write-through",
        description="'read-through': misses are read from the store, which is never written; 'write-through': a PUT is "
        "acknowledged when the store has it; 'write-back': when the cache has it, the store gets it later",
    )
    on_error: Literal["fail", "degrade"] = Field(
        "fail", description="while the store is unavailable: raise, or do without it as far as that loses nothing"
    )
    timeout_s: Seconds = Field(10.0, gt=0, description="for one call of the store; a verb's deadline may end it before")
    concurrency: int = Field(16, ge=1, le=256, description="calls of the store at once, from one process")
    ttl_in_store: bool = Field(
        False, description="write objects with a ttl to the store too, where they stay when the ttl is over"
    )
    cached_ttl_s: Seconds | None = Field(
        None, gt=0, description="read again from the store after so long: if others write to it too. None: never"
    )
    allow_pickle: bool | None = Field(
        None, description="rebuild pickled objects of the store, which runs what they say; None: unless read-through"
    )
    queue_bytes: Bytes = Field(256 << 20, gt=0, description="write-back: kept by a process until the store has it")
    queue_writes: int = Field(4096, ge=1, description="write-back: objects kept so; more PUTs wait")
    flush_delay_s: Seconds = Field(0.1, description="write-back: wait so long for a later PUT of the same key")
    flush_timeout_s: Seconds = Field(30.0, gt=0, description="write-back: what close() waits for the store")
    options: dict[str, Any] = Field(
        default_factory=dict, repr=False, description="of the store: endpoint_url, region_name, ... for s3, or fsspec's"
    )

    @model_validator(mode="before")
    @classmethod
    def _from_url(cls, given: Any) -> Any:
        return {"url": given} if isinstance(given, str) else given

    @property
    def may_unpickle(self) -> bool:
        """Whether pickled objects of the store are rebuilt, and written."""
        return self.mode != "read-through" if self.allow_pickle is None else self.allow_pickle


class Config(_Section):
    """The whole tree. Build it with :meth:`load`; attributes are read-only.

    Raises (from :meth:`load`):
        ConfigError: a value out of range, an unknown key, a pool too small for its schemes.
    """

    name: str = Field("default", pattern=r"^[a-z0-9][a-z0-9-]{0,39}$", description="which cache, where several run")
    pool: PoolConfig = PoolConfig()
    ring: RingConfig = RingConfig()
    redundancy: tuple[RedundancyRule, ...] = (
        RedundancyRule(up_to=64 << 10, scheme="mirror:3"),
        RedundancyRule(up_to=1 << 20, scheme="rs:4+2"),
        RedundancyRule(scheme="rs:10+2"),
    )
    eviction: EvictionConfig = EvictionConfig()
    read: ReadConfig = ReadConfig()
    near: NearConfig = NearConfig()
    availability: AvailabilityConfig = AvailabilityConfig()
    session: SessionConfig = SessionConfig()
    codec: CodecConfig = CodecConfig()
    limits: LimitsConfig = LimitsConfig()
    channel: ChannelConfig = ChannelConfig()
    platform: PlatformConfig = Field(default_factory=PlatformConfig)
    deploy: DeployConfig = Field(default_factory=DeployConfig)
    backing: BackingConfig = Field(default_factory=BackingConfig)
    simulation: SimulationSettings = Field(default_factory=SimulationSettings)

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        if not self.redundancy:
            raise ValueError("redundancy: at least one rule is needed")
        bounds = [rule.up_to for rule in self.redundancy]
        if bounds[-1] is not None:
            raise ValueError("redundancy: the last rule must have no up_to, so that every size has a scheme")
        finite = bounds[:-1]
        if any(b is None for b in finite) or finite != sorted(set(finite)):  # type: ignore[type-var]
            raise ValueError("redundancy: up_to must rise from rule to rule, and only the last may lack it")
        if self.pool.nodes < self.ring.shards * self.widest_scheme:
            raise ValueError(
                f"pool.nodes: {self.pool.nodes} nodes over {self.ring.shards} shards are too few for schemes of "
                f"{self.widest_scheme} distinct nodes: at least {self.ring.shards * self.widest_scheme} are needed"
            )
        return self

    @property
    def widest_scheme(self) -> int:
        """Distinct nodes that the widest scheme in use needs."""
        return max(Scheme.parse(rule.scheme).n for rule in self.redundancy)

    @classmethod
    def load(
        cls, file: str | Path | None = None, overrides: Mapping[str, Any] | None = None, *,
        environ: Mapping[str, str] | None = None,
    ) -> Config:  # fmt: skip
        """Merge file, environment and ``overrides`` (a nested mapping), and validate.

        Raises:
            ConfigError: it says which setting, where it can be told what was meant.
        """
        tree = _read_file(Path(file)) if file is not None else {}
        _merge(tree, _from_environment(os.environ if environ is None else environ))
        _merge(tree, overrides or {})
        _refuse_unknown(tree, cls, "")
        try:
            return cls.model_validate(tree)
        except ValidationError as error:
            raise ConfigError(detail="; ".join(_explain(error))) from None


def _read_file(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(detail=f"{path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise ConfigError(detail=f"{path}: not YAML: {error}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(detail=f"{path}: a configuration is a mapping, not a {type(tree).__name__}")
    return tree


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, text in environ.items():
        path = name.removeprefix(_ENV_PREFIX).lower().split("__")
        if not name.startswith(_ENV_PREFIX) or name in _ENV_RESERVED:
            continue
        level = tree
        for part in path[:-1]:
            level = level.setdefault(part, {})
        try:
            level[path[-1]] = yaml.safe_load(text)
        except yaml.YAMLError:
            level[path[-1]] = text
    return tree


def _merge(tree: dict[str, Any], over: Mapping[str, Any]) -> None:
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(tree.get(key), dict):
            _merge(tree[key], value)
        else:
            tree[key] = dict(value) if isinstance(value, Mapping) else value


def _refuse_unknown(tree: Mapping[str, Any], model: type[BaseModel], path: str) -> None:
    known = model.model_fields
    for key, value in tree.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"; did you mean '{path}{near[0]}'?" if near else f"; known here: {', '.join(known)}"
            raise ConfigError(detail=f"unknown setting '{path}{key}'{hint}")
        section = known[key].annotation
        if isinstance(value, Mapping) and isinstance(section, type) and issubclass(section, BaseModel):
            _refuse_unknown(value, section, f"{path}{key}.")


def _explain(error: ValidationError) -> Iterator[str]:
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"])
        what = problem["msg"].removeprefix("Value error, ")
        yield f"{where}: {what} (got {problem['input']!r:.60})" if where else what
