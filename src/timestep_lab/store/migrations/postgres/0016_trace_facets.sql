-- What a list of traces is searched and counted by: where a trace comes from, how it is tagged, what failed in it, when its first token came.
-- source: 'evaluation' or 'imported'; null: live. tags are those of the trace's metadata. Lists have one entry a line.

drop trigger add_to_rollup on core.trace_deltas;
drop function core.add_to_rollup();

alter table core.trace_deltas
    add column source text,
    add column first_token_at timestamp,
    add column tags text,
    add column failed_tools text,
    add column error_types text;
alter table core.trace_rollups
    add column source text,
    add column first_token_at timestamp,
    add column tags text,
    add column failed_tools text,
    add column error_types text;

update core.trace_rollups set source = 'imported' where version is not null;
update core.trace_rollups r set source = 'evaluation'
from core.traces_raw t
where r.version is null and t.user_id = r.user_id and t.trace_id = r.trace_id
  and (strpos(t.metadata, '"comparison_id"') > 0 or (t.parent_trace_id is not null and strpos(t.metadata, '"run_id"') = 0));
update core.trace_rollups r set first_token_at = f.first_token_at, failed_tools = f.failed_tools, error_types = f.error_types
from (
    select user_id, trace_id,
           min(case when kind = 'generation' then started_at + ttft_ms * interval '1 millisecond' end) as first_token_at,
           string_agg(distinct case when kind = 'tool' and status = 'error' then replace(name, e'\n', ' ') end, e'\n') as failed_tools,
           string_agg(distinct case when status = 'error' then cast(attributes as json) ->> 'error.type' end, e'\n') as error_types
    from core.spans_raw
    where status = 'error' or (kind = 'generation' and ttft_ms is not null)
    group by user_id, trace_id
) f
where f.user_id = r.user_id and f.trace_id = r.trace_id;

create function core.add_to_rollup() returns trigger
language plpgsql as $$
begin
    insert into core.trace_rollups as r (
        user_id, trace_id, workflow, workflow_key, thread_id, thread_key, started_at, ended_at, n_spans, n_open, n_errors, n_turns,
        n_generations, n_unpriced, input_tokens, output_tokens, cost_usd, agents, agents_at, model, model_at, input, input_key,
        output, output_key, root_error, interrupted, version, n_deltas, source, first_token_at, end_user_key, end_user, tags, failed_tools, error_types
    ) values (
        new.user_id, new.trace_id, new.workflow, new.workflow_key, new.thread_id, new.thread_key, new.started_at, new.ended_at,
        new.n_spans, new.n_open, new.n_errors, new.n_turns, new.n_generations, new.n_unpriced, new.input_tokens, new.output_tokens,
        new.cost_usd, new.agents, new.agents_at, new.model, new.model_at, new.input, new.input_key, new.output, new.output_key,
        new.root_error, new.interrupted, new.version, 1, new.source, new.first_token_at, new.end_user_key, new.end_user, new.tags, new.failed_tools,
        new.error_types
    )
    on conflict (user_id, trace_id) do update set
        workflow = case when r.workflow is null or coalesce(excluded.workflow_key, 0) < coalesce(r.workflow_key, 0)
                        then coalesce(excluded.workflow, r.workflow) else r.workflow end,
        workflow_key = case when excluded.workflow is null then r.workflow_key when r.workflow is null then excluded.workflow_key
                            else nullif(least(coalesce(r.workflow_key, 0), coalesce(excluded.workflow_key, 0)), 0) end,
        thread_id = case when r.thread_id is null or coalesce(excluded.thread_key, 0) < coalesce(r.thread_key, 0)
                         then coalesce(excluded.thread_id, r.thread_id) else r.thread_id end,
        thread_key = case when excluded.thread_id is null then r.thread_key when r.thread_id is null then excluded.thread_key
                          else nullif(least(coalesce(r.thread_key, 0), coalesce(excluded.thread_key, 0)), 0) end,
        started_at = least(r.started_at, excluded.started_at),
        ended_at = greatest(r.ended_at, excluded.ended_at),
        n_spans = r.n_spans + excluded.n_spans,
        n_open = r.n_open + excluded.n_open,
        n_errors = r.n_errors + excluded.n_errors,
        n_turns = r.n_turns + excluded.n_turns,
        n_generations = r.n_generations + excluded.n_generations,
        n_unpriced = r.n_unpriced + excluded.n_unpriced,
        input_tokens = coalesce(r.input_tokens + excluded.input_tokens, r.input_tokens, excluded.input_tokens),
        output_tokens = coalesce(r.output_tokens + excluded.output_tokens, r.output_tokens, excluded.output_tokens),
        cost_usd = coalesce(r.cost_usd + excluded.cost_usd, r.cost_usd, excluded.cost_usd),
        agents = case when excluded.version > coalesce(r.version, 0) then coalesce(excluded.agents, r.agents)
                      when r.version is not null then r.agents
                      when excluded.agents_at < r.agents_at then core.joined_path(excluded.agents, r.agents)
                      else core.joined_path(r.agents, excluded.agents) end,
        agents_at = least(r.agents_at, excluded.agents_at),
        model = case when excluded.version > coalesce(r.version, 0) then coalesce(excluded.model, r.model)
                     when r.version is not null then r.model
                     when r.model_at is null or excluded.model_at >= r.model_at then excluded.model else r.model end,
        model_at = greatest(r.model_at, excluded.model_at),
        input = case when r.input_key is null or excluded.input_key < r.input_key then excluded.input else r.input end,
        input_key = least(r.input_key, excluded.input_key),
        output = case when r.output_key is null or excluded.output_key > r.output_key then excluded.output else r.output end,
        output_key = greatest(r.output_key, excluded.output_key),
        root_error = case when excluded.version > coalesce(r.version, 0) then excluded.root_error
                          when r.version is not null then r.root_error
                          else r.root_error or excluded.root_error end,
        interrupted = r.interrupted or excluded.interrupted,
        version = greatest(r.version, excluded.version),
        n_deltas = r.n_deltas + 1,
        source = greatest(r.source, excluded.source),
        first_token_at = least(r.first_token_at, excluded.first_token_at),
        end_user = case when r.end_user is null or coalesce(excluded.end_user_key, 0) < coalesce(r.end_user_key, 0)
                        then coalesce(excluded.end_user, r.end_user) else r.end_user end,
        end_user_key = case when excluded.end_user is null then r.end_user_key when r.end_user is null then excluded.end_user_key
                            else nullif(least(coalesce(r.end_user_key, 0), coalesce(excluded.end_user_key, 0)), 0) end,
        tags = greatest(r.tags, excluded.tags),
        failed_tools = nullif(concat_ws(e'\n', r.failed_tools, excluded.failed_tools), ''),
        error_types = nullif(concat_ws(e'\n', r.error_types, excluded.error_types), '');
    return null;
