-- What ChatKit announces before its bytes come, and what the OpenAI-compatible layer keeps.

create table core.chatkit_attachments (
    id text not null,
    user_id text not null,
    data json not null,
    created_at timestamp not null,
    primary key (user_id, id)
);

-- next_item hands out positions; it only grows, so that the order of a conversation is that of writing.
create table core.conversations (
    id text not null,
    user_id text not null,
    metadata json not null,
    created_at timestamp not null,
    next_item bigint not null default 0,
    primary key (user_id, id)
);

create table core.conversation_items (
    id text not null,
    user_id text not null,
    conversation_id text not null,
    position bigint not null,
    item json not null,
    created_at timestamp not null,
    primary key (user_id, id)
);

-- input and output are Responses items; a response that goes on from another is read through previous_id.
create table core.responses (
    id text not null,
    user_id text not null,
    previous_id text,
    conversation_id text,
    input json not null,
    output json not null,
    response json not null,
    created_at timestamp not null,
    primary key (user_id, id)
);
