"""Commands that make a cache's functions on a platform, and remove them: deploy, undeploy."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from infiniray.cli.output import json_option, named, named_by_config, print_json, reports_errors, results, says
from infiniray.cli.running import configuration

if TYPE_CHECKING:
    from infiniray.faas.deploy.apply import OnDone
    from infiniray.faas.deploy.deployment import Deployment, DeployPlan
    from infiniray.faas.deploy.floor import CostFloor
    from infiniray.faas.deploy.plan import Change, Plan

__all__ = ["deploy", "undeploy"]

_config = click.option("--config", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A YAML file.")
_set = click.option(
    "--set", "settings", multiple=True, metavar="SECTION.NAME=VALUE", help="Any setting; may be repeated."
)
_plan = click.option("--plan", "only_plan", is_flag=True, help="Show what would be done, and do nothing.")
_yes = click.option("--yes", is_flag=True, help="Do not ask.")


@click.command()
@_config
@click.option("--nodes", type=int, help="Functions in the pool.")
@click.option("--memory-mb", type=int, help="Memory size of a function.")
@_set
@_plan
@_yes
@click.option("--host-policy", "only_policy", is_flag=True, help="Print the IAM policy that the shards' hosts need.")
@click.option("--for-rotation", is_flag=True, help="With --host-policy: and what `rotate-secret` needs beside that.")
@named_by_config
@json_option
@reports_errors
def deploy(
    config: Path | None,
    nodes: int | None,
    memory_mb: int | None,
    settings: tuple[str, ...],
    only_plan: bool,
    yes: bool,
    only_policy: bool,
    for_rotation: bool,
    name: str | None,
    as_json: bool,
) -> None:
    """Make a cache's functions, and what they need, as configured. Done again, it changes what differs.

    On AWS (platform.kind: aws): functions, their execution role, a log group, tags on all of it. On an embedded
    platform that runs (platform.endpoint_url): functions. `infiniray up` with the same configuration then uses them.
    """
    from infiniray.faas.deploy.floor import cost_floor

    if for_rotation and not only_policy:
        raise click.UsageError("--for-rotation goes with --host-policy")
    deployment = _deployment(config, settings, name=name, nodes=nodes, memory_mb=memory_mb)
    if only_policy:
        print_json(deployment.host_policy(rotates=for_rotation))
        return
    with says().status("looking at what is there"):
        planned = deployment.plan()
    floor = cost_floor(deployment.config)
    document = _document(deployment, planned.plan) | _beside(planned, floor)
    if not as_json:
        _show_beginning(deployment, planned.plan)
        _show_floor(deployment, planned, floor)
    if _goes_on(planned.plan, only_plan=only_plan, yes=yes, question="Make these changes?", as_json=as_json):
        with _progress(planned.plan, "deploying") as on_done:
            deployment.deploy(planned, on_done)
        document["done"] = True
        cache = deployment.config.name
        says().print(f"cache {cache!r} is deployed: now `infiniray up`, with the same configuration", markup=False)
    if as_json:
        print_json(document)


@click.command()
@_config
@_set
@_plan
@_yes
@named_by_config
@json_option
@reports_errors
def undeploy(
    config: Path | None, settings: tuple[str, ...], only_plan: bool, yes: bool, name: str | None, as_json: bool
) -> None:
    """Remove what `deploy` has made: what bears this cache's tags, and nothing else. What functions hold is gone."""
    deployment = _deployment(config, settings, name=name)
    with says().status("looking at what is there"):
        plan = deployment.plan_removal()
    document = _document(deployment, plan)
    if not as_json:
        _show_beginning(deployment, plan)
        _warn_if_up(deployment.config.name)
    if _goes_on(plan, only_plan=only_plan, yes=yes, question="Remove all this?", as_json=as_json):
        with _progress(plan, "removing") as on_done:
            deployment.undeploy(plan, on_done)
        document["done"] = True
        says().print(f"cache {deployment.config.name!r} is no longer deployed", markup=False)
    if as_json:
        print_json(document)


def _deployment(config: Path | None, settings: tuple[str, ...], **short: Any) -> Deployment:
    """Connected to the platform that the options describe.

    Raises:
        ConfigError: a setting is not valid, or the platform is one that `infiniray up` starts itself.
    """
    from infiniray.errors import ConfigError
    from infiniray.faas.deploy.adopt import is_deployed_apart
    from infiniray.faas.deploy.deployment import Deployment

    chosen = configuration(
        config, settings, **{"nodes": None, "memory_mb": None, "shards": None, "scheme": None, **short}
    )
    if not is_deployed_apart(chosen):
        detail = (
            "platform.kind: the embedded platform of this machine needs no deploying, `infiniray up` starts it; for "
            "AWS use --config configs/aws.yaml or --set platform.kind=aws"
        )
        raise ConfigError(detail=detail)
    return Deployment.connect(chosen)


