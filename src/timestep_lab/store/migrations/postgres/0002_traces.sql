-- Traces: the tables and views of the DuckDB lab, shaped for a row store. Row-level security follows by store/postgres/security.sql.
--
-- Payloads beyond two kilobytes leave the row by themselves (TOAST, compressed), so one table serves both narrow and wide reads.
-- spans_raw has a partition a day; no key spans partitions, so what must be unique is kept so by who writes (see store/trace_import.py).

create schema if not exists main;

-- A trace as it began. How it went is in trace_rollups.
create table core.traces_raw (
    user_id text not null,
    trace_id text not null,
    workflow text not null,
    thread_id text,
    started_at timestamp not null,
    metadata text not null,             -- JSON object
    parent_trace_id text,               -- a fork: the trace it branched from, and where
    fork_span_id text
);
create index on core.traces_raw (user_id, trace_id);

-- Finished spans, one row each.
create table core.spans_raw (
    user_id text not null,
    trace_id text not null,
    span_id text not null,
    parent_id text,
    kind text not null,
    name text not null,
    agent text,
    status text not null,
    error text,
    model text,
    provider text,
    started_at timestamp not null,
    ended_at timestamp,
    input_tokens bigint,
    output_tokens bigint,
    cached_tokens bigint,
    reasoning_tokens bigint,
    cost_usd double precision,
    queue_ms double precision,
    rate_limit_ms double precision,
    ttft_ms double precision,
    stop_reason text,
    server text,                        -- tools: the MCP server that offers it
    approval text,                      -- tools: not_needed, approved, rejected, pending
    to_agent text,                      -- handoffs
    io_json smallint not null,          -- bit 1: input is JSON text, bit 2: output is
    input_refs text,                    -- hashes into message_bodies, space between: the input is that list of messages
    attributes text,
    input text,
    output text
) partition by range (started_at);
create index on core.spans_raw (user_id, trace_id, started_at);
create index on core.spans_raw (user_id, kind, started_at desc);
create index on core.spans_raw using brin (started_at) with (pages_per_range = 32);

-- The words of a text: its runs of letters and digits, in lower case (what Postgres itself takes for words would keep `a/b` together).
-- 200,000 characters of each payload: a tsvector holds one megabyte. The index on them is built for each partition whose day is over
-- (store/postgres/sql/3_words.sql): kept up with every insert it would cost nine tenths of the speed of writing.
create function core.words_of(text) returns tsvector
language sql immutable parallel safe as $$
    select to_tsvector('pg_catalog.simple', regexp_replace($1, '[^[:alnum:]]+', ' ', 'g'))
$$;
create function core.span_words(name text, error text, input text, output text) returns tsvector
language sql immutable parallel safe as $$
    select core.words_of(concat_ws(' ', name, error, left(input, 200000), left(output, 200000)))
$$;

-- Spans that have begun and not ended. Rows, so that they outlive the process that opened them.
create table core.open_spans (
    user_id text not null,
    trace_id text not null,
    span_id text not null,
    parent_id text,
    kind text not null,
    name text not null,
    agent text,
    model text,
    provider text,
    started_at timestamp not null,
    server text,
    approval text,
    to_agent text,
    io_json smallint not null,
    attributes text,
    input text,
    process_id text                     -- of the `processes` row whose death closes the span as interrupted
);
create index on core.open_spans (user_id, trace_id);

-- Messages that long histories share, stored once; a generation lists their hashes (see all_spans).
-- Two processes may store the same body: readers take any.
create table core.message_bodies (
    user_id text not null,
    hash text not null,
    body text not null
);
create index on core.message_bodies (user_id, hash);

create function core.body_words(body text) returns tsvector
language sql immutable parallel safe as $$ select core.words_of(left(body, 200000)) $$;
create index on core.message_bodies using gin (core.body_words(body));

