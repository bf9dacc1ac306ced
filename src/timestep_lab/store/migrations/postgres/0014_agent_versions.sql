-- Every save of an agent is a version of it, which never changes. `agents` has the newest of each; the columns are the same.

alter table core.agents add column version bigint default 1;

create table core.agent_versions (
    id text not null,
    user_id text not null,
    name text not null,
    instructions text not null,
    description text not null,
    model text,
    model_settings json not null,
    tool_ids json not null,
    handoff_ids json not null,
    approvals json not null,
    created_at timestamp not null,
    updated_at timestamp not null,
    version bigint not null,
    primary key (user_id, id, version)
);

insert into core.agent_versions (
    id, user_id, name, instructions, description, model, model_settings, tool_ids, handoff_ids, approvals, created_at, updated_at, version
)
select id, user_id, name, instructions, description, model, model_settings, tool_ids, handoff_ids, approvals, created_at, updated_at, 1
from core.agents;
