-- What a list of traces is searched and counted by: where a trace comes from, how it is tagged, what failed in it, when its first token came.
-- And the sums of each trace in one row (trace_sums), so that nobody adds up a hundred thousand traces to show fifty. Rows of trace_deltas that
-- came after trace_sums_upto are added up when they are read; store/trace_sums.py folds them in when there are many.

alter table core.trace_deltas add column source varchar;            -- 'evaluation' or 'imported'; null: live
alter table core.trace_deltas add column first_token_at timestamp;
alter table core.trace_deltas add column tags varchar;              -- metadata: tags, one a line
alter table core.trace_deltas add column failed_tools varchar;      -- names of tools that failed, one a line
alter table core.trace_deltas add column error_types varchar;       -- classes of errors, one a line

update core.trace_deltas set source = 'imported' where version is not null;
update core.trace_deltas set source = 'evaluation' where version is null and (user_id, trace_id) in (
    select user_id, trace_id from core.traces_raw
    where contains(metadata, '"comparison_id"') or (parent_trace_id is not null and not contains(metadata, '"run_id"')));
insert into core.trace_deltas (
    user_id, trace_id, started_at, n_spans, n_open, n_errors, n_turns, n_generations, n_unpriced, root_error, interrupted, first_token_at,
    failed_tools, error_types)
select user_id, trace_id, min(started_at), 0, 0, 0, 0, 0, 0, false, false,
       min(case when kind = 'generation' then started_at + to_microseconds(cast(ttft_ms * 1000 as bigint)) end),
       string_agg(distinct case when kind = 'tool' and status = 'error' then replace(name, chr(10), ' ') end, chr(10)),
       string_agg(distinct case when status = 'error' then json_extract_string(attributes, '$."error.type"') end, chr(10))
from core.spans_raw
where status = 'error' or (kind = 'generation' and ttft_ms is not null)
group by user_id, trace_id;

-- The sums of every trace that a row after `after` is about; of rows since `earliest` only.
create macro core.added_up(earliest, after) as table
select user_id, trace_id, workflow, thread_id,
       coalesce(agents_now, array_to_string(list_filter(agents, lambda name, place: place = 1 or agents[place - 1] <> name), ' → ')) as agent_path,
       model, started_at, ended_at, n_spans, n_open, n_errors, turns, input_tokens, output_tokens, cost_usd, n_unpriced, input, output,
       root_error, interrupted, source, first_token_at, end_user, tags, failed_tools, error_types
from (
    select user_id, trace_id,
           coalesce(arg_min(workflow, coalesce(workflow_key, 0)), 'trace') as workflow, arg_min(thread_id, coalesce(thread_key, 0)) as thread_id,
           min(started_at) as started_at, max(ended_at) as ended_at,
           cast(sum(n_spans) as bigint) as n_spans, cast(sum(n_open) as bigint) as n_open, cast(sum(n_errors) as bigint) as n_errors,
           cast(case when sum(n_turns) > 0 then sum(n_turns) else sum(n_generations) end as bigint) as turns,
           cast(sum(input_tokens) as bigint) as input_tokens, cast(sum(output_tokens) as bigint) as output_tokens,
           sum(cost_usd) as cost_usd, cast(sum(n_unpriced) as bigint) as n_unpriced,
           arg_max(agents, version) as agents_now,
           string_split(string_agg(agents, ' → ' order by agents_at), ' → ') as agents,
           coalesce(arg_max(model, version), arg_max(model, model_at)) as model,
           arg_min(input, input_key) as input, arg_max(output, output_key) as output,
           coalesce(arg_max(root_error, version), bool_or(root_error)) as root_error, bool_or(interrupted) as interrupted,
           max(source) as source, min(first_token_at) as first_token_at, arg_min(end_user, coalesce(end_user_key, 0)) as end_user, max(tags) as tags,
           string_agg(failed_tools, chr(10)) as failed_tools, string_agg(error_types, chr(10)) as error_types
    from core.trace_deltas
    where started_at >= earliest
      and (user_id, trace_id) in (select user_id, trace_id from core.trace_deltas where delta_no > after)
    group by user_id, trace_id
);

create table core.trace_sums as select * from core.added_up(timestamp '-infinity', -1);
create table core.trace_sums_upto as select coalesce(max(delta_no), 0) as delta_no from core.trace_deltas;

create or replace macro core.traces_since(earliest) as table
select trace_id, thread_id, user_id, workflow, agent_path, model, status, started_at, ended_at, duration_ms, n_spans, n_errors, turns,
       input_tokens, output_tokens, cost_usd, input, output, n_unpriced, end_user,
       case when status = 'completed' then case when n_errors > 0 then 'steps_failed' else 'done' end
            when status = 'needs_approval' then 'waiting' else status end as outcome,
       source, ttft_ms, tags, failed_tools, error_types
from (
    select d.trace_id, coalesce(d.thread_id, r.thread_id) as thread_id, d.user_id, d.workflow, d.agent_path,
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
           coalesce(nullif(r.input, ''), d.input) as input, coalesce(r.output, d.output) as output, d.n_unpriced,
           coalesce(d.source, 'live') as source, epoch_us(d.first_token_at - d.started_at) / 1000.0 as ttft_ms,
           d.end_user, d.tags, d.failed_tools, d.error_types
    from (
        select * from core.trace_sums
        where user_id = getvariable('tl_user') and started_at >= earliest and trace_id not in (
            select trace_id from core.trace_deltas
            where user_id = getvariable('tl_user') and delta_no > (select max(delta_no) from core.trace_sums_upto))
        union all
        select * from core.added_up(earliest, (select max(delta_no) from core.trace_sums_upto)) where user_id = getvariable('tl_user')
    ) d
    left join core.runs r on r.user_id = d.user_id and r.trace_id = d.trace_id
);

create or replace view main.traces as
select * from core.traces_since(timestamp '-infinity');

-- What somebody gave a name: traces as they were filtered and sorted, a query, a panel of the overview.
create table core.saved_views (
    id varchar not null,
    user_id varchar not null,
    kind varchar not null,
    name varchar not null,
    body json not null,
    created_at timestamp not null,
    updated_at timestamp not null,
    primary key (user_id, id),
    unique (user_id, kind, name)
);
