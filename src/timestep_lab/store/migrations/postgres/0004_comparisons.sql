-- Side-by-side evaluation. One row a comparison, a case, an answer (cell), a score, a vote; finished answers to use again in answer_cache.
-- Cells and scores are appended as they come and never changed; a failed cell that is tried again is deleted first.

create table core.comparison_runs (
    id text not null,
    user_id text not null,
    name text not null,
    status text not null,
    dataset text not null,
    dataset_version text not null,
    candidates json not null,
    scorers json not null,
    epochs bigint not null,
    n_cases bigint not null,
    settings json not null,
    error text,
    process_id text,
    created_at timestamp not null,
    ended_at timestamp,
    primary key (user_id, id)
);

create table core.comparison_cases (
    user_id text not null,
    comparison_id text not null,
    case_id text not null,
    position bigint not null,
    input text not null,
    messages json not null,
    expected json,
    vars json not null,
    assertions json not null,
    metadata json not null
);

create table core.comparison_cells (
    user_id text not null,
    comparison_id text not null,
    case_id text not null,
    candidate text not null,
    epoch bigint not null,
    status text not null,
    output text,
    error_type text,
    error text,
    latency_ms double precision,
    queue_ms double precision,
    rate_limit_ms double precision,
    ttft_ms double precision,
    input_tokens bigint,
    output_tokens bigint,
    cost_usd double precision,
    cached boolean not null,
    attempts bigint not null,
    trace_id text,
    run_id text,
    steps json not null,
    ended_at timestamp not null
);

create table core.comparison_scores (
    user_id text not null,
    comparison_id text not null,
    case_id text not null,
    candidate text not null,
    epoch bigint not null,
    scorer text not null,
    value double precision,
    weight double precision not null,
    label text,
    note text,
    source text not null
);

-- The key is a hash of all that can change an answer, the epoch included. The cell is JSON.
create table core.answer_cache (
    user_id text not null,
    key text not null,
    cell json not null,
    created_at timestamp not null
);

create table core.votes (
    id text not null,
    user_id text not null,
    comparison_id text not null,
    case_id text not null,
    epoch bigint not null,
    left_candidate text not null,
    right_candidate text not null,
    outcome text not null,
    length double precision not null,
    source text not null,
    created_at timestamp not null,
    primary key (user_id, id)
);

create index on core.comparison_cases (user_id, comparison_id);
create index on core.comparison_cells (user_id, comparison_id);
create index on core.comparison_scores (user_id, comparison_id);
create index on core.answer_cache (user_id, key);
create index on core.votes (user_id, comparison_id);

create view main.comparisons as
select c.comparison_id, c.case_id, c.candidate, c.epoch, c.output, s.scorer, s.value, c.latency_ms, c.ttft_ms,
       c.input_tokens, c.output_tokens, c.cost_usd, c.trace_id, c.error
from core.comparison_cells c
left join core.comparison_scores s
    on s.user_id = c.user_id and s.comparison_id = c.comparison_id and s.case_id = c.case_id
    and s.candidate = c.candidate and s.epoch = c.epoch;
