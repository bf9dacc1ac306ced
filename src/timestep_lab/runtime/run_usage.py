"""What a run used and cost, over all its parts."""

from __future__ import annotations

from collections.abc import Sequence

from agents import RunContextWrapper

from timestep_lab.types.records import RunRecord, Usage


def counted(wrapper: RunContextWrapper[object]) -> Usage:
    """The tokens that the SDK counted for one run of its own."""
    said = wrapper.usage
    into, out = said.input_tokens_details, said.output_tokens_details
    return Usage(
        requests=said.requests,
        input_tokens=said.input_tokens,
        output_tokens=said.output_tokens,
        cached_tokens=into.cached_tokens or 0,
        cache_write_tokens=getattr(into, "cache_write_tokens", 0) or 0,
        reasoning_tokens=out.reasoning_tokens or 0,
    )


def cost_so_far(before: RunRecord, usage: Usage, costs: Sequence[float | None]) -> float | None:
    """USD of the run's earlier parts and of `costs`, the generations of this one; None unless every price is known.

    `before` is the run's row as it was when this part began, `usage` what all parts used.
    """
    earlier = before.cost_usd if before.usage.requests else 0.0
    known = [cost for cost in costs if cost is not None]
    if earlier is None or not known or len(known) < usage.requests - before.usage.requests:
        return None
    return earlier + sum(known)
