-- Events that other programs send apart from their spans, as log records, and whose span has not come or not ended yet.
create table core.waiting_events (
    user_id varchar not null,
    trace_id varchar not null,
    span_id varchar not null,
    event varchar not null,                -- JSON: name, time_unix_nano, attributes
    received_at timestamp not null
);
