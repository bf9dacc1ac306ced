-- The version of the protocol to speak with an MCP server; null: the newest that both sides know.

alter table core.mcp_servers add column protocol text;
