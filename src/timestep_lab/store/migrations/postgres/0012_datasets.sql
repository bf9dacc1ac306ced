-- Data sets by name. One row a version, which never changes; one row a case of it.

create table core.dataset_versions (
    id text not null,
    user_id text not null,
    name text not null,
    version bigint not null,
    hash text not null,
    n_cases bigint not null,
    prompts json not null,
    tags json not null,
    metadata json not null,
    created_at timestamp not null,
    primary key (user_id, id),
    unique (user_id, name, version)
);

create table core.dataset_cases (
    user_id text not null,
    dataset_id text not null,
    position bigint not null,
    case_id text not null,
    input text not null,
    messages json not null,
    expected json,
    vars json not null,
    assertions json not null,
    metadata json not null
);

create index on core.dataset_cases (user_id, dataset_id);

create view main.datasets as
select v.name, v.version, c.position, c.case_id, c.input, c.expected, c.vars, c.metadata, v.tags, v.created_at, v.id as dataset_id
from core.dataset_versions v
join core.dataset_cases c on c.user_id = v.user_id and c.dataset_id = v.id;
