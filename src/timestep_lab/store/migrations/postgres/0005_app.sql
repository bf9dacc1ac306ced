-- What the served lab remembers.

create table core.lab_settings (
    user_id text not null,
    name text not null,
    value text not null,
    primary key (user_id, name)
);

-- What readers thought of an answer (ChatKit's items.feedback).
create table core.feedback (
    id text not null,
    user_id text not null,
    thread_id text not null,
    item_id text not null,
    kind text not null,
    created_at timestamp not null,
    primary key (user_id, id)
);