-- What each written batch adds to each trace. Nothing stays here: a trigger adds every row to its trace's roll-up.
create table core.trace_deltas (
    user_id text not null,
    trace_id text not null,
    workflow text,
    thread_id text,
    started_at timestamp,
    ended_at timestamp,
    n_spans bigint not null,
    n_open bigint not null,             -- begun less ended; a trace runs while the sum is above 0
    n_errors bigint not null,
    n_turns bigint not null,
    n_generations bigint not null,
    n_unpriced bigint not null,         -- generations that used tokens of unknown price
    input_tokens bigint,
    output_tokens bigint,
    cost_usd double precision,
    agents text,                        -- names in order of start, ' → ' between
    agents_at timestamp,
    model text,
    model_at timestamp,
    input text,
    input_key bigint,                   -- the least key wins: a root span's input, else the first generation's
    output text,
    output_key bigint,                  -- the greatest key wins: a root span's output, else the last generation's
    root_error boolean not null,
    interrupted boolean not null
);

create table core.trace_rollups (
    like core.trace_deltas,
    primary key (user_id, trace_id)
);
-- All that counting traces over time and by kind asks for, so that it reads no texts.
create index on core.trace_rollups (user_id, started_at desc nulls last, trace_id desc)
    include (workflow, agents, model, n_open, n_errors, root_error, interrupted);

-- 'A → B' and then 'B → C' is 'A → B → C'.
create function core.joined_path(path text, more text) returns text
language sql immutable parallel safe as $$
    select case
        when path is null then more
        when more is null then path
        when more = (string_to_array(path, ' → '))[cardinality(string_to_array(path, ' → '))] then path
        when starts_with(more, (string_to_array(path, ' → '))[cardinality(string_to_array(path, ' → '))] || ' → ')
            then path || ' → ' || substr(more, length((string_to_array(path, ' → '))[cardinality(string_to_array(path, ' → '))]) + 4)
        else path || ' → ' || more
    end
$$;

create function core.add_to_rollup() returns trigger
language plpgsql as $$
begin
    insert into core.trace_rollups as r select new.*
    on conflict (user_id, trace_id) do update set
        workflow = coalesce(r.workflow, excluded.workflow),
        thread_id = coalesce(r.thread_id, excluded.thread_id),
        started_at = least(r.started_at, excluded.started_at),
        ended_at = greatest(r.ended_at, excluded.ended_at),
        n_spans = r.n_spans + excluded.n_spans,
        n_open = r.n_open + excluded.n_open,
        n_errors = r.n_errors + excluded.n_errors,
        n_turns = r.n_turns + excluded.n_turns,
        n_generations = r.n_generations + excluded.n_generations,
        n_unpriced = r.n_unpriced + excluded.n_unpriced,
        input_tokens = coalesce(r.input_tokens + excluded.input_tokens, r.input_tokens, excluded.input_tokens),
        output_tokens = coalesce(r.output_tokens + excluded.output_tokens, r.output_tokens, excluded.output_tokens),
        cost_usd = coalesce(r.cost_usd + excluded.cost_usd, r.cost_usd, excluded.cost_usd),
        agents = case when excluded.agents_at < r.agents_at then core.joined_path(excluded.agents, r.agents)
                      else core.joined_path(r.agents, excluded.agents) end,
        agents_at = least(r.agents_at, excluded.agents_at),
        model = case when r.model_at is null or excluded.model_at >= r.model_at then excluded.model else r.model end,
        model_at = greatest(r.model_at, excluded.model_at),
        input = case when r.input_key is null or excluded.input_key < r.input_key then excluded.input else r.input end,
        input_key = least(r.input_key, excluded.input_key),
        output = case when r.output_key is null or excluded.output_key > r.output_key then excluded.output else r.output end,
        output_key = greatest(r.output_key, excluded.output_key),
        root_error = r.root_error or excluded.root_error,
        interrupted = r.interrupted or excluded.interrupted;
    return null;
end $$;

create trigger add_to_rollup before insert on core.trace_deltas for each row execute function core.add_to_rollup();

-- Every span, finished or open, in one shape. The views below read `all_spans`, which adds histories; a row store computes
-- that column only for rows whose input is asked for.
create view core.span_rows as
select user_id, trace_id, span_id, parent_id, kind, name, agent, status, error, model, provider, started_at, ended_at,
       round(date_part('epoch', ended_at - started_at) * 1000000) / 1000.0 as duration_ms,
       input_tokens, output_tokens, cached_tokens, reasoning_tokens, cost_usd,
       queue_ms, rate_limit_ms, ttft_ms, stop_reason, server, approval, to_agent, attributes, input, output
