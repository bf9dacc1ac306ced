-- The slowest traces first, those with the most tokens, those whose first token came last: the expressions of the view `traces` and of its sorting.

create index on core.trace_rollups (
    user_id,
    (case when n_open > 0 then null else round(date_part('epoch', ended_at - started_at) * 1000000) / 1000.0 end) desc nulls last,
    trace_id desc
);
create index on core.trace_rollups (user_id, (coalesce(input_tokens, 0) + coalesce(output_tokens, 0)) desc nulls last, trace_id desc);
create index on core.trace_rollups (
    user_id, (round(date_part('epoch', first_token_at - started_at) * 1000000) / 1000.0) desc nulls last, trace_id desc
);
