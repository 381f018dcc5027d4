"""Desired against actual: the changes that lead from one to the other. Pure."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from infiniray.errors import NameTaken
from infiniray.faas.deploy.resources import (
    Actual,
    CodeSpec,
    CodeState,
    Desired,
    FunctionSpec,
    FunctionState,
    LogGroupSpec,
    LogGroupState,
    RoleSpec,
    RoleState,
)

__all__ = ["Action", "Change", "Kind", "Part", "Plan", "function_change", "plan_deploy", "plan_undeploy"]

Spec = RoleSpec | LogGroupSpec | CodeSpec | FunctionSpec
State = RoleState | LogGroupState | CodeState | FunctionState


class Action(str, enum.Enum):
    CREATE = "create"
    UPDATE = "update"
    #: delete and create: for a function that no update can mend
    REPLACE = "replace"
    DELETE = "delete"


class Kind(str, enum.Enum):
    ROLE = "role"
    LOG_GROUP = "log group"
    CODE = "code"
    FUNCTION = "function"


class Part(str, enum.Enum):
    """What of a resource an update changes."""

    CODE = "code"
    SETTINGS = "settings"
    CONCURRENCY = "concurrency"
    TAGS = "tags"
    TRUST = "trust"
    PERMISSIONS = "permissions"
    RETENTION = "retention"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One resource's. ``why`` is for people, and holds no secret."""

    action: Action
    kind: Kind
    name: str
    why: tuple[str, ...] = ()
    parts: frozenset[Part] = frozenset()
    spec: Spec | None = None
    state: State | None = None

    @property
    def restarts(self) -> bool:
        """Whether a function loses its instances, and so its chunks."""
        loses = self.action in (Action.REPLACE, Action.DELETE) or bool(self.parts & {Part.CODE, Part.SETTINGS})
        return self.kind is Kind.FUNCTION and loses


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Stages of changes: those of one stage may be made at the same time, and before those of the next."""

    stages: tuple[tuple[Change, ...], ...]
    n_unchanged: int

    @property
    def changes(self) -> tuple[Change, ...]:
        return tuple(change for stage in self.stages for change in stage)


#: What differs, in words, by part.
Differences = dict[Part, list[str]]


def plan_deploy(desired: Desired, actual: Actual) -> Plan:
    """What makes ``actual`` as ``desired``: what functions need first, then functions, then what is left over.

    Raises:
        NameTaken: something that is not this cache's has a name that is needed. Nothing may be done then.
    """
    _refuse_strangers(desired, actual)
    role = list(_role(desired.role, actual))
    logs = list(_log_group(desired.log_group, actual))  # before the code: its tags say in which buckets that is
    code = list(_code(desired.code, actual))
    orphans = _orphans(desired, actual)
    gone = {change.name for change in orphans}
    found = {name: state for name, state in actual.functions.items() if name not in gone}
    changes = (function_change(spec, found.get(spec.name), desired.code) for spec in desired.functions)
    functions = [change for change in changes if change is not None]
    n_resources = sum(x is not None for x in (desired.role, desired.log_group, desired.code.bucket))
    n_unchanged = n_resources + len(desired.functions) - len(role) - len(logs) - len(code) - len(functions)
    if _leaves_vpc(desired, found):  # the platform detaches functions with what their role allows
        return _staged(n_unchanged, orphans, logs, code, functions, [*role, *_leftovers(desired, actual)])
    return _staged(n_unchanged, orphans, [*role, *logs], code, functions, _leftovers(desired, actual))


def _orphans(desired: Desired, actual: Actual) -> list[Change]:
    """Functions whose role is gone. A new role of the same name is another one: the key's grant, for which a function
    can read its environment, names the old one. They go before it is made, so that no half-done deployment hides it.
    https://repost.aws/knowledge-center/lambda-kmsaccessdeniedexception-errors
    """
    if desired.role is None or actual.role is not None:
        return []
    why = "its role is gone, and one of the same name would be another one"
    wanted = (actual.functions.get(spec.name) for spec in desired.functions)
    return [_deletion(Kind.FUNCTION, state.name, state, why) for state in wanted if state is not None]


def _leftovers(desired: Desired, actual: Actual) -> list[Change]:
    """What is ours, and no longer asked for."""
    wanted = {spec.name for spec in desired.functions}
    left = [
        _deletion(Kind.FUNCTION, state.name, state, "the pool has fewer nodes")
        for state in actual.functions.values()
        if state.is_ours and state.name not in wanted
    ]
    left += [
        _deletion(Kind.CODE, f"{state.bucket}/{state.key}", state, "no function uses it any more")
        for state in actual.codes
        if state.is_ours and not _is_at(desired.code, state)
    ]
    if desired.role is None and actual.role is not None and actual.role.is_ours:
        left.append(_deletion(Kind.ROLE, actual.role.name, actual.role, "functions have another role"))
    return left


def _leaves_vpc(desired: Desired, found: Mapping[str, FunctionState]) -> bool:
    attached = any((s.configuration.get("VpcConfig") or {}).get("SubnetIds") for s in found.values() if s.is_ours)
    return attached and not any(spec.subnets for spec in desired.functions)


def plan_undeploy(actual: Actual) -> Plan:
    """What removes all that is this cache's: functions, then what they needed, the log group after the code that its
    tags lead to. What is not ours is passed over."""
    ours = sorted(s.name for s in actual.functions.values() if s.is_ours)
    functions = [_deletion(Kind.FUNCTION, name, actual.functions[name]) for name in ours]
    code = [_deletion(Kind.CODE, f"{s.bucket}/{s.key}", s) for s in actual.codes if s.is_ours]
    around: list[Change] = []
    if actual.log_group is not None and actual.log_group.is_ours:
        around.append(_deletion(Kind.LOG_GROUP, actual.log_group.name, actual.log_group))
    if actual.role is not None and actual.role.is_ours:
        around.append(_deletion(Kind.ROLE, actual.role.name, actual.role))
    return _staged(0, functions, code, around)


def _staged(n_unchanged: int, *stages: list[Change]) -> Plan:
    return Plan(stages=tuple(tuple(stage) for stage in stages if stage), n_unchanged=n_unchanged)


def _deletion(kind: Kind, name: str, state: State, *why: str) -> Change:
    return Change(action=Action.DELETE, kind=kind, name=name, why=why, state=state)


def _is_at(spec: CodeSpec, state: CodeState) -> bool:
    return (spec.bucket, spec.key) == (state.bucket, state.key)


def _refuse_strangers(desired: Desired, actual: Actual) -> None:
    found: list[str] = []
    if desired.role is not None and actual.role is not None and not actual.role.is_ours:
        found.append(f"role {actual.role.name}")
    if desired.log_group is not None and actual.log_group is not None and not actual.log_group.is_ours:
        found.append(f"log group {actual.log_group.name}")
    found += [f"{s.bucket}/{s.key}" for s in actual.codes if _is_at(desired.code, s) and not s.is_ours]
    names = {spec.name for spec in desired.functions}
    found += [f"function {name}" for name, state in actual.functions.items() if name in names and not state.is_ours]
    if found:
        shown = ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
        raise NameTaken(
            operation="deploy",
            function=shown,
            detail="the name is taken by something that does not bear this cache's tags; nothing was changed",
            advice="Deploy under another name (--name), or remove or rename that yourself",
        )


# ---------------------------------------------------------------- by kind


def _role(spec: RoleSpec | None, actual: Actual) -> Iterator[Change]:
    if spec is None:
        return
    if actual.role is None:
        yield Change(action=Action.CREATE, kind=Kind.ROLE, name=spec.name, spec=spec)
        return
    found: Differences = {}
    if actual.role.trust != spec.trust:
        found[Part.TRUST] = ["who may assume it"]
    if actual.role.permissions != spec.permissions:
        found[Part.PERMISSIONS] = ["what it allows"]
    yield from _update(Kind.ROLE, spec, actual.role, found | _tags(spec.tags, actual.role.tags))


def _log_group(spec: LogGroupSpec | None, actual: Actual) -> Iterator[Change]:
    if spec is None:
        return
    state = actual.log_group
    if state is None:
        why = (f"kept for {spec.retention_days} days",)
        yield Change(action=Action.CREATE, kind=Kind.LOG_GROUP, name=spec.name, spec=spec, why=why)
        return
    found: Differences = {}
    if state.retention_days != spec.retention_days:
        found[Part.RETENTION] = [f"kept {state.retention_days or 'for ever, not'} -> {spec.retention_days} days"]
    yield from _update(Kind.LOG_GROUP, spec, state, found | _tags(spec.tags, state.tags))


def _code(spec: CodeSpec, actual: Actual) -> Iterator[Change]:
    """The key has the contents' hash: what is there under it is what is wanted."""
    if spec.bucket is not None and not any(_is_at(spec, state) for state in actual.codes):
        why = (f"{len(spec.data):,} bytes",)
        yield Change(action=Action.CREATE, kind=Kind.CODE, name=f"{spec.bucket}/{spec.key}", spec=spec, why=why)


