"""What is wrong with a deployment, for ``infiniray doctor``: seen with no more than the shards' host may."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from infiniray.config import Config
from infiniray.errors import DeployError, NotDeployed, PlatformError
from infiniray.faas.deploy.adopt import require_deployed
from infiniray.faas.deploy.clients import Clients, connect_platform, control_client
from infiniray.faas.deploy.code import code_spec
from infiniray.faas.deploy.explain import explained
from infiniray.faas.deploy.functions import read_functions
from infiniray.faas.deploy.scope import Scope, node_names

__all__ = ["Observation", "check_deployment", "count_other_code"]

#: AWS refuses what is signed more than five minutes off.
_SKEW_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One thing that was looked at: how it is, and what to do about it."""

    subject: str
    level: Literal["ok", "warn", "fail"]
    found: str
    advice: str = ""


def check_deployment(config: Config) -> Iterator[Observation]:
    """Look at credentials, clock, functions and their code. What cannot be seen is an observation, not an error."""
    try:
        clients, scope = connect_platform(config)
        yield Observation(subject="platform", level="ok", found=_whereabouts(config, clients, scope))
        yield from _clock(clients.clock_skew_s)
        yield from _functions(config, clients, scope)
    except DeployError as error:
        found = f"{error.fields['operation']} ({error.fields['function']}): {error.fields['detail']}"
        yield Observation(subject="platform", level="fail", found=found, advice=error.advice)
    except PlatformError as error:
        yield Observation(subject="platform", level="fail", found=str(error), advice="try again")


def count_other_code(endpoint_url: str, cache: str) -> tuple[int, int]:
    """Of an embedded platform's functions of ``cache``: how many run other code than this installation's, of how many.

    Raises:
        DeployError: the platform cannot be reached, or refuses.
    """
    scope = Scope(cache=cache, region="us-east-1", account="")
    client = control_client(endpoint_url, scope.region)
    with explained("list", "functions"):
        pages = client.get_paginator("list_functions").paginate()
        found = [f["CodeSha256"] for page in pages for f in page["Functions"] if scope.is_node(f["FunctionName"])]
    current = code_spec(scope, bucket=None).sha256
    return sum(sha256 != current for sha256 in found), len(found)


def _whereabouts(config: Config, clients: Clients, scope: Scope) -> str:
    if clients.aws is None:
        return f"embedded, {config.platform.endpoint_url}"
    return f"AWS account {scope.account}, {scope.region}"


def _clock(skew_s: float | None) -> Iterator[Observation]:
    if skew_s is not None:
        found = f"{skew_s:+.0f} s beside the platform's"
        is_off = abs(skew_s) > _SKEW_S
        advice = "set it, with NTP: AWS refuses requests from a clock that is minutes off" if is_off else ""
        yield Observation(subject="platform clock", level="warn" if is_off else "ok", found=found, advice=advice)


def _functions(config: Config, clients: Clients, scope: Scope) -> Iterator[Observation]:
    names = node_names(config)
    states = read_functions(clients.functions, scope, names)
    try:
        require_deployed(config, states)
        yield Observation(subject="functions", level="ok", found=f"{len(names)}, as configured")
    except NotDeployed as error:
        yield Observation(subject="functions", level="fail", found=error.fields["detail"], advice=error.advice)
    current = code_spec(scope, bucket=None).sha256
    ours = [state for state in states.values() if state.is_ours]
    n_other = Counter(state.code_sha256 == current for state in ours)[False]
    if n_other:
        found = f"{n_other} of {len(ours)} functions run other code than this installation's"
        advice = "infiniray deploy (functions that change lose what they hold), or install the version that deployed"
        yield Observation(subject="agent code", level="warn", found=found, advice=advice)
    elif ours:
        yield Observation(subject="agent code", level="ok", found="what runs is this installation's")