end $$;

create trigger add_to_rollup before insert on core.trace_deltas for each row execute function core.add_to_rollup();

create or replace view main.traces as
select trace_id, thread_id, user_id, workflow, agent_path, model, status, started_at, ended_at, duration_ms, n_spans, n_errors, turns,
       input_tokens, output_tokens, cost_usd, input, output, n_unpriced, end_user,
       case when status = 'completed' then case when n_errors > 0 then 'steps_failed' else 'done' end
            when status = 'needs_approval' then 'waiting' else status end as outcome,
       source, ttft_ms, tags, failed_tools, error_types
from (
    select d.trace_id, coalesce(d.thread_id, r.thread_id) as thread_id, d.user_id, coalesce(d.workflow, 'trace') as workflow,
           d.agents as agent_path, coalesce(d.model, r.model) as model,
           coalesce(r.status, case
               when d.interrupted then 'interrupted'
               when d.n_open > 0 then 'running'
               when d.root_error then 'failed'
               else 'completed' end) as status,
           d.started_at,
           case when d.n_open > 0 then null else d.ended_at end as ended_at,
           case when d.n_open > 0 then null
                else round(date_part('epoch', d.ended_at - d.started_at) * 1000000) / 1000.0 end as duration_ms,
           d.n_spans, d.n_errors, case when d.n_turns > 0 then d.n_turns else d.n_generations end as turns,
           d.input_tokens, d.output_tokens, d.cost_usd,
           coalesce(nullif(r.input, ''), d.input) as input, coalesce(r.output, d.output) as output, d.n_unpriced,
           coalesce(d.source, 'live') as source,
           round(date_part('epoch', d.first_token_at - d.started_at) * 1000000) / 1000.0 as ttft_ms,
           d.end_user, d.tags, d.failed_tools, d.error_types
    from core.trace_rollups d
    left join core.runs r on r.user_id = d.user_id and r.trace_id = d.trace_id
) traces;

-- All that counting and charts ask for, so that they read no texts; and the dearest first.
create index on core.trace_rollups (user_id, started_at desc)
    include (trace_id, workflow, agents, model, n_open, n_errors, root_error, interrupted, source, failed_tools, error_types, tags, end_user,
             ended_at, first_token_at, cost_usd, n_unpriced, input_tokens, output_tokens, n_turns, n_generations);
create index on core.trace_rollups (user_id, cost_usd desc nulls last, trace_id desc);

-- What somebody gave a name: traces as they were filtered and sorted, a query, a panel of the overview.
create table core.saved_views (
    id text not null,
    user_id text not null,
    kind text not null,
    name text not null,
    body json not null,
    created_at timestamp not null,
    updated_at timestamp not null,
    primary key (user_id, id),
    unique (user_id, kind, name)
);
