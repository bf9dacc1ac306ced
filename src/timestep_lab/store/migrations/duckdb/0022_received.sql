-- Requests of traces as they came: durable before they are acknowledged, and gone again once their spans are in the tables of traces,
-- where many of them are put in one transaction. Left over after a kill, they are put there when the lab is opened again.

create table core.received (
    received_no bigint not null,
    user_id varchar not null,
    reader varchar not null,            -- what reads the body: read_otlp, read_otlp_logs
    content_type varchar not null,
    content_encoding varchar,
    body blob not null,
    problem varchar                     -- why its spans could not be stored: it is tried again when the lab is next opened
);
