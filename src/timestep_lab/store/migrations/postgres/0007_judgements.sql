-- answer_cache also keeps what judges replied: {"reply": text}. A score says whether its judge was asked.

alter table core.comparison_scores add column cached boolean default false;
