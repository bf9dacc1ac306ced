-- Side-by-side evaluation. One row a comparison, a case, an answer (cell), a score, a vote; finished answers to use again in answer_cache.
-- Cells and scores are appended as they come and never changed; a failed cell that is tried again is deleted first.

create table core.comparison_runs (
    id varchar not null,
    user_id varchar not null,
    name varchar not null,
    status varchar not null,
    dataset varchar not null,
    dataset_version varchar not null,
    candidates json not null,
    scorers json not null,
    epochs bigint not null,
    n_cases bigint not null,
    settings json not null,
    error varchar,
    process_id varchar,
    created_at timestamp not null,
    ended_at timestamp,
    primary key (user_id, id)
);

create table core.comparison_cases (
    user_id varchar not null,
    comparison_id varchar not null,
    case_id varchar not null,
    position bigint not null,
    input varchar not null,
    messages json not null,
    expected json,
    vars json not null,
    assertions json not null,
    metadata json not null
);

create table core.comparison_cells (
    user_id varchar not null,
    comparison_id varchar not null,
    case_id varchar not null,
    candidate varchar not null,
    epoch bigint not null,
    status varchar not null,
    output varchar,
    error_type varchar,
    error varchar,
    latency_ms double,
    queue_ms double,
    rate_limit_ms double,
    ttft_ms double,
    input_tokens bigint,
    output_tokens bigint,
    cost_usd double,
    cached boolean not null,
    attempts bigint not null,
    trace_id varchar,
    run_id varchar,
    steps json not null,
    ended_at timestamp not null
);

create table core.comparison_scores (
    user_id varchar not null,
    comparison_id varchar not null,
    case_id varchar not null,
    candidate varchar not null,
    epoch bigint not null,
    scorer varchar not null,
    value double,
    weight double not null,
    label varchar,
    note varchar,
    source varchar not null
);

-- The key is a hash of all that can change an answer, the epoch included. The cell is JSON.
create table core.answer_cache (
    user_id varchar not null,
    key varchar not null,
    cell json not null,
    created_at timestamp not null
);

create table core.votes (
    id varchar not null,
    user_id varchar not null,
    comparison_id varchar not null,
    case_id varchar not null,
    epoch bigint not null,
    left_candidate varchar not null,
    right_candidate varchar not null,
    outcome varchar not null,
    length double not null,
    source varchar not null,
    created_at timestamp not null,
    primary key (user_id, id)
);

create view main.comparisons as
select c.comparison_id, c.case_id, c.candidate, c.epoch, c.output, s.scorer, s.value, c.latency_ms, c.ttft_ms,
       c.input_tokens, c.output_tokens, c.cost_usd, c.trace_id, c.error
from core.comparison_cells c
left join core.comparison_scores s
    on s.user_id = c.user_id and s.comparison_id = c.comparison_id and s.case_id = c.case_id
    and s.candidate = c.candidate and s.epoch = c.epoch
where c.user_id = getvariable('tl_user');
