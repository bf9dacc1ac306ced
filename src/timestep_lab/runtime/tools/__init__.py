"""The built-in tools, their widgets, and the rules that require approval for a tool."""
