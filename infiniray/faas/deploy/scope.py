"""Where a cache is deployed, and what its resources are called."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from infiniray.config import Config

__all__ = ["TAG_BUCKETS", "TAG_CACHE", "TAG_REGION", "Scope", "node_names"]

#: Every resource bears both. What does not is not ours, and never touched.
TAG_CACHE = "infiniray:cache"
TAG_REGION = "infiniray:region"
#: On the log group: the buckets that code was put into, so that it is found when the configuration no longer says.
TAG_BUCKETS = "infiniray:code-buckets"

_ROLE_NAME_LENGTH = 64


def node_names(config: Config) -> tuple[str, ...]:
    """The functions of a configuration's pool."""
    return tuple(f"{config.name}-node-{index:04}" for index in range(config.pool.nodes))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """One cache in one region of one account. ``user_tags`` go beside its own on everything."""

    cache: str
    region: str
    account: str
    partition: str = "aws"
    user_tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def tags(self) -> dict[str, str]:
        return {**self.user_tags, TAG_CACHE: self.cache, TAG_REGION: self.region}

    def owns(self, tags: Mapping[str, str]) -> bool:
        """Whether a resource with these tags is this cache's, in this region."""
        return tags.get(TAG_CACHE) == self.cache and tags.get(TAG_REGION) == self.region

    def is_node(self, function: str) -> bool:
        """Whether a function is called like one of this cache's nodes; whose it is, its tags say."""
        return re.fullmatch(rf"{re.escape(self.cache)}-node-\d{{4,}}", function) is not None

    @property
    def role_name(self) -> str:
        """Roles know no region: its name has it. (Two that differ only beyond 64 characters are told apart by tags.)"""
        return f"infiniray-{self.cache}-{self.region}"[:_ROLE_NAME_LENGTH]

    @property
    def role_arn(self) -> str:
        return f"arn:{self.partition}:iam::{self.account}:role/{self.role_name}"

    @property
    def log_group(self) -> str:
        """One for all nodes."""
        return f"/infiniray/{self.cache}"

    @property
    def log_group_arn(self) -> str:
        return f"arn:{self.partition}:logs:{self.region}:{self.account}:log-group:{self.log_group}"

    @property
    def functions_arn(self) -> str:
        """A pattern of all nodes."""
        return f"arn:{self.partition}:lambda:{self.region}:{self.account}:function:{self.cache}-node-*"

    @property
    def code_prefix(self) -> str:
        """Where the code is in a bucket."""
        return f"infiniray/{self.cache}/{self.region}/"
