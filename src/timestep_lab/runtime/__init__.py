"""Floor 2: agents, models, tools, runs, tracing, files. Imports `types` and `store`; the SDKs are imported when first used."""
