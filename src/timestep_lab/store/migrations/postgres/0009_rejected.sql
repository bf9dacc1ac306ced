-- A tool call that was not approved is said to be rejected, where it was said to be ok.

update core.spans_raw set status = 'rejected' where approval = 'rejected' and status = 'ok';
