-- Files with their bytes in parts of at most 1 MiB, and vector stores with the passages of their files.

create table core.files (
    id varchar not null,
    user_id varchar not null,
    filename varchar not null,
    bytes bigint not null,
    content_type varchar not null,
    purpose varchar not null,
    sha256 varchar not null,
    status varchar not null,
    created_at timestamp not null,
    expires_at timestamp,
    primary key (user_id, id)
);

-- owner_id: a file, or a part of an upload that is not yet a file.
create table core.file_parts (
    user_id varchar not null,
    owner_id varchar not null,
    part_no bigint not null,
    data blob not null
);

create table core.uploads (
    id varchar not null,
    user_id varchar not null,
    filename varchar not null,
    bytes bigint not null,
    content_type varchar not null,
    purpose varchar not null,
    status varchar not null,
    part_ids json not null,
    bytes_uploaded bigint not null,
    file_id varchar,
    created_at timestamp not null,
    expires_at timestamp not null,
    primary key (user_id, id)
);

create table core.upload_parts (
    id varchar not null,
    user_id varchar not null,
    upload_id varchar not null,
    bytes bigint not null,
    created_at timestamp not null,
    primary key (user_id, id)
);

create table core.vector_stores (
    id varchar not null,
    user_id varchar not null,
    name varchar not null,
    embedding_model varchar not null,
    metadata json not null,
    expires_after_days bigint,
    created_at timestamp not null,
    last_active_at timestamp not null,
    primary key (user_id, id)
);

create table core.vector_store_files (
    id varchar not null,
    user_id varchar not null,
    vector_store_id varchar not null,
    file_id varchar not null,
    filename varchar not null,
    status varchar not null,
    chunking_strategy json not null,
    last_error json,
    attributes json not null,
    n_chunks bigint not null,
    usage_bytes bigint not null,
    created_at timestamp not null,
    primary key (user_id, id)
);

-- words: the passage's words in lower case without accents, each after one space, for the keyword half of a search.
create table core.chunks (
    user_id varchar not null,
    vector_store_id varchar not null,
    file_id varchar not null,
    position bigint not null,
    content varchar not null,
    words varchar not null,
    embedding float[] not null
);

create macro core.cosine(a, b) as list_cosine_similarity(a, b);
