-- Events that other programs send apart from their spans, as log records, and whose span has not come or not ended yet.
create table core.waiting_events (
    user_id text not null,
    trace_id text not null,
    span_id text not null,
    event text not null,                -- JSON: name, time_unix_nano, attributes
    received_at timestamp not null
);
create index on core.waiting_events (user_id, trace_id);
