-- Links that show one trace to who has no account. Revoking one deletes its row.
create table core.trace_shares (
    id varchar not null,
    user_id varchar not null,
    trace_id varchar not null,
    created_at timestamp not null,
    expires_at timestamp not null,
    primary key (user_id, id)
);
