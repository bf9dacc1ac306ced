-- Files with their bytes in parts of at most 1 MiB, and vector stores with the passages of their files.

create table core.files (
    id text not null,
    user_id text not null,
    filename text not null,
    bytes bigint not null,
    content_type text not null,
    purpose text not null,
    sha256 text not null,
    status text not null,
    created_at timestamp not null,
    expires_at timestamp,
    primary key (user_id, id)
);

-- owner_id: a file, or a part of an upload that is not yet a file.
create table core.file_parts (
    user_id text not null,
    owner_id text not null,
    part_no bigint not null,
    data bytea not null
);

create table core.uploads (
    id text not null,
    user_id text not null,
    filename text not null,
    bytes bigint not null,
    content_type text not null,
    purpose text not null,
    status text not null,
    part_ids json not null,
    bytes_uploaded bigint not null,
    file_id text,
    created_at timestamp not null,
    expires_at timestamp not null,
    primary key (user_id, id)
);

create table core.upload_parts (
    id text not null,
    user_id text not null,
    upload_id text not null,
    bytes bigint not null,
    created_at timestamp not null,
    primary key (user_id, id)
);

create table core.vector_stores (
    id text not null,
    user_id text not null,
    name text not null,
    embedding_model text not null,
    metadata json not null,
    expires_after_days bigint,
    created_at timestamp not null,
    last_active_at timestamp not null,
    primary key (user_id, id)
);

create table core.vector_store_files (
    id text not null,
    user_id text not null,
    vector_store_id text not null,
    file_id text not null,
    filename text not null,
    status text not null,
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
    user_id text not null,
    vector_store_id text not null,
    file_id text not null,
    position bigint not null,
    content text not null,
    words text not null,
    embedding real[] not null
);

create index on core.file_parts (user_id, owner_id, part_no);
create index on core.upload_parts (user_id, upload_id);
create index on core.vector_store_files (user_id, vector_store_id);
create index on core.chunks (user_id, vector_store_id, file_id);

-- Cosine similarity: by pgvector where the server has it, else by plain SQL, some forty times slower.
do $$
begin
    create extension if not exists vector with schema core;
exception when others then
    raise notice 'pgvector is not used: %', sqlerrm;
end $$;

create function core.plain_cosine(a real[], b real[]) returns double precision language sql immutable parallel safe
return (select sum(x * y) / nullif(sqrt(sum(x * x)) * sqrt(sum(y * y)), 0) from unnest(a, b) as pair(x, y));

do $$
declare
    place text := (select nspname from pg_extension join pg_namespace n on n.oid = extnamespace where extname = 'vector');
    body text := 'core.plain_cosine(a, b)';
begin
    if place is not null then
        body := format('1 - (a::%1$I.vector operator(%1$I.<=>) b::%1$I.vector)', place);
    end if;
    execute 'create function core.cosine(a real[], b real[]) returns double precision language sql immutable parallel safe '
        'return ' || body;
end $$;
