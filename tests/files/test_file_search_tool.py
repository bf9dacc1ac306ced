"""`file_search`, as an agent calls it: by the built-in MCP server over the user's own vector stores."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from timestep_lab.model.errors import ToolError
from timestep_lab.model.ids import BUILTIN_MCP_SERVER
from timestep_lab.runtime.files.vector_stores import VectorStores
from timestep_lab.runtime.mcp.toolbox import Toolbox
from timestep_lab.runtime.settings import Settings
from timestep_lab.store.store import Store

FILE_SEARCH = f"{BUILTIN_MCP_SERVER}.file_search"


@pytest.fixture
async def toolbox(duckdb_store: Store) -> AsyncIterator[Toolbox]:
    box = Toolbox([], Settings(weather_mode="recorded"), vector_stores=lambda: VectorStores(duckdb_store))
    yield box
    await box.aclose()


async def found(toolbox: Toolbox, **arguments: Any) -> list[tuple[str, str]]:
    answer = json.loads(await toolbox.call(FILE_SEARCH, arguments))
    return [(result["vector_store"], result["file"]) for result in answer["results"]]


async def test_it_searches_all_stores_or_the_one_that_is_named_best_first(
    toolbox: Toolbox, duckdb_store: Store
) -> None:
    stores = VectorStores(duckdb_store)
    pets = stores.files.add_bytes("pets.txt", b"The kitten slept on the sofa and purred.")
    cars = stores.files.add_bytes("cars.txt", b"The engine of the automobile needs oil.")
    await stores.create("home", files=[pets])
    await stores.create("garage", files=[cars, pets])
    assert await found(toolbox, query="vehicle repair", limit=1) == [("garage", "cars.txt")]
    assert set(await found(toolbox, query="cats")) == {
        ("home", "pets.txt"),
        ("garage", "pets.txt"),
        ("garage", "cars.txt"),
    }
    assert await found(toolbox, query="cats", vector_store="home") == [("home", "pets.txt")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"query": "x"}, "There is no vector store to search. Create one"),
        ({"query": "x", "vector_store": "papers"}, "There is no vector store 'papers'"),
        ({"query": "x", "limit": 0}, "Invalid limit 0. Use 1 to 20"),
        ({"query": "x", "limit": "many"}, "'limit' is 'many', not a whole number"),
        ({}, "The argument 'query' is missing"),
    ],
)
async def test_it_says_what_is_wrong_with_a_call(toolbox: Toolbox, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ToolError) as caught:
        await toolbox.call(FILE_SEARCH, arguments)
    assert message in str(caught.value)


async def test_without_a_lab_there_is_nothing_to_search() -> None:
    box = Toolbox([], Settings(weather_mode="recorded"))
    try:
        assert [info.name for info in await box.catalogue()] == ["get_weather", "think"]
    finally:
        await box.aclose()
