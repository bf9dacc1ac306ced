-- The view `messages` has those of traces without a run of the lab too: of the last call of a model that tells what was said, the history
-- that it was given, and its answer. Signs that JSON escapes and no text can hold make it plain text.

create macro core.message_list(said, is_json, speaker) as
    case when not is_json or not json_valid(said) or regexp_matches(said, '\\u(0000|[dD][89a-fA-F])')
             then [json_object('role', speaker, 'content', said)]
         when json_type(said::json) = 'ARRAY' then from_json(said::json, '["json"]')
         when json_type(said::json, '$.messages') = 'ARRAY' then from_json(said::json->'$.messages', '["json"]')
         when json_type(said::json, '$.input') = 'ARRAY' then from_json(said::json->'$.input', '["json"]')
         when json_type(said::json, '$.output') = 'ARRAY' then from_json(said::json->'$.output', '["json"]')
         else [said::json] end;

-- A part of a message, null when it holds no words of the speaker.
create macro core.part_text(part) as
    case when json_type(part) = 'VARCHAR' then part->>'$'
         when part->>'$.type' in ('reasoning', 'thinking', 'tool_call', 'tool_use', 'function_call') then null
         else coalesce(part->>'$.text', part->>'$.message_content.text', part->>'$.response', part->>'$.result', part->>'$.content') end;

create macro core.content_text(content) as
    case json_type(content)
        when 'VARCHAR' then content->>'$'
        when 'ARRAY' then array_to_string(
            list_filter(list_transform(from_json(content, '["json"]'), lambda part: core.part_text(part)), lambda words: words is not null), chr(10))
        when 'NULL' then null
        else content->>'$' end;

create view core.imported_messages as
with latest as (
    select trace_id, arg_max(span_id, (started_at, span_id)) as span_id, arg_max(io_json, (started_at, span_id)) as io_json
    from core.spans_raw
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

create or replace view main.messages as
select thread_id, id as item_id, trace_id, case type when 'user_message' then 'user' else 'assistant' end as role,
       agent, data->>'$.text' as text, created_at
from core.thread_items
where user_id = getvariable('tl_user') and type in ('user_message', 'assistant_message')
union all
select t.thread_id, m.span_id || ':' || lpad(cast(m.place as varchar), 5, '0'), m.trace_id, m.role,
       case when m.role = 'assistant' then m.agent end, m.text, m.created_at
from core.imported_messages m
left join main.traces t on t.trace_id = m.trace_id
where m.text <> '';
