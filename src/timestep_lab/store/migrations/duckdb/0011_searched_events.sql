-- What events say is searched like the rest of a span: without the marks of JSON, which would hide where words begin.

create macro core.event_text(attributes) as
    case when contains(attributes, '"timestep.events":')
         then replace(replace(json_extract_string(attributes, '$."timestep.events"'), '\n', chr(10)), '\t', chr(10)) end;

create or replace view main.spans as
select trace_id, span_id, parent_id, kind, name, agent, status, error, model, provider, started_at, ended_at, duration_ms,
       input_tokens, output_tokens, cost_usd, attributes::json as attributes, input, output,
       cached_tokens, reasoning_tokens, queue_ms, rate_limit_ms, ttft_ms, stop_reason, server, approval, to_agent,
       core.event_text(attributes) as events
from core.all_spans;
