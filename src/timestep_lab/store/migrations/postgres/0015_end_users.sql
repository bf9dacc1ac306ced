-- Whom a program of others served, as its spans say (`user.id` and the like): a column of its own. The lab's user whose rows they are is
-- whoever sent them, whatever they say.

alter table core.trace_deltas
    add column end_user text,
    add column end_user_key bigint;     -- the least key wins, as of threads
alter table core.trace_rollups
    add column end_user text,
    add column end_user_key bigint;

create or replace function core.add_to_rollup() returns trigger
language plpgsql as $$
begin
    insert into core.trace_rollups as r (
        user_id, trace_id, workflow, workflow_key, thread_id, thread_key, started_at, ended_at, n_spans, n_open, n_errors, n_turns,
        n_generations, n_unpriced, input_tokens, output_tokens, cost_usd, agents, agents_at, model, model_at, input, input_key,
        output, output_key, root_error, interrupted, version, end_user, end_user_key, n_deltas
    ) values (
        new.user_id, new.trace_id, new.workflow, new.workflow_key, new.thread_id, new.thread_key, new.started_at, new.ended_at,
        new.n_spans, new.n_open, new.n_errors, new.n_turns, new.n_generations, new.n_unpriced, new.input_tokens, new.output_tokens,
        new.cost_usd, new.agents, new.agents_at, new.model, new.model_at, new.input, new.input_key, new.output, new.output_key,
        new.root_error, new.interrupted, new.version, new.end_user, new.end_user_key, 1
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
        end_user = case when r.end_user is null or coalesce(excluded.end_user_key, 0) < coalesce(r.end_user_key, 0)
                        then coalesce(excluded.end_user, r.end_user) else r.end_user end,
        end_user_key = case when excluded.end_user is null then r.end_user_key when r.end_user is null then excluded.end_user_key
                            else nullif(least(coalesce(r.end_user_key, 0), coalesce(excluded.end_user_key, 0)), 0) end,
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
        n_deltas = r.n_deltas + 1;
    return null;
end $$;

create or replace view main.traces as
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
       coalesce(nullif(r.input, ''), d.input) as input, coalesce(r.output, d.output) as output, d.n_unpriced, d.end_user
from core.trace_rollups d
left join core.runs r on r.user_id = d.user_id and r.trace_id = d.trace_id;
