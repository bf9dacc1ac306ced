-- Traces: append-only base tables in `core`, and the views that people query in `main`.
--
-- DuckDB is columnar, so payload columns beside the narrow ones cost nothing to a query that does not name them,
-- while a second payload table would cost a join of a million rows to one that does. Hence one table, payloads in zstd.
-- No secondary index and no update on the hot path: append-only files survive kill -9 without an index to repair.

create sequence core.span_numbers;

-- A trace as it began. How it went is in trace_deltas.
create table core.traces_raw (
    user_id varchar not null,
    trace_id varchar not null,
    workflow varchar not null,
    thread_id varchar,
    started_at timestamp not null,
    metadata varchar not null,          -- JSON object
    parent_trace_id varchar,            -- a fork: the trace it branched from, and where
    fork_span_id varchar
);

-- Finished spans, one row each, in order of arrival (span_no).
create table core.spans_raw (
    span_no bigint not null default nextval('core.span_numbers'),
    user_id varchar not null,
    trace_id varchar not null,
    span_id varchar not null,
    parent_id varchar,
    kind varchar not null,
    name varchar not null,
    agent varchar,
    status varchar not null,
    error varchar,
    model varchar,
    provider varchar,
    started_at timestamp not null,
    ended_at timestamp,
    input_tokens bigint,
    output_tokens bigint,
    cached_tokens bigint,
    reasoning_tokens bigint,
    cost_usd double,
    queue_ms double,
    rate_limit_ms double,
    ttft_ms double,
    stop_reason varchar,
    server varchar,                     -- tools: the MCP server that offers it
    approval varchar,                   -- tools: not_needed, approved, rejected, pending
    to_agent varchar,                   -- handoffs
    io_json utinyint not null,          -- bit 1: input is JSON text, bit 2: output is
    input_refs varchar,                 -- hashes into message_bodies, space between: the input is that list of messages
    attributes varchar using compression zstd,
    input varchar using compression zstd,
    output varchar using compression zstd
);

-- Spans that have begun and not ended. Rows, so that they outlive the process that opened them.
create table core.open_spans (
    user_id varchar not null,
    trace_id varchar not null,
    span_id varchar not null,
    parent_id varchar,
    kind varchar not null,
    name varchar not null,
    agent varchar,
    model varchar,
    provider varchar,
    started_at timestamp not null,
    server varchar,
    approval varchar,
    to_agent varchar,
    io_json utinyint not null,
    attributes varchar,
    input varchar,
    process_id varchar                  -- of the `processes` row whose death closes the span as interrupted
);

-- Messages that long histories share, stored once; a generation lists their hashes (see span_histories).
-- Two processes may store the same body: readers take any.
create table core.message_bodies (
    user_id varchar not null,
    hash varchar not null,
    body varchar not null using compression zstd
);

-- What each written batch added to each trace. Listings add these up instead of reading spans.
create table core.trace_deltas (
    user_id varchar not null,
    trace_id varchar not null,
    workflow varchar,
    thread_id varchar,
    started_at timestamp,
    ended_at timestamp,
    n_spans integer not null,
    n_open integer not null,            -- begun less ended; a trace runs while the sum is above 0
    n_errors integer not null,
    n_turns integer not null,
    n_generations integer not null,
    n_unpriced integer not null,        -- generations that used tokens of unknown price
    input_tokens bigint,
    output_tokens bigint,
    cost_usd double,
    agents varchar,                     -- names in order of start, ' → ' between
    agents_at timestamp,
    model varchar,
    model_at timestamp,
    input varchar,                      -- not in zstd: listings pick single rows out of many
    input_key bigint,                   -- the least key wins: a root span's input, else the first generation's
    output varchar,
    output_key bigint,                  -- the greatest key wins: a root span's output, else the last generation's
    root_error boolean not null,
    interrupted boolean not null
);

-- The exact input of generations whose messages are stored once. The grouping makes DuckDB drop the join when no one asks for input.
create view core.span_histories as
select r.user_id, r.trace_id, r.span_id, '[' || string_agg(m.body, ',' order by r.idx) || ']' as input
from (
    select user_id, trace_id, span_id, unnest(string_split(input_refs, ' ')) as hash,
           generate_subscripts(string_split(input_refs, ' '), 1) as idx
    from core.spans_raw
    where input_refs is not null
) r
join (select user_id, hash, any_value(body) as body from core.message_bodies group by user_id, hash) m
    on m.user_id = r.user_id and m.hash = r.hash
group by r.user_id, r.trace_id, r.span_id;

