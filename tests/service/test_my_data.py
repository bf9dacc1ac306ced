"""All that a user has: counted, written into one file, and deleted, of one kind or altogether. Nobody else's is touched."""

from __future__ import annotations

import json
import time
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.postgres.server import shared_server
from tests.traces.recorder import Recorder
from timestep_lab import ConflictError, Lab
from timestep_lab.model.ids import LOCAL_USER
from timestep_lab.runtime.settings import Settings
from timestep_lab.store.search import SearchIndex, Word

SETTINGS = Settings.load(env={"WEATHER_MODE": "recorded", "TIMESTEP_LAB_DEMO_DELAY_MS": "0"})
NOTHING = {"conversations": 0, "traces": 0, "files": 0, "comparisons": 0, "datasets": 0, "agents": 0}


@pytest.fixture(params=["duckdb", "postgres"])
async def lab(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Lab]:
    """Somebody's, with a bit of everything, in a lab that others use, too."""
    if request.param == "duckdb":
        async with Lab(tmp_path / "lab.duckdb", settings=SETTINGS) as root:
            yield await filled(root.for_user("somebody"))
    else:
        with shared_server().lab_url() as url:
            async with Lab(url, settings=SETTINGS) as root:
                yield await filled(root.for_user("somebody"))


async def filled(lab: Lab) -> Lab:
    for one in (lab, lab._root):
        run = await one.run("zebra", model="demo/echo")
        one.score(run, "good", 1)
        one.trace_source.share(run.trace_id)
        one.files.add_bytes("zebra.txt", b"zebra")
        one.datasets.create("zebra", ["zebra"])
        await one.compare("zebra", models="demo/echo")
        one.agents.create(name="zebra")
    return lab


def rows(lab: Lab) -> dict[str, int]:
    """How many rows of the user are in each table that has some."""
    from timestep_lab.service.my_data import _count, _tables

    counts = {table: _count(lab.store, "count(*)", table) for table in _tables(lab.store)}
    return {table: count for table, count in counts.items() if count}


def counts(lab: Lab) -> dict[str, Any]:
    found = lab.my_data.counts()
    return {name: getattr(found, name) for name in NOTHING}


async def test_everything_that_is_mine_goes_and_all_of_others_stays(lab: Lab) -> None:
    before, others = counts(lab), rows(lab._root)
    assert before == {
        **NOTHING,
        "conversations": 1,
        "traces": 2,
        "files": 1,
        "comparisons": 1,
        "datasets": 1,
        "agents": 3,
    }
    lab.my_data.delete_everything()
    assert set(rows(lab)) <= {"users", "ingest_batches", "lab_settings"}
    assert counts(lab) == NOTHING
    assert rows(lab._root) == others
    assert len(lab.agents.list()) == 2  # The built-in ones, as at the first look.
    assert (await lab.run("zebra", model="demo/echo")).status == "completed"


async def test_one_kind_after_the_other_goes_and_the_rest_stays(lab: Lab) -> None:
    left = counts(lab)
    for kind in NOTHING:
        lab.my_data.delete(kind)  # type: ignore[arg-type]
        left |= {kind: 0, **({"traces": left["traces"] - 1} if kind == "conversations" else {})}
        assert counts(lab) == left


async def test_nothing_is_deleted_while_a_run_goes_on(lab: Lab) -> None:
    stream = lab.stream("Tell me a story.", model="demo/slow?ttft=0&tps=50&n=200")
    async for _ in stream:
        lab.flush()
        before = counts(lab)
        with pytest.raises(ConflictError, match="1 run is still running"):
            lab.my_data.delete_everything()
        assert counts(lab) == before
        break
    await stream.cancel()


async def test_the_export_holds_each_thing_that_was_made_and_no_credentials(lab: Lab, tmp_path: Path) -> None:
    path = lab.my_data.export(tmp_path / "mine.zip")
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        assert {
            "threads.jsonl",
            "thread_items.jsonl",
            "runs.jsonl",
            "traces.jsonl",
            "comparison_cells.jsonl",
            "scores.jsonl",
            "agents.jsonl",
        } <= names
        assert "mcp_servers.jsonl" not in names
        said = [json.loads(line) for line in archive.read("thread_items.jsonl").splitlines()]
        assert {item["data"]["text"].partition(" ")[2] or item["data"]["text"] for item in said} >= {"zebra"}
        [file] = [name for name in names if name.startswith("files/")]
        assert archive.read(file) == b"zebra"
        assert b"zebra" in archive.read("traces.jsonl")
        assert lab._root.store.user_id.encode() not in b"".join(archive.read(name) for name in names)
    assert [file.name for file in tmp_path.iterdir() if "draft" in file.name or "traces" in file.name] == []


@pytest.mark.parametrize("everything", [False, True])
def test_no_word_of_deleted_traces_is_left_in_the_index_of_words(tmp_path: Path, everything: bool) -> None:
    with Lab(tmp_path / "lab.duckdb") as lab:
        recorder = Recorder(lab.store.db)
        recorder.weather_run(question="Xylophone in Berkeley?")
        recorder.writer.close()
        index = SearchIndex(tmp_path / "lab.duckdb")
        deadline = time.monotonic() + 20
        while not index.find(LOCAL_USER, [Word("xylophone")], 1).span_numbers:
            assert time.monotonic() < deadline
            lab.store.traces.list(search="xylophone")
            time.sleep(0.05)
        if everything:
            lab.my_data.delete_everything()
        else:
            lab.my_data.delete("traces")
        assert not any(b"ylophone" in file.read_bytes() for file in tmp_path.glob("lab.duckdb.search*"))
