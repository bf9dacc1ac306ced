-- The description that an agent is given of a tool, instead of the one from the tool's server.

alter table core.agents add column tool_descriptions json default '{}';

alter table core.agent_versions add column tool_descriptions json default '{}';
