-- What a run that begins with an agent may take, unless it is given other limits.

alter table core.agents
    add column budget_usd double precision,
    add column max_tokens_total bigint,
    add column timeout_s double precision,
    add column max_tool_calls integer;

alter table core.agent_versions
    add column budget_usd double precision,
    add column max_tokens_total bigint,
    add column timeout_s double precision,
    add column max_tool_calls integer;
