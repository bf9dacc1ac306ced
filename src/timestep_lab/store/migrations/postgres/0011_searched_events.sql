-- What events say is searched like the rest of a span: without the marks of JSON, which would hide where words begin.

create function core.event_text(attributes text) returns text
language sql immutable parallel safe as $$
    select case when strpos(attributes, '"timestep.events":') > 0
        then replace(replace(attributes::json ->> 'timestep.events', '\n', chr(10)), '\t', chr(10)) end
$$;

-- With their indexes, which are built again by the hour.
drop function core.span_words(text, text, text, text) cascade;
create function core.span_words(name text, error text, input text, output text, attributes text) returns tsvector
language sql immutable parallel safe as $$
    select core.words_of(concat_ws(' ', name, error, left(input, 200000), left(output, 200000), left(core.event_text(attributes), 200000)))
$$;

create or replace view main.spans as
select trace_id, span_id, parent_id, kind, name, agent, status, error, model, provider, started_at, ended_at, duration_ms,
       input_tokens, output_tokens, cost_usd, cast(attributes as json) as attributes, input, output,
       cached_tokens, reasoning_tokens, queue_ms, rate_limit_ms, ttft_ms, stop_reason, server, approval, to_agent,
       core.event_text(attributes) as events
from core.all_spans;
