"""SQL typed by a user: one query over the documented views, that user's rows, and nothing else."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from timestep_lab.model.errors import BusyError, QueryError
from timestep_lab.model.records import RunRecord, ScoreRecord, ThreadItem, ThreadRecord
from timestep_lab.store.base import Database, Statement
from timestep_lab.store.duckdb.query_process import needs_process
from timestep_lab.store.memory import FAIR_S, LIMITED_AT_ONCE, RELEASE_AFTER_S, growing_at_most, own_memory
from timestep_lab.store.quota import MB, GuestLimits
from timestep_lab.store.store import Store, open_database

GUEST = GuestLimits().query_megabytes * MB
ALICE, BOB = "alice", "bob"
SECRET = "bobs secret"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """Rows of two users under every view that these tests read. Nothing here writes to it: that is the point."""
    database = open_database(tmp_path_factory.mktemp("fence") / "lab.duckdb")
    for user, text in ((ALICE, "1"), (BOB, SECRET)):
        store = Store(database, user)
        store.threads.insert(ThreadRecord(id="t", user_id=user))
        message = ThreadItem(id="m", thread_id="t", user_id=user, type="user_message", data={"text": text})
        store.threads.append_items("t", [message])
        store.scores.insert(ScoreRecord(id="s", user_id=user, target="trace", target_id="x", name="n", note=text))
        store.runs.insert(
            RunRecord(
                id="r", user_id=user, thread_id="t", trace_id="x", agent_id=None, agent="A", input=text, output=text
            )
        )
        columns = ("user_id", "trace_id", "workflow", "started_at", "n_spans", "n_open", "n_errors", "n_turns",
                   "n_generations", "n_unpriced", "root_error", "interrupted")  # fmt: skip
        row: tuple[Any, ...] = (user, "x", text, datetime(2026, 1, 1), 1, 0, 0, 0, 0, 0, False, False)
        database.append(user, {"trace_deltas": (columns, [row])})
    yield database
    database.close()


def select(lab: Database, sql: str, *params: Any) -> list[tuple[Any, ...]]:
    return lab.select(ALICE, sql, params).rows


# -- what a query may do


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        ("select text from messages", [("1",)]),
        ("from messages select count(*)", [(1,)]),
        ("select note from main.scores;", [("1",)]),
        ("SELECT m.text FROM Messages m WHERE m.thread_id = 't' -- a comment", [("1",)]),
        ("with a as (select text from messages), b as (from a) select * from b", [("1",)]),
        ("with recursive n(i) as (select 1 union all select i + 1 from n where i < 3) select max(i) from n", [(3,)]),
        ("select x from unnest([3, 1, 2]) u(x) order by x desc limit 1", [(3,)]),
        ("select count(*) from range(5) union all select 7 from generate_series(1, 1)", [(5,), (7,)]),
        ("select text, row_number() over (order by created_at) from messages", [("1", 1)]),
        ("select quantile_cont(i, 0.5), string_agg(i, ',' order by i) from range(3) r(i)", [(1.0, "0,1,2")]),
        ("select list_transform([1, 2], lambda x: x + 1), {'a': 1}, map {'k': 2}['k']", [([2, 3], {"a": 1}, 2)]),
        ("select '{\"a\": [1]}'::json ->> '$.a[0]', value from json_each('[7]')", [("1", "7")]),
        ("select case when started_at < now() then 'past' end from traces", [("past",)]),
        ("select * from (select 'a' as k, 1 as v) pivot (sum(v) for k in ('a', 'b'))", [(1, None)]),
        ("select t.text from messages t join messages u using (thread_id) where exists (from scores)", [("1",)]),
        ("select coalesce(null, 1), ifnull(null, 2), nullif(3, 3), try_cast('x' as int), 7 // 2, 'a' || 'b'",
         [(1, 2, None, None, 3, "ab")]),
        ("summarize select 1 as n", None),
    ],
)  # fmt: skip
def test_a_query_may_read_the_views_and_compute(lab: Database, sql: str, rows: list[tuple[Any, ...]] | None) -> None:
    found = select(lab, sql)
    assert found == rows if rows is not None else found


def test_parameters_go_in_as_values(lab: Database) -> None:
    assert select(lab, "select $1, $2 + 1, count(*) from messages where text = $1", "' or 1=1 --", 2) == [
        ("' or 1=1 --", 3, 0)
    ]


def test_show_tables_lists_the_views_and_describe_their_columns(lab: Database) -> None:
    views = [name for (name,) in select(lab, "show tables")]
    assert {"traces", "spans", "generations", "tool_calls", "handoffs", "messages", "usage", "scores"} <= set(views)
    assert "agents" not in views
    assert [row[0] for row in select(lab, "describe handoffs")] == ["trace_id", "from_agent", "to_agent", "started_at"]


def test_moments_with_a_zone_come_as_utc(lab: Database) -> None:
    sql = "select timestamptz '2026-01-01 12:00:00+02', [timestamptz '2026-01-01 12:00:00+02'], 1 as n -- end"
    result = lab.select(ALICE, sql)
    assert result.rows == [(datetime(2026, 1, 1, 10), "['2026-01-01 10:00:00+00']", 1)]
    assert result.columns[2] == "n"


def test_a_limit_cuts_and_says_so(lab: Database) -> None:
    cut = lab.select(ALICE, "select * from range(1000000)", limit=3)
    assert (cut.rows, cut.truncated) == ([(0,), (1,), (2,)], True)
    whole = lab.select(ALICE, "select * from range(3)", limit=3)
    assert (len(whole.rows), whole.truncated) == (3, False)


def test_a_query_that_takes_too_long_is_stopped_and_the_lab_goes_on(lab: Database) -> None:
    began = time.monotonic()
    with pytest.raises(QueryError, match=r"exceeded its time limit of 0.2 s"):
        lab.select(ALICE, "select sum(a.range * b.range) from range(1000000) a, range(1000000) b", timeout_s=0.2)
    assert time.monotonic() - began < 5
    assert select(lab, "select text from messages") == [("1",)]


# -- what it may not


@pytest.mark.parametrize(
    "sql",
    [
        # tables under the views, and what the engine tells about itself
        "select * from core.agents", "select * from agents", "select * from lab.core.agents", "describe core.agents",
        "select * from duckdb_tables", "select * from duckdb_tables()", "from duckdb_settings()", "show all tables",
        "show databases", "select * from information_schema.tables", "select * from pg_catalog.pg_class", "from sqlite_master",
        "describe select * from core.agents", "summarize core.agents", "select * from pragma_table_info('core.agents')",
        "select (select id from core.agents limit 1)", "select 1 where exists (from core.agents)", "select core.agents.id from core.agents",
        # a `with` query lends its name to nothing but what comes after it
        "with duckdb_views as (from duckdb_views) from duckdb_views",
        "select * from duckdb_views, (with duckdb_views as (select 1) from duckdb_views)",
        "select * from (with duckdb_views as (select 1) from duckdb_views), duckdb_views",
        "with a as (from core_b), core_b as (select 1) from a", "with a as (select 1) select * from core.a",
        # SQL within SQL
        "select * from query('from core.agents')", "select * from query_table('agents')", "from histogram('core.agents', 'id')",
        "select json_serialize_plan('from core.agents')", "select * from json_execute_serialized_sql('{}')",
        "select * from seq_scan('agents')",
        # whose rows
        "select getvariable('tl_user')", "select 'tl_user'.getvariable()", "select system.main.getvariable('tl_user')",
        "select list_transform([1], lambda x: getvariable('tl_user'))", "set variable tl_user = 'bob'", "reset variable tl_user",
        "select sum(1) filter (where getvariable('tl_user') = 'x')", "select 1 order by getvariable('tl_user')",
        # settings, files, network, other databases
        "select current_setting('threads')", "select getenv('HOME')", "set memory_limit = '1TB'", "pragma database_list",
        "from '/etc/passwd'", "from read_csv('/etc/passwd')", "from read_text('/etc/passwd')", "from glob('/*')",
        "from read_parquet('https://example.com/x')", "copy messages to '/tmp/x'", "copy (select 1) to '/tmp/x'", "attach '/tmp/x.db'",
        "export database '/tmp/x'", "install fts", "load fts", "call pragma_version()", "detach lab", "use core",
        # writing, and more than one query
        "insert into messages values (1)", "with x as (insert into core.users values ('a','b','c',now()) returning *) from x",
        "update core.users set id = 'x'", "delete from core.users", "create table x (a int)", "create view v as select 1",
        "drop view messages", "select 1; select 2", "select 1; drop view messages", "begin", "commit", "checkpoint", "vacuum",
        "prepare p as select 1", "explain analyze select 1",
        # functions with effects
        "select nextval('core.span_numbers')", "select write_log('x')", "select sleep_ms(1)", "select pg_sleep(1)", "select setseed(0.5)",
        # no query at all
        "", ";", "-- nothing", "selec 1", "select", "select 1 from", "\x00", "(" * 20_000 + "1" + ")" * 20_000,
        "select " + "1 + " * 30_000 + "1", "select '" + "x" * 200_000 + "'",
    ],
)  # fmt: skip
def test_a_query_may_not(lab: Database, sql: str) -> None:
    with pytest.raises(QueryError):
        lab.select(ALICE, sql)


@pytest.mark.parametrize(
    "sql",
    [
        "select count(*) from messages where cast(text as int) > 0",
        "select cast(text as int) from messages",
        "select 1 from messages where cast(case when text like 'bobs%' then 'x' else '1' end as int) = 1",
        "select max(cast(note as int)) from scores where name = 'n'",
        "select count(*) from messages a join messages b on cast(a.text as int) = cast(b.text as int)",
        "select cast(output as int) from traces where cast(input as int) > 0",
        "select cast(workflow as int) from traces where cast(output as int) > 0",
        "select cast(output as int) from traces join messages using (thread_id) where cast(text as int) = 1",
    ],
)
def test_not_even_an_error_tells_of_anothers_rows(lab: Database, sql: str) -> None:
    assert select(lab, sql) == [(1,)]
    with pytest.raises(QueryError, match="Could not convert"):  # While he, whose rows they are, gets it.
        lab.select(BOB, sql)


def test_every_view_shows_the_rows_of_its_user_alone(lab: Database) -> None:
    for (view,) in select(lab, "show tables"):
        hers = repr(lab.select(ALICE, f"select * from {view}").rows)
        assert BOB not in hers
        assert lab.select("nobody", f"select * from {view}").rows == []


# -- how much memory and time it may need

BIG = "2000000000"
ROWS = "(select 'abc' || range as s, range as i from range(5000)) t"
ALLOCATING = [
    # lists and text as long as an argument says
    *(call.replace("N", BIG) for call in (
        "len(range(N))", "len(range(0, N))", "len(range(0, -N, -1))", "len(range(1, N, 2))", "len(generate_series(N))",
        "len(generate_series(1, N))", "len(range(2e9))", "len(range(N::bigint))", "unnest(range(N))", "unnest(generate_series(1, N))",
        "length(repeat('a', N))", "len(repeat([1], N))", "length(lpad('a', N, 'b'))", "length(rpad('a', N, 'b'))",
        "len(list_resize([1], N))", "len(array_resize([1], N, 5))", "length(bitstring('1', N))", "length(printf('%Nd', 1))",
        "length(format('{:N}', 1))", "length(printf('%*d', N, 1))", "length(format('{:{}}', 1, N))", "len(equi_width_bins(0, N, N, true))",
        "length('x'.repeat(N))", "length(repeat('a', 1_000_000_000))", "length(repeat(repeat('a', 9999), 9999))",
        "length(repeat(repeat(repeat('abcdefgh', 9000), 9000), 9000))", "len(list_transform(range(9000), lambda x: range(9000)))",
        "len(flatten(list_transform(range(9000), lambda x: range(9000))))", "length(replace(repeat('a', 9000), 'a', repeat('b', 9000)))",
        "length(regexp_replace(repeat('a', 9000), 'a', repeat('b', 9000), 'g'))", "length(array_to_string(range(9000), repeat('b', 9000)))",
        "length(translate(repeat('a', N), 'a', 'b'))", "length(strftime(timestamp '2020-01-01', repeat('%c', N)))",
        "len(list_zip(range(N), range(N)))", "len(list_concat(range(N), range(N)))", "len(string_split(repeat('a,', N), ','))",
        "len(regexp_extract_all(repeat('a', N), 'a'))", "length(hex(repeat('a', N)))", "length(base64(repeat('a', N)::blob))",
        "length(url_encode(repeat('%', N)))", "length(to_json(range(N)))", "length(json_array(range(N)))", "length(repeat('1', N)::bignum::varchar)",
        "length(list_reduce(range(40), lambda a, b: a || a, 'a'))", "len(reduce([[1]], lambda a, b: a || a))", "len(array_reduce([[1]], lambda a, b: a || b))",
        "damerau_levenshtein(repeat('a', 9), 'b')", "len(generate_series(timestamp '0001-01-01', timestamp '9999-01-01', interval 1 second))",
        "len(range(date '0001-01-01', date '9999-01-01', interval 1 minute))", "cast(null as integer[N])", "cast(null as integer[9000][9000])",
        "from_json('[]', '[\"integer[100000]\"]')", "json_transform('[]', '\"integer[100000][1000]\"')",
        "concat_ws(repeat('b', 9000), " + ", ".join(["'a'"] * 3000) + ")", "lpad('a', 10 * 1000000000, 'b')", "lpad('a', (select 2000000000), 'b')",
    )),
    # the same once a row, and states of aggregates
    *("length(repeat(s, i * 100000))", "len(range(i + 30000))", "reservoir_quantile(i, 0.5, 1000000000)", "max(i, 900000)", "min(i, 900000)",
      "arg_max(s, i, 900000)", "approx_top_k(i, 900000)", "bitstring_agg(i, 0, 8000000000)", "list(repeat(s, 200000))", "string_agg(repeat(s, 200000))",
      "string_agg(s, repeat('b', 1000000))", "histogram(repeat(s, 200000))"),
    ", ".join(["t.*"] * 15000),
]  # fmt: skip
GROWING = [
    "with recursive r as (select 'aaaaaaaa' as s, 0 as n union all select s || s, n + 1 from r where n < 32) select max(length(s)) from r",
    f"with a0 as (select 'a' || i as s from {ROWS}), "
    + ", ".join(f"a{n} as (select s || s as s from a{n - 1})" for n in range(1, 30))
    + " select max(length(s)) from a29",
    "select list(range) from range(1000000000)",
    "select string_agg(range::varchar, ',') from range(1000000000)",
    "select *, *, *, *, *, * from (" * 8 + "select * from traces" + ")" * 8,
    "select repeat(i::varchar, 1000) from range(100000000) r(i)",
    # one call, one row, and what becomes of rows here
    "select length(replace(s, 'a', repeat('b', 9999))) from (select repeat(string_agg('aaaaaaaaaa', ''), 100) s from range(500))",
    "select list_transform(range(9000), lambda x: s) from (select string_agg('aaaaaaaaaa', '') s from range(100000))",
    "select s from range(9000), (select string_agg('aaaaaaaaaa', '') s from range(100000))",
]
"""What no size in the text tells beforehand."""


def test_no_function_takes_more_memory_than_a_query_may_have(lab: Database) -> None:
    assert len(ALLOCATING) >= 60
    before = own_memory()
    for call in ALLOCATING:
        began = time.monotonic()
        with pytest.raises(
            QueryError, match=r"too large|must be a literal number|may not call|constant|fixed-length|too many columns"
        ):
            lab.select(ALICE, f"select {call} from {ROWS}", limit=10)
        assert time.monotonic() - began < 5, call
    assert own_memory() - before < 200 * 2**20


@pytest.mark.parametrize(("size", "most_mb"), [(None, 2500), (GUEST, 400)])
def test_a_query_that_grows_is_ended_before_the_machine_is_out_of_memory_and_leaves_little_behind(
    tmp_path: Path, size: int | None, most_mb: float
) -> None:
    """In a process of its own, which imports the lab before anything else imports duckdb, as `timestep-lab serve` does."""
    command = [sys.executable, "-m", __name__, str(tmp_path / "lab.duckdb"), json.dumps(size)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert ran.returncode == 0, ran.stderr
    most, left = json.loads(ran.stdout)
    assert most < most_mb * 2**20
    assert left < 200 * 2**20


def test_what_the_database_keeps_of_its_tables_counts_as_nothing_that_a_query_takes(tmp_path: Path) -> None:
    """A lab that is larger than a query may grow can be read in one."""
    text = "select string_agg(md5(random()::varchar), '') as note from range(100), range(40000) as n(id) group by n.id"
    insert = f"insert into core.score_rows by name select '{ALICE}' as user_id, note, uuid()::varchar as id, 'trace' as target, 'x' as target_id, 'n' as name, 'user' as source, now()::timestamp as created_at from ({text})"
    with contextlib.closing(open_database(tmp_path / "lab.duckdb")) as database:
        database.write(ALICE, [Statement(insert)])
    with contextlib.closing(open_database(tmp_path / "lab.duckdb")) as database, growing_at_most(64 * MB):
        assert select(database, "select count(*), max(length(note)) from scores") == [(40_000, 3_200)]


def grow(path: Path, size: int | None) -> None:
    """Prints by how many bytes this process grew during the worst query, and how many it has more afterwards."""
    with contextlib.closing(open_database(path)) as lab, growing_at_most(size):
        assert select(lab, "select count(*) from traces") == [(0,)]
        before, most, over = own_memory(), [0], threading.Event()

        def look() -> None:
            while not over.wait(0.01):
                most.append(own_memory())

        looking = threading.Thread(target=look, daemon=True)
        looking.start()
        for sql in GROWING:
            with pytest.raises(QueryError, match=r"memory limit|time limit|too many columns"):
                lab.select(ALICE, sql, limit=1_000_000, timeout_s=20)
        over.set()
        looking.join()
        assert select(lab, "select count(*) from traces") == [(0,)]
        time.sleep(2 * RELEASE_AFTER_S)
        print(json.dumps([max(most) - before, own_memory() - before]))


# -- queries of guests that may compute for long


@pytest.mark.parametrize(
    "sql",
    [
        "select regexp_replace(s, 'a.*z|a', 'b', 'g') from (select string_agg('a', '') s from range(300000))",
        "select parse_path(s) from (select string_agg('1/', '') s from range(2000000))",
        "select s like '%' || t || '%b' from (select repeat(string_agg('a', ''), 20) s, string_agg('a', '') || '_b' t from range(500000))",
        "select levenshtein(s, s) from (select string_agg('ab', '') s from range(500000))",
    ],
)
def test_what_nothing_interrupts_ends_in_time_for_a_guest(lab: Database, sql: str) -> None:
    began = time.monotonic()
    with growing_at_most(GUEST), pytest.raises(QueryError, match=r"time limit|memory limit"):
        lab.select(ALICE, sql, timeout_s=1)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    "sql",
    [
        "select jaccard(text, '12'), m.* from messages m",
        "select list_transform([1, 2], lambda x: x + length(m.text)), created_at from messages m",
        "select levenshtein(workflow, '1'), to_json(t), t from traces t natural join (select trace_id from traces)",
        "with a as (select note, created_at > now() as b from scores) select a, jaccard(note, '1') from a",
        "select jaccard('a', 'ab'), count(*), sum(n_spans), max(started_at), min(started_at::date) from main.Traces",
        "select map_from_entries([(text, role)]), json_keys('{\"a\": 1}') from messages where text ilike '%1%' or text ilike '_%_%_'",
        "summarize select jaccard(text, '1') as j from messages",
    ],
)  # fmt: skip
def test_a_guest_reads_the_same_rows_when_a_query_runs_in_a_process_of_its_own(lab: Database, sql: str) -> None:
    with growing_at_most(GUEST):
        apart = lab.select(ALICE, sql)
    here = lab.select(ALICE, sql)
    assert (apart.columns, apart.rows) == (here.columns, here.rows)
    assert BOB not in str(apart.rows)


@pytest.mark.parametrize(
    ("sql", "apart"),
    [
        ("select count(*), avg(cost), quantile_cont(duration_ms, 0.9) from traces where model like 'gpt%' group by day(started_at)", False),
        ("select *, row_number() over (order by started_at) from traces where workflow like '%a%b%' order by cost limit 3", False),
        ("select * from traces where workflow ilike '%a%' and regexp_matches(workflow, '^a.*b$') and started_at::date > $1", False),
        ("select max(length(text)) from messages m join traces t using (trace_id) where t.status = 'error'", False),
        ("select regexp_replace(workflow, 'a', 'b', 'g') from traces", True),
        ("select upper(workflow) from traces", True),
        ("select t::varchar from traces t", True),
        ("select * from traces where workflow ilike '%a%b%'", True),
        ("select * from traces where workflow like '%a_b%a%'", True),
        ("select * from traces where workflow like model", True),
        ("select [x for x in [1, 2] if x > 1]", True),
        ("select string_agg(text, '') from messages", True),
    ],
)  # fmt: skip
def test_only_what_may_compute_for_long_or_make_much_needs_a_process(lab: Database, sql: str, apart: bool) -> None:
    import duckdb

    [[parsed]] = duckdb.sql(
        "select json_serialize_sql($1::varchar, skip_null := true, skip_empty := true, skip_default := true)",
        params=[sql],
    ).fetchall()
    assert needs_process(json.loads(parsed)["statements"]) is apart


def test_a_query_of_a_guest_that_runs_long_gives_way_to_others(lab: Database) -> None:
    endless, says = "select sum(a.range * b.range) from range(1000000) a, range(1000000) b", SimpleQueue[str]()

    def run() -> None:
        with growing_at_most(GUEST), pytest.raises(QueryError) as caught:
            lab.select(BOB, endless, timeout_s=FAIR_S + 2)
        says.put(str(caught.value))

    threads = [threading.Thread(target=run) for _ in range(LIMITED_AT_ONCE)]
    for thread in threads:
        thread.start()
    time.sleep(FAIR_S / 2)
    with growing_at_most(GUEST), pytest.raises(BusyError, match="Too many queries of guests"):
        select(lab, "select 1")
    assert select(lab, "select 1") == [(1,)]  # The lab's own user needs no place.
    time.sleep(FAIR_S / 2 + 0.1)
    with growing_at_most(GUEST):
        assert select(lab, "select 1") == [(1,)]
    assert says.get(timeout=5).startswith("Other guests' queries were waiting")
    for thread in threads:
        thread.join()
    assert all("time limit" in says.get() for _ in threads[1:])


def test_long_parameters_are_refused(lab: Database) -> None:
    assert select(lab, "select length($1)", "a" * 2**20) == [(2**20,)]
    with pytest.raises(QueryError, match=r"parameters are together longer than 1,048,576 characters"):
        select(lab, "select length($1), $2", "a" * 2**20, "b")


def test_ordinary_sizes_are_taken(lab: Database) -> None:
    assert select(lab, "select lpad('a', 20, ' ') || rpad('b', 30, ' '), repeat('-', 40), len(range(10)), len(range(1000, 0, -5))") == [
        (" " * 19 + "a" + "b" + " " * 29, "-" * 40, 10, 200)
    ]  # fmt: skip
    assert select(lab, "select printf('%d %5.2f', 1, 2.5), format('{:>10}', 'b'), [1, 2]::int[2], max(i, 3) from range(9) r(i)") == [
        ("1  2.50", " " * 9 + "b", (1, 2), [8, 7, 6])
    ]  # fmt: skip
    assert select(lab, "select count(*) from range(3000000), range(1, 2) union all select count(*) from traces t, range(t.n_spans)") == [
        (3_000_000,), (1,),
    ]  # fmt: skip


# -- what it says


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("select *\nfrom tracs", r"no view 'tracs' \(line 2, column 6\)\. Did you mean traces\?"),
        ("select modle from generations", r'"modle" not found .*\(line 1, column 8\)\. Did you mean model'),
        ("select 'ü', modle from generations", r"\(line 1, column 13\)"),
        ("select medain(1)", r"'medain' is not allowed in queries \(line 1, column 8\)\. Did you mean median\?"),
        ("selec 1", r"Syntax error at or near \"selec\" \(line 1, column 1\)"),
        ("select 'x'::int from messages", r"Could not convert string 'x' to INT32 \(line 1, column 11\)"),
        ("select $1", r"Values were not provided for the following parameters: 1"),
        ("delete from traces", r"Only a single SELECT is allowed"),
        ("select 1; select 2", r"2 queries where one is expected"),
        (" ", r"There is no query"),
    ],
)
def test_an_error_says_where_it_is_and_what_was_meant(lab: Database, sql: str, says: str) -> None:
    with pytest.raises(QueryError, match=says):
        lab.select(ALICE, sql)


def test_a_query_through_a_client_meets_the_same_fence(tmp_path: Path, owner_process: Any) -> None:
    owner_process.tell("open", tmp_path / "lab.duckdb")
    client = open_database(tmp_path / "lab.duckdb")
    with pytest.raises(QueryError, match="Did you mean traces") as caught:
        client.select(ALICE, "select * from tracs")
    assert caught.value.exit_code == 2
    with pytest.raises(QueryError, match="exceeded its time limit"):
        client.select(ALICE, "select sum(a.range * b.range) from range(1000000) a, range(1000000) b", timeout_s=0.1)
    assert client.select(ALICE, "select {'a': [1, null]}, 'ü'", limit=1).rows == [({"a": [1, None]}, "ü")]
    client.close()
    owner_process.tell("close", tmp_path / "lab.duckdb")


if __name__ == "__main__":
    grow(Path(sys.argv[1]), json.loads(sys.argv[2]))