def function_change(spec: FunctionSpec, state: FunctionState | None, code: CodeSpec) -> Change | None:
    """What makes a function as it should be; None if it is."""
    if state is None:
        return Change(action=Action.CREATE, kind=Kind.FUNCTION, name=spec.name, spec=spec)
    if state.has_failed:
        why = f"its creation failed: {state.configuration.get('StateReason', 'no reason given')}"
        return Change(action=Action.REPLACE, kind=Kind.FUNCTION, name=spec.name, spec=spec, state=state, why=(why,))
    return next(_update(Kind.FUNCTION, spec, state, _function_differences(spec, state, code)), None)


def _function_differences(spec: FunctionSpec, state: FunctionState, code: CodeSpec) -> Differences:
    found: Differences = {}
    if state.code_sha256 != code.sha256:
        found[Part.CODE] = ["other code"]
    if state.architecture != spec.architecture:
        found.setdefault(Part.CODE, []).append(f"architecture {state.architecture} -> {spec.architecture}")
    if settings := list(_settings(spec.settings, state.configuration)):
        found[Part.SETTINGS] = settings
    if state.configuration.get("LastUpdateStatus") == "Failed":
        found.setdefault(Part.SETTINGS, []).append("its last update failed")
    if state.reserved_concurrency != spec.reserved_concurrency:
        change = f"reserved concurrency {state.reserved_concurrency} -> {spec.reserved_concurrency}"
        found[Part.CONCURRENCY] = [change]
    return found | _tags(spec.tags, state.tags)


