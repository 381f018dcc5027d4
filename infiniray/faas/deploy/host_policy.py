"""What the machines that shards run on must be allowed: the policy for their instance profile."""

from __future__ import annotations

from typing import Any

from infiniray.faas.deploy.scope import Scope

__all__ = ["host_policy"]


def host_policy(scope: Scope, *, rotates: bool = False) -> dict[str, Any]:
    """An IAM policy document: invoke this cache's functions, and see what they are.

    ``lambda:GetFunction`` and ``lambda:ListTags`` are for ``infiniray up`` and ``infiniray doctor``, which make sure
    that the functions are the cache's own; with it goes the pool's secret, which shards need.

    Args:
        rotates: also what ``infiniray rotate-secret`` has the supervisor do: change the functions' settings. Who may
            do that may have the functions run with other settings, so it is better taken back afterwards.
    """
    actions = ["lambda:InvokeFunction", "lambda:GetFunction", "lambda:ListTags"]
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "UseTheNodes",
                "Effect": "Allow",
                "Action": actions + ["lambda:UpdateFunctionConfiguration"] * rotates,
                "Resource": scope.functions_arn,
            }
        ],
    }