def _goes_on(plan: Plan, *, only_plan: bool, yes: bool, question: str, as_json: bool) -> bool:
    """Whether to act: there is something to do, and nobody minds."""
    if not plan.changes or only_plan:
        return False
    if as_json and not yes:
        raise click.UsageError("--json asks nothing: say --yes to act, or --plan to look")
    if not yes:
        click.confirm(question, abort=True, err=True)
    return True


@contextlib.contextmanager
def _progress(plan: Plan, what: str) -> Iterator[OnDone]:
    """A bar on a terminal; after an error, how far it came."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    n_done, lock = 0, threading.Lock()
    with Progress(*columns, console=says(), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(what, total=len(plan.changes))

        def on_done(_: Change) -> None:  # called from several threads
            nonlocal n_done
            with lock:
                n_done += 1
            progress.update(task, advance=1)

        try:
            yield on_done
        except BaseException:
            says().print(f"{n_done} of {len(plan.changes)} changes were made; the same command again makes the rest")
            raise


# ---------------------------------------------------------------- showing


def _document(deployment: Deployment, plan: Plan) -> dict[str, Any]:
    scope = deployment.scope
    changes = [
        {"action": c.action.value, "kind": c.kind.value, "name": c.name, "why": list(c.why), "restarts": c.restarts}
        for c in plan.changes
    ]
    return {
        "name": scope.cache,
        "account": scope.account if deployment.clients.aws is not None else None,
        "region": scope.region,
        "changes": changes,
        "unchanged": plan.n_unchanged,
        "done": False,
    }


def _beside(planned: DeployPlan, floor: CostFloor) -> dict[str, Any]:
    cost = {"usd_per_month": round(floor.usd_per_month, 4), "formula": floor.formula, "source": floor.source}
    return {"warnings": list(planned.warnings), "cost_floor": cost}


def _show_beginning(deployment: Deployment, plan: Plan) -> None:
    scope, out = deployment.scope, results()
    where = f"AWS account {scope.account}, {scope.region}"
    if deployment.clients.aws is None:
        where = f"the embedded platform at {deployment.config.platform.endpoint_url}"
    out.print(f"cache {scope.cache!r} on {where}")
    for (action, kind, why), names in _gathered(plan).items():
        shown = names[0] if len(names) == 1 else f"{len(names)}: {names[0]} .. {names[-1]}"
        out.print(f"  {action} {kind} {shown}" + (f" ({why})" if why else ""))
    actions = Counter(change.action.value for change in plan.changes)
    summed = ", ".join(f"{n} to {action}" for action, n in actions.items()) or "nothing to do"
    out.print(summed + (f"; {plan.n_unchanged} as they should be" if plan.n_unchanged else ""))
    n_restarts = sum(change.restarts for change in plan.changes)
    if n_restarts:
        out.print(f"functions that lose what they hold: {n_restarts}")


def _gathered(plan: Plan) -> dict[tuple[str, str, str], list[str]]:
    """Names of resources to which the same happens for the same reason."""
    gathered: dict[tuple[str, str, str], list[str]] = {}
    for change in plan.changes:
        key = (change.action.value, change.kind.value, "; ".join(change.why))
        gathered.setdefault(key, []).append(change.name)
    return gathered


def _warn_if_up(name: str) -> None:
    """A cache may be up elsewhere, too: this machine knows of those that it has brought up."""
    from infiniray.cluster.state import StateDirectory

    if StateDirectory().read(name) is not None:
        how = f"`infiniray down{named(name)}`"
        results().print(f"note: a cache {name!r} is up on this machine; without its functions it fails: {how}")


def _show_floor(deployment: Deployment, planned: DeployPlan, floor: CostFloor) -> None:
    out = results()
    for warning in planned.warnings:
        out.print(f"note: {warning}")
    on = "" if deployment.clients.aws is not None else " (were it on AWS)"
    out.print(f"cost floor{on}: ${floor.usd_per_month:,.2f} a month of 30 days, for keeping the functions warm")
    out.print(f"  = {floor.formula}")
    out.print(f"  prices: {floor.source}")
    out.print("  on top: requests, backups, logs, the machines that shards run on (infiniray cost)")
