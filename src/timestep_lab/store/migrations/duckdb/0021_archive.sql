-- Spans of days that are over, in Parquet files in the folder beside the lab (`lab.duckdb.archive`): see store/archive.py. What is read as
-- `stored_spans` are the spans in this file and those.

create table core.archive_files (
    name varchar not null primary key,  -- in the folder
    day date not null,
    spans bigint not null,
    bytes bigint not null,
    archived_at timestamp not null
);

-- Traces that were deleted after they were archived. Their spans are not read, and leave the files with the next purge.
create table core.archive_deleted (
    user_id varchar not null,
    trace_id varchar not null,
    deleted_at timestamp not null
);

create view core.archived_spans as select * from core.spans_raw where false;

create view core.stored_spans as
select * from core.spans_raw
union all by name
select * from core.archived_spans;

create or replace view core.span_rows as
select user_id, trace_id, span_id, parent_id, kind, name, agent, status, error, model, provider, started_at, ended_at,
       epoch_us(ended_at - started_at) / 1000.0 as duration_ms,
       input_tokens, output_tokens, cached_tokens, reasoning_tokens, cost_usd,
       queue_ms, rate_limit_ms, ttft_ms, stop_reason, server, approval, to_agent, attributes, input, output
from core.stored_spans
where user_id = getvariable('tl_user')
union all
select user_id, trace_id, span_id, parent_id, kind, name, agent, 'pending', null, model, provider, started_at, null,
       null,
       null, null, null, null, null,
       null, null, null, null, server, approval, to_agent, attributes, input, null
from core.open_spans
where user_id = getvariable('tl_user');

create or replace view core.imported_messages as
with latest as (
    select trace_id, arg_max(span_id, (started_at, span_id)) as span_id, arg_max(io_json, (started_at, span_id)) as io_json
    from core.stored_spans
    where user_id = getvariable('tl_user') and kind = 'generation'
      and (input is not null or input_refs is not null or output is not null)
      and trace_id not in (select trace_id from core.runs where user_id = getvariable('tl_user'))
    group by trace_id
), sides as (
    select s.trace_id, s.span_id, s.agent, s.started_at as created_at, 0 as side, 'user' as speaker,
           core.message_list(s.input, l.io_json & 1 > 0, 'user') as messages
    from core.all_spans s join latest l on l.trace_id = s.trace_id and l.span_id = s.span_id
    where s.input is not null
    union all
    select s.trace_id, s.span_id, s.agent, coalesce(s.ended_at, s.started_at), 1, 'assistant',
           core.message_list(s.output, l.io_json & 2 > 0, 'assistant')
    from core.all_spans s join latest l on l.trace_id = s.trace_id and l.span_id = s.span_id
    where s.output is not null
), listed as (
    select * exclude (messages), unnest(messages) as message, generate_subscripts(messages, 1) as place from sides
)
select trace_id, span_id, agent, created_at, 10000 * side + place as place,
       case coalesce(message->>'$.role', message->>'$.message.role', message->>'$.type', '')
           when 'model' then 'assistant' when 'function' then 'tool' when 'function_call_output' then 'tool'
           else coalesce(message->>'$.role', message->>'$.message.role', speaker) end as role,
       case when json_type(message) = 'VARCHAR' then message->>'$'
            else core.content_text(coalesce(message->'$.content', message->'$.parts', message->'$.message.content', message->'$.output', message->'$.text'))
       end as text
from listed;
