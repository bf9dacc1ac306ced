-- The view `messages` has those of traces without a run of the lab too: of the last call of a model that tells what was said, the history
-- that it was given, and its answer. Signs that JSON escapes and no text can hold make it plain text.

create view core.imported_messages as
with latest as (
    select distinct on (user_id, trace_id) user_id, trace_id, span_id, started_at, io_json
    from core.spans_raw s
    where kind = 'generation' and (input is not null or input_refs is not null or output is not null)
      and not exists (select 1 from core.runs r where r.user_id = s.user_id and r.trace_id = s.trace_id)
    order by user_id, trace_id, started_at desc, span_id desc
), spoken as (
    select s.trace_id, s.span_id, s.agent, s.started_at, coalesce(s.ended_at, s.started_at) as ended_at, s.input, s.output, l.io_json
    from latest l
    join core.all_spans s
        on s.user_id = l.user_id and s.trace_id = l.trace_id and s.span_id = l.span_id and s.started_at = l.started_at
), sides as (
    select trace_id, span_id, agent, started_at as created_at, 0 as side, 'user' as speaker, input as said, io_json & 1 > 0 as is_json
    from spoken where input is not null
    union all
    select trace_id, span_id, agent, ended_at, 1, 'assistant', output, io_json & 2 > 0
    from spoken where output is not null
), read as (
    select *, case when is_json and said !~ '\\u(0000|[dD][89a-fA-F])' then cast(said as jsonb) end as value from sides
), listed as (
    select r.trace_id, r.span_id, r.agent, r.created_at, r.side, r.speaker, m.message, m.place
    from read r
    cross join lateral jsonb_array_elements(case
        when r.value is null then jsonb_build_array(to_jsonb(r.said))
        when jsonb_typeof(r.value) = 'array' then r.value
        when jsonb_typeof(r.value->'messages') = 'array' then r.value->'messages'
        when jsonb_typeof(r.value->'input') = 'array' then r.value->'input'
        when jsonb_typeof(r.value->'output') = 'array' then r.value->'output'
        else jsonb_build_array(r.value) end) with ordinality as m (message, place)
), contents as (
    select *, case when jsonb_typeof(message) = 'string' then message
                   else coalesce(message->'content', message->'parts', message->'message'->'content', message->'output', message->'text')
              end as content
    from listed
)
select c.trace_id, c.span_id, c.agent, c.created_at, 10000 * c.side + c.place as place,
       case coalesce(c.message->>'role', c.message->'message'->>'role', c.message->>'type', '')
           when 'model' then 'assistant' when 'function' then 'tool' when 'function_call_output' then 'tool'
           else coalesce(c.message->>'role', c.message->'message'->>'role', c.speaker) end as role,
       case jsonb_typeof(c.content)
           when 'array' then (
               -- Parts that hold no words of the speaker are left out.
               select string_agg(p.words, e'\n' order by p.place)
               from (
                   select place, case
                       when jsonb_typeof(part) = 'string' then part #>> '{}'
                       when part->>'type' in ('reasoning', 'thinking', 'tool_call', 'tool_use', 'function_call') then null
                       else coalesce(part->>'text', part->'message_content'->>'text', part->>'response', part->>'result', part->>'content')
                   end as words
                   from jsonb_array_elements(c.content) with ordinality as e (part, place)
               ) p
           )
           when 'null' then null
           else c.content #>> '{}' end as text
from contents c;

create or replace view main.messages as
select thread_id, id as item_id, trace_id, case type when 'user_message' then 'user' else 'assistant' end as role,
       agent, data->>'text' as text, created_at
from core.thread_items
where type in ('user_message', 'assistant_message')
union all
select t.thread_id, m.span_id || ':' || lpad(cast(m.place as text), 5, '0'), m.trace_id, m.role,
       case when m.role = 'assistant' then m.agent end, m.text, m.created_at
from core.imported_messages m
left join main.traces t on t.trace_id = m.trace_id
where m.text <> '';
