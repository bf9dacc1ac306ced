-- Control tables. The columns are those of the DuckDB lab; keys and foreign keys all begin with user_id, so that a row can neither
-- point at another user's nor tell by an error that it exists. Row-level security and grants follow by store/postgres/security.sql,
-- for every table in schema core that has a user_id. JSON columns are of type json: the text comes back as it was written.

create schema if not exists core;

create table core.users (
    id text primary key,
    kind text not null default 'anonymous',
    name text,
    created_at timestamp not null
);

create table core.agents (
    id text not null,
    user_id text not null,
    name text not null,
    instructions text not null,
    description text not null,
    model text,
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
    id text not null,
    user_id text not null,
    name text not null,
    command json not null,
    env json not null,
    url text,
    headers json not null,
    allowed_tools json,
    require_approval json not null,
    timeout_s double precision not null,
    created_at timestamp not null,
    primary key (user_id, id),
    unique (user_id, name)
);

-- next_item and next_session_seq hand out positions; they only grow, so that a position is never used twice.
create table core.threads (
    id text not null,
    user_id text not null,
    title text,
    status json not null,
    metadata json not null,
    created_at timestamp not null,
    updated_at timestamp not null,
    next_item bigint not null default 0,
    next_session_seq bigint not null default 0,
    primary key (user_id, id)
);
create index on core.threads (user_id, updated_at desc);

create table core.thread_items (
    id text not null,
    thread_id text not null,
    user_id text not null,
    type text not null,
    data json not null,
    item_index bigint not null,
    run_id text,
    trace_id text,
    agent text,
    created_at timestamp not null,
    primary key (user_id, id),
    unique (user_id, thread_id, item_index)
);

-- What the model has seen, as Agents SDK input items; the reader's view of a thread is thread_items.
create table core.session_items (
    user_id text not null,
    thread_id text not null,
    seq bigint not null,
    item json not null,
    run_id text,
    created_at timestamp not null,
    primary key (user_id, thread_id, seq)
);

create table core.runs (
    id text not null,
    user_id text not null,
    thread_id text not null,
    trace_id text not null,
    agent_id text,
    agent text not null,
    last_agent text,
    model text,
    status text not null,
    input text not null,
    output text,
    error_type text,
    error text,
    usage json not null,
    cost_usd double precision,
    ttft_ms double precision,
    started_at timestamp not null,
    ended_at timestamp,
    process_id text,
    metadata json not null,
    primary key (user_id, id)
);
create index on core.runs (user_id, thread_id);
create index on core.runs (user_id, trace_id);
create index on core.runs (user_id, started_at desc);
create index on core.runs (process_id) where status = 'running';

create table core.run_states (
    run_id text not null,
    user_id text not null,
    thread_id text not null,
    state text not null,
    agent_snapshot json not null,
    interruptions json not null,
    decisions json not null,
    status text not null,
    rev bigint not null,
    claimed_by text,
    lease_until timestamp,
    created_at timestamp not null,
    updated_at timestamp not null,
    primary key (user_id, run_id)
);

create table core.score_rows (
    id text not null,
    user_id text not null,
    target text not null,
    target_id text not null,
    name text not null,
    value double precision,
    label text,
    note text,
    source text not null,
    created_at timestamp not null,
    primary key (user_id, id)
);
create index on core.score_rows (user_id, target, target_id);

-- The processes that work on this lab; of the machine, not of a user. pid_started tells a pid from its successor's.
create table core.processes (
    process_id text primary key,
    host text not null,
    pid bigint not null,
    pid_started text not null,
    started_at timestamp not null,
    heartbeat_at timestamp not null,
    lease_until timestamp not null
);

-- Batches written in the last hour, so that one sent again after a lost connection is written once. answer: what it returned.
create table core.ingest_batches (
    user_id text not null,
    batch_id text not null,
    written_at timestamp not null,
    answer text,
    primary key (user_id, batch_id)
);
create index on core.ingest_batches (written_at);
