"""What is said of a trace's lines that could not be taken as they stand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from infiniray.cli.output import says

if TYPE_CHECKING:
    from workloads.trace import TraceProblems

__all__ = ["tell_problems"]

_N_REASONS = 5


def tell_problems(problems: TraceProblems) -> None:
    """Counts, the first line that is wrong, and the commonest reasons for skipping, on standard error; of a trace in
    order, nothing."""
    wrong = []
    if n := problems.n_malformed:
        wrong.append("1 malformed line was left out" if n == 1 else f"{n:,} malformed lines were left out")
    if n := problems.n_out_of_order:
        wrong.append("1 line went back in time" if n == 1 else f"{n:,} lines went back in time")
    if wrong:
        first = problems.first[0]
        says().print(f"{', '.join(wrong)}; the first, line {first.line}: {first.detail}", soft_wrap=True)
    if n := problems.skipped.total():
        most = ", ".join(f"{reason}: {count:,}" for reason, count in problems.skipped.most_common(_N_REASONS))
        lines = "1 line is no use to a cache and was" if n == 1 else f"{n:,} lines are no use to a cache and were"
        says().print(f"{lines} skipped ({most})", soft_wrap=True)
