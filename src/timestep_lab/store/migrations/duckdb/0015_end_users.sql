-- Whom a program of others served, as its spans say (`user.id` and the like): a column of its own. The lab's user whose rows they are is
-- whoever sent them, whatever they say.

alter table core.trace_deltas add column end_user varchar;
alter table core.trace_deltas add column end_user_key bigint;   -- the least key wins, as of threads

create or replace macro core.traces_since(earliest) as table
select d.trace_id, coalesce(d.thread_id, r.thread_id) as thread_id, d.user_id, d.workflow,
       coalesce(d.agents_now, array_to_string(list_filter(d.agents, lambda name, place: place = 1 or d.agents[place - 1] <> name), ' → '))
           as agent_path,
       coalesce(d.model, r.model) as model,
       coalesce(r.status, case
           when d.interrupted then 'interrupted'
           when d.n_open > 0 then 'running'
           when d.root_error then 'failed'
           else 'completed' end) as status,
       d.started_at,
       case when d.n_open > 0 then null else d.ended_at end as ended_at,
       case when d.n_open > 0 then null else epoch_us(d.ended_at - d.started_at) / 1000.0 end as duration_ms,
       d.n_spans, d.n_errors, d.turns, d.input_tokens, d.output_tokens, d.cost_usd,
       coalesce(nullif(r.input, ''), d.input) as input, coalesce(r.output, d.output) as output, d.n_unpriced, d.end_user
from (
    select trace_id, any_value(user_id) as user_id,
           coalesce(arg_min(workflow, coalesce(workflow_key, 0)), 'trace') as workflow, arg_min(thread_id, coalesce(thread_key, 0)) as thread_id,
           arg_min(end_user, coalesce(end_user_key, 0)) as end_user,
           min(started_at) as started_at, max(ended_at) as ended_at,
           cast(sum(n_spans) as bigint) as n_spans, sum(n_open) as n_open, cast(sum(n_errors) as bigint) as n_errors,
           cast(case when sum(n_turns) > 0 then sum(n_turns) else sum(n_generations) end as bigint) as turns,
           cast(sum(input_tokens) as bigint) as input_tokens, cast(sum(output_tokens) as bigint) as output_tokens,
           sum(cost_usd) as cost_usd, cast(sum(n_unpriced) as bigint) as n_unpriced,
           arg_max(agents, version) as agents_now,
           string_split(string_agg(agents, ' → ' order by agents_at), ' → ') as agents,
           coalesce(arg_max(model, version), arg_max(model, model_at)) as model,
           arg_min(input, input_key) as input, arg_max(output, output_key) as output,
           coalesce(arg_max(root_error, version), bool_or(root_error)) as root_error, bool_or(interrupted) as interrupted
    from core.trace_deltas
    where user_id = getvariable('tl_user') and started_at >= earliest
    group by trace_id
) d
left join core.runs r on r.user_id = d.user_id and r.trace_id = d.trace_id;

create or replace view main.traces as
select * from core.traces_since(timestamp '-infinity');
