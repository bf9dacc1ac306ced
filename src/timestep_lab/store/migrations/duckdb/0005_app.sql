-- What the served lab remembers.

create table core.lab_settings (
    user_id varchar not null,
    name varchar not null,
    value varchar not null,
    primary key (user_id, name)
);

-- What readers thought of an answer (ChatKit's items.feedback).
create table core.feedback (
    id varchar not null,
    user_id varchar not null,
    thread_id varchar not null,
    item_id varchar not null,
    kind varchar not null,
    created_at timestamp not null,
    primary key (user_id, id)
);
