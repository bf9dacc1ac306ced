"""MCP: the built-in server, the user's own servers, and the toolbox that gives each agent the tools it may see."""
