-- Who saved a version of an agent; empty where that was not noted.

alter table core.agents add column saved_by text default '';
alter table core.agent_versions add column saved_by text default '';
