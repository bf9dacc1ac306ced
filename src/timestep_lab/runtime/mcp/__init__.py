"""MCP: the built-in server, the user's servers, and the toolbox that gives each agent its tools."""