-- Every span of the current user, finished or open, in one shape. The views below read `all_spans`, which adds histories.
create view core.span_rows as
select user_id, trace_id, span_id, parent_id, kind, name, agent, status, error, model, provider, started_at, ended_at,
       epoch_us(ended_at - started_at) / 1000.0 as duration_ms,
       input_tokens, output_tokens, cached_tokens, reasoning_tokens, cost_usd,
       queue_ms, rate_limit_ms, ttft_ms, stop_reason, server, approval, to_agent, attributes, input, output
from core.spans_raw
where user_id = getvariable('tl_user')
union all
select user_id, trace_id, span_id, parent_id, kind, name, agent, 'pending', null, model, provider, started_at, null,
       null,
       null, null, null, null, null,
       null, null, null, null, server, approval, to_agent, attributes, input, null
from core.open_spans
where user_id = getvariable('tl_user');

create view core.all_spans as
select s.* replace (coalesce(s.input, h.input) as input)
from core.span_rows s
left join core.span_histories h on h.user_id = s.user_id and h.trace_id = s.trace_id and h.span_id = s.span_id;

create view main.spans as
select trace_id, span_id, parent_id, kind, name, agent, status, error, model, provider, started_at, ended_at, duration_ms,
       input_tokens, output_tokens, cost_usd, attributes::json as attributes, input, output,
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
from core.all_spans
where kind = 'handoff';

create view main.usage as
select cast(started_at as date) as day, provider, model, count(*) as calls,
       cast(sum(input_tokens) as bigint) as input_tokens, cast(sum(output_tokens) as bigint) as output_tokens,
       sum(cost_usd) as cost_usd
from core.all_spans
where kind = 'generation'
group by all;

-- One row a trace. Its run, when it has one, knows best how it stands. Only what was written of spans since `earliest` is added up:
-- whole for every trace that started since then.
create macro core.traces_since(earliest) as table
select d.trace_id, coalesce(d.thread_id, r.thread_id) as thread_id, d.user_id, d.workflow,
       array_to_string(list_filter(d.agents, lambda name, place: place = 1 or d.agents[place - 1] <> name), ' → ') as agent_path,
       coalesce(d.model, r.model) as model,
       coalesce(r.status, case
           when d.interrupted then 'interrupted'
           when d.n_open > 0 then 'running'
           when d.root_error then 'failed'
           else 'completed' end) as status,
       d.started_at,
       case when d.n_open > 0 then null else d.ended_at end as ended_at,
       case when d.n_open > 0 then null else epoch_us(d.ended_at - d.started_at) / 1000.0 end as duration_ms,
       d.n_spans, d.n_errors, d.turns, d.input_tokens, d.output_tokens, d.cost_usd,
       coalesce(nullif(r.input, ''), d.input) as input, coalesce(r.output, d.output) as output
from (
    select trace_id, any_value(user_id) as user_id,
           coalesce(any_value(workflow), 'trace') as workflow, any_value(thread_id) as thread_id,
           min(started_at) as started_at, max(ended_at) as ended_at,
           cast(sum(n_spans) as bigint) as n_spans, sum(n_open) as n_open, cast(sum(n_errors) as bigint) as n_errors,
           cast(case when sum(n_turns) > 0 then sum(n_turns) else sum(n_generations) end as bigint) as turns,
           cast(sum(input_tokens) as bigint) as input_tokens, cast(sum(output_tokens) as bigint) as output_tokens,
           case when sum(n_unpriced) = 0 then sum(cost_usd) end as cost_usd,
           string_split(string_agg(agents, ' → ' order by agents_at), ' → ') as agents,
           arg_max(model, model_at) as model,
           arg_min(input, input_key) as input, arg_max(output, output_key) as output,
           bool_or(root_error) as root_error, bool_or(interrupted) as interrupted
    from core.trace_deltas
    where user_id = getvariable('tl_user') and started_at >= earliest
    group by trace_id
) d
left join core.runs r on r.user_id = d.user_id and r.trace_id = d.trace_id;

create view main.traces as
select * from core.traces_since(timestamp '-infinity');

create view main.messages as
select thread_id, id as item_id, trace_id, case type when 'user_message' then 'user' else 'assistant' end as role,
       agent, data->>'$.text' as text, created_at
from core.thread_items
where user_id = getvariable('tl_user') and type in ('user_message', 'assistant_message');

create view main.scores as
select target, target_id, name, value, label, note, source, created_at
from core.score_rows
where user_id = getvariable('tl_user');
