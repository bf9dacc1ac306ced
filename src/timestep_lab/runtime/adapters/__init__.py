"""One module per wire protocol: converts the Agents SDK's items to a provider's request, and its stream to events."""