def _settings(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[str]:
    """Settings that differ; what the environment holds is not told."""
    for name, value in wanted.items():
        if name == "Environment":
            yield from _environment(value["Variables"], (found.get(name) or {}).get("Variables") or {})
        elif name == "VpcConfig":
            current = found.get(name) or {}
            if any(set(value[ids]) != set(current.get(ids) or ()) for ids in value):
                yield "VPC attachment"
        elif name == "LoggingConfig":
            if name in found and found[name] != value:  # AWS always says; a platform that does not has none to set
                yield "logging"
        elif found.get(name) != value:
            yield f"{name} {found.get(name)} -> {value}"


def _environment(wanted: Mapping[str, str], found: Mapping[str, str]) -> Iterator[str]:
    names = [name for name in sorted({*wanted, *found}) if wanted.get(name) != found.get(name)]
    if names:
        yield f"environment: {', '.join(names)}"


def _tags(wanted: Mapping[str, str], found: Mapping[str, str]) -> Differences:
    """Tags that others have put there stay."""
    names = [name for name in wanted if found.get(name) != wanted[name]]
    return {Part.TAGS: [f"tags: {', '.join(names)}"]} if names else {}


def _update(
    kind: Kind, spec: RoleSpec | LogGroupSpec | FunctionSpec, state: State, found: Differences
) -> Iterator[Change]:
    if found:
        why = tuple(text for texts in found.values() for text in texts)
        yield Change(
            action=Action.UPDATE, kind=kind, name=spec.name, why=why, parts=frozenset(found), spec=spec, state=state
        )
