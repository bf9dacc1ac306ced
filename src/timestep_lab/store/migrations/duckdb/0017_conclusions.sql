-- Who won, in one line: lists of comparisons say it without reading the answers.

alter table core.comparison_runs add column conclusion varchar;