from core.spans_raw
union all
select user_id, trace_id, span_id, parent_id, kind, name, agent, 'pending', null, model, provider, started_at, null,
       null,
       null, null, null, null, null,
       null, null, null, null, server, approval, to_agent, attributes, input, null
from core.open_spans;

create view core.all_spans as
select user_id, trace_id, span_id, parent_id, kind, name, agent, status, error, model, provider, started_at, ended_at,
       round(date_part('epoch', ended_at - started_at) * 1000000) / 1000.0 as duration_ms,
       input_tokens, output_tokens, cached_tokens, reasoning_tokens, cost_usd,
       queue_ms, rate_limit_ms, ttft_ms, stop_reason, server, approval, to_agent, attributes,
       case when input_refs is null then input else (
           select '[' || string_agg(
               (select m.body from core.message_bodies m where m.user_id = s.user_id and m.hash = r.hash limit 1), ',' order by r.idx
           ) || ']'
           from unnest(string_to_array(s.input_refs, ' ')) with ordinality as r (hash, idx)
       ) end as input,
       output
from core.spans_raw s
union all
select user_id, trace_id, span_id, parent_id, kind, name, agent, 'pending', null, model, provider, started_at, null,
       null,
       null, null, null, null, null,
       null, null, null, null, server, approval, to_agent, attributes, input, null
from core.open_spans;

create view main.spans as
select trace_id, span_id, parent_id, kind, name, agent, status, error, model, provider, started_at, ended_at, duration_ms,
       input_tokens, output_tokens, cost_usd, cast(attributes as json) as attributes, input, output,
       cached_tokens, reasoning_tokens, queue_ms, rate_limit_ms, ttft_ms, stop_reason, server, approval, to_agent
from core.all_spans;

create view main.generations as
select trace_id, span_id, agent, provider, model, input_tokens, output_tokens, cached_tokens, reasoning_tokens, cost_usd,
       queue_ms, rate_limit_ms, ttft_ms, duration_ms, stop_reason, status, error, started_at, input, output
from core.all_spans
where kind = 'generation';

create view main.tool_calls as
select trace_id, span_id, agent, server, name as tool, input as arguments, output as result, status, error,
       coalesce(approval, 'not_needed') as approval, duration_ms, started_at
from core.all_spans
where kind = 'tool';

create view main.handoffs as
select trace_id, agent as from_agent, to_agent, started_at
from core.span_rows
where kind = 'handoff';

create view main.usage as
select cast(started_at as date) as day, provider, model, count(*) as calls,
       cast(sum(input_tokens) as bigint) as input_tokens, cast(sum(output_tokens) as bigint) as output_tokens,
       sum(cost_usd) as cost_usd
from core.span_rows
where kind = 'generation'
group by 1, 2, 3;

-- One row a trace. Its run, when it has one, knows best how it stands.
create view main.traces as
select d.trace_id, coalesce(d.thread_id, r.thread_id) as thread_id, d.user_id, coalesce(d.workflow, 'trace') as workflow,
       d.agents as agent_path, coalesce(d.model, r.model) as model,
       coalesce(r.status, case
           when d.interrupted then 'interrupted'
           when d.n_open > 0 then 'running'
           when d.root_error then 'failed'
           else 'completed' end) as status,
       d.started_at,
       case when d.n_open > 0 then null else d.ended_at end as ended_at,
       case when d.n_open > 0 then null
            else round(date_part('epoch', d.ended_at - d.started_at) * 1000000) / 1000.0 end as duration_ms,
       d.n_spans, d.n_errors, case when d.n_turns > 0 then d.n_turns else d.n_generations end as turns,
       d.input_tokens, d.output_tokens, case when d.n_unpriced = 0 then d.cost_usd end as cost_usd,
       coalesce(nullif(r.input, ''), d.input) as input, coalesce(r.output, d.output) as output
from core.trace_rollups d
left join core.runs r on r.user_id = d.user_id and r.trace_id = d.trace_id;

create view main.messages as
select thread_id, id as item_id, trace_id, case type when 'user_message' then 'user' else 'assistant' end as role,
       agent, data->>'text' as text, created_at
from core.thread_items
where type in ('user_message', 'assistant_message');

create view main.scores as
select target, target_id, name, value, label, note, source, created_at
from core.score_rows;

