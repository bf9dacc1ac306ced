"""`lab.mcp.add_function`: a function of this process as a tool of stored agents."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from agents import function_tool

from timestep_lab import Lab
from timestep_lab.model.errors import ConflictError, NotFoundError, UsageError

REFUND = 'call refund {"order": "7712"}'


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    opened = Lab(tmp_path / "lab.duckdb")
    yield opened
    await opened.aclose()


async def test_a_function_is_a_tool_of_a_stored_agent_and_asks_as_its_rule_says(lab: Lab) -> None:
    paid: list[str] = []

    def refund(order: str, amount: float = 5.0) -> dict[str, object]:
        """Pay an order back."""
        paid.append(order)
        return {"order": order, "amount": amount}

    name = lab.mcp.add_function(refund, require_approval="always")
    assert name == "functions.refund"
    lab.agents.create(name="Billing", tools=[name], model="demo/assistant")
    [tool] = await lab.mcp.test("functions")
    assert (tool.description, tool.input_schema["required"]) == ("Pay an order back.", ["order"])
    run = await lab.run(REFUND, agent="Billing")
    assert (run.status, paid) == ("needs_approval", [])
    run = await run.approve()
    assert (run.output, paid) == ('refund answered: {"order": "7712", "amount": 5.0}', ["7712"])


async def test_a_function_that_is_named_without_its_server_is_found(lab: Lab) -> None:
    def refund(order: str) -> str:
        return order

    lab.mcp.add_function(refund)
    with pytest.raises(NotFoundError, match=r"Did you mean 'functions\.refund'\?"):
        lab.agents.create(name="Billing", tools=["refund"])


async def test_a_function_that_is_added_again_is_the_one_that_is_called(lab: Lab) -> None:
    def refund(order: str) -> str:
        return "first"

    lab.agents.create(name="Billing", tools=[lab.mcp.add_function(refund)], model="demo/assistant")
    assert "first" in str((await lab.run(REFUND, agent="Billing")).output)

    def refund(order: str, why: str = "") -> str:  # type: ignore[no-redef]
        return "second"

    lab.mcp.add_function(refund)
    assert "second" in str((await lab.run(REFUND, agent="Billing")).output)
    assert "why" in (await lab.mcp.test("functions"))[0].input_schema["properties"]


async def test_what_a_function_raises_is_told_to_the_model_and_an_sdk_tool_keeps_its_approval(lab: Lab) -> None:
    async def refund(order: str) -> str:
        raise ValueError("no such order")

    @function_tool(needs_approval=True)
    def delete(order: str) -> str:
        return order

    tools = [lab.mcp.add_function(refund), lab.mcp.add_function(delete)]
    lab.agents.create(name="Billing", tools=tools, model="demo/assistant")
    assert "no such order" in str((await lab.run(REFUND, agent="Billing")).output)
    assert (await lab.run('call delete {"order": "1"}', agent="Billing")).status == "needs_approval"


WORKER = """
import asyncio, sys
from timestep_lab import Lab
async def main():
    lab = Lab(sys.argv[1])
    def refund(order: str) -> str: return "from the new process"
    if sys.argv[2] == "serve": lab.mcp.add_function(refund)
    print((await lab.run('call refund {"order": "7712"}', agent="Billing")).output)
    await lab.aclose()
asyncio.run(main())
"""


def other_process(lab: Lab, what: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", WORKER, lab.store.db.url, what], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_a_function_runs_here_also_for_another_process_and_a_new_process_can_take_its_place(lab: Lab) -> None:
    from timestep_lab.store.base import in_thread

    def refund(order: str) -> str:
        return "from the first process"

    lab.agents.create(name="Billing", tools=[lab.mcp.add_function(refund)], model="demo/assistant")
    address = str(lab.mcp.get("functions").url).partition("?")[0]
    assert "from the first process" in await in_thread(other_process, lab, "use")
    lab.mcp.close()
    assert "from the new process" in await in_thread(other_process, lab, "serve")
    assert str(lab.mcp.get("functions").url).startswith(address)


async def test_a_run_whose_functions_have_ended_warns_and_says_how_they_come_back(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    def refund(order: str) -> str:
        return f"Refunded {order}."

    lab.agents.create(name="Billing", instructions="Refund.", tools=[lab.mcp.add_function(refund)])
    lab.mcp.close()  # As when its process ends.
    [server] = lab.mcp.list()
    for _ in range(200):
        try:
            httpx.get(str(server.url))
        except httpx.ConnectError:
            break
        except httpx.TransportError:
            pass  # It ends just now.
        await asyncio.sleep(0.05)
    run = await lab.run('call refund {"order": "7"}', agent="Billing", model="demo/assistant")
    assert run.status == "completed"
    [warning] = [record.getMessage() for record in caplog.records if run.id in record.getMessage()]
    assert "add its functions again: lab.mcp.add_function(f, server='functions')" in warning


async def test_functions_are_served_to_their_lab_alone_and_not_twice_under_one_name(lab: Lab, tmp_path: Path) -> None:
    def refund(order: str) -> str:
        return order

    lab.mcp.add_function(refund)
    async with httpx.AsyncClient() as stranger:
        assert (await stranger.post(str(lab.mcp.get("functions").url), json={})).status_code == 401
    second = lab.for_user(lab.store.user_id)
    with pytest.raises(ConflictError, match="taken") as refused:
        second.mcp.add_function(refund)
    assert "server='more_functions'" in refused.value.next_step
    assert second.mcp.add_function(refund, server="more_functions") == "more_functions.refund"
    second.mcp.close()


async def test_a_function_in_place_of_a_tools_name_is_told_how_it_becomes_one(lab: Lab) -> None:
    @function_tool
    def refund(order: str) -> str:
        return order

    with pytest.raises(UsageError, match=r"tools=\[lab.mcp.add_function\(refund\)\]"):
        lab.agents.create(name="Billing", tools=[refund])  # type: ignore[list-item]
    with pytest.raises(UsageError, match="is not a function with a name"):
        lab.mcp.add_function(lambda order: order)
