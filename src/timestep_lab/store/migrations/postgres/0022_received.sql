-- DuckDB alone keeps requests of traces as they came (core.received). Here they are stored at once: many can write at a time.
select 1;
