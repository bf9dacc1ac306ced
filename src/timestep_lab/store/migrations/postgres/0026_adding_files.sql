-- The process that adds a file to a vector store, so that a file whose process has died is not in progress for ever.

alter table core.vector_store_files add column process_id text;
update core.vector_store_files
    set status = 'failed', last_error = '{"code": "interrupted", "message": "Adding the file was interrupted."}'
    where status = 'in_progress';
