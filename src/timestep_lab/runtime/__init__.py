"""Layer 2: agents, models, tools, runs, tracing, files. Imports `model` and `store`; the SDKs are imported on first use."""
