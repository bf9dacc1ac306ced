-- What ChatKit announces before its bytes come, and what the OpenAI-compatible layer keeps.

create table core.chatkit_attachments (
    id varchar not null,
    user_id varchar not null,
    data json not null,
    created_at timestamp not null,
    primary key (user_id, id)
);

-- next_item hands out positions; it only grows, so that the order of a conversation is that of writing.
create table core.conversations (
    id varchar not null,
    user_id varchar not null,
    metadata json not null,
    created_at timestamp not null,
    next_item bigint not null default 0,
    primary key (user_id, id)
);

create table core.conversation_items (
    id varchar not null,
    user_id varchar not null,
    conversation_id varchar not null,
    position bigint not null,
    item json not null,
    created_at timestamp not null,
    primary key (user_id, id)
);

-- input and output are Responses items; a response that goes on from another is read through previous_id.
create table core.responses (
    id varchar not null,
    user_id varchar not null,
    previous_id varchar,
    conversation_id varchar,
    input json not null,
    output json not null,
    response json not null,
    created_at timestamp not null,
    primary key (user_id, id)
);
