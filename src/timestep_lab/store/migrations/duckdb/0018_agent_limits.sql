-- What a run that begins with an agent may take, unless it is given other limits.

alter table core.agents add column budget_usd double;
alter table core.agents add column max_tokens_total bigint;
alter table core.agents add column timeout_s double;
alter table core.agents add column max_tool_calls integer;

alter table core.agent_versions add column budget_usd double;
alter table core.agent_versions add column max_tokens_total bigint;
alter table core.agent_versions add column timeout_s double;
alter table core.agent_versions add column max_tool_calls integer;
