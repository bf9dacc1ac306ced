"""One module a wire protocol: from the Agents SDK's items to a provider's request, and from its stream to events."""
