-- Control tables: small, with keys. Base tables live in schema core; schema main holds the views that people may query.
-- No index but the keys, on purpose: DuckDB scans these in well under a millisecond.

create schema if not exists core;

create table core.users (
    id varchar primary key,
    kind varchar not null default 'anonymous',
    name varchar,
    created_at timestamp not null
);

create table core.agents (
    id varchar not null,
    user_id varchar not null,
    name varchar not null,
    instructions varchar not null,
    description varchar not null,
    model varchar,
    model_settings json not null,
    tool_ids json not null,
    handoff_ids json not null,
    approvals json not null,
    created_at timestamp not null,
    updated_at timestamp not null,
    primary key (user_id, id),
    unique (user_id, name)
);

create table core.mcp_servers (
    id varchar not null,
    user_id varchar not null,
    name varchar not null,
    command json not null,
    env json not null,
    url varchar,
    headers json not null,
    allowed_tools json,
    require_approval json not null,
    timeout_s double not null,
    created_at timestamp not null,
    primary key (user_id, id),
    unique (user_id, name)
);

-- next_item and next_session_seq hand out positions; they only grow, so that a position is never used twice.
create table core.threads (
    id varchar not null,
    user_id varchar not null,
    title varchar,
    status json not null,
    metadata json not null,
    created_at timestamp not null,
    updated_at timestamp not null,
    next_item bigint not null default 0,
    next_session_seq bigint not null default 0,
    primary key (user_id, id)
);

create table core.thread_items (
    id varchar not null,
    thread_id varchar not null,
    user_id varchar not null,
    type varchar not null,
    data json not null,
    item_index bigint not null,
    run_id varchar,
    trace_id varchar,
    agent varchar,
    created_at timestamp not null,
    primary key (user_id, id)
);

-- What the model has seen, as Agents SDK input items; the reader's view of a thread is thread_items.
create table core.session_items (
    user_id varchar not null,
    thread_id varchar not null,
    seq bigint not null,
    item json not null,
    run_id varchar,
    created_at timestamp not null
);

create table core.runs (
    id varchar not null,
    user_id varchar not null,
    thread_id varchar not null,
    trace_id varchar not null,
    agent_id varchar,
    agent varchar not null,
    last_agent varchar,
    model varchar,
    status varchar not null,
    input varchar not null,
    output varchar,
    error_type varchar,
    error varchar,
    usage json not null,
    cost_usd double,
    ttft_ms double,
    started_at timestamp not null,
    ended_at timestamp,
    process_id varchar,
    metadata json not null,
    primary key (user_id, id)
);

create table core.run_states (
    run_id varchar not null,
    user_id varchar not null,
    thread_id varchar not null,
    state varchar not null,
    agent_snapshot json not null,
    interruptions json not null,
    decisions json not null,
    status varchar not null,
    rev bigint not null,
    claimed_by varchar,
    lease_until timestamp,
    created_at timestamp not null,
    updated_at timestamp not null,
    primary key (user_id, run_id)
);

create table core.score_rows (
    id varchar not null,
    user_id varchar not null,
    target varchar not null,
    target_id varchar not null,
    name varchar not null,
    value double,
    label varchar,
    note varchar,
    source varchar not null,
    created_at timestamp not null,
    primary key (user_id, id)
);

-- The processes that work on this lab; of the machine, not of a user. pid_started tells a pid from its successor's.
create table core.processes (
    process_id varchar primary key,
    host varchar not null,
    pid bigint not null,
    pid_started varchar not null,
    started_at timestamp not null,
    heartbeat_at timestamp not null,
    lease_until timestamp not null
);

-- Batches written in the last hour, so that one sent again after a failover is written once. answer: what it returned.
create table core.ingest_batches (
    user_id varchar not null,
    batch_id varchar not null,
    written_at timestamp not null,
    answer varchar
);
