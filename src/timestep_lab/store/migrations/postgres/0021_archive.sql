-- Nothing has to leave the lab: each day is a partition of its own. In DuckDB `db archive` writes days that are over into Parquet files.
comment on table core.spans_raw is 'finished spans, a partition a day';
