-- Searching spans by word. A policy's condition comes before any of a query that might leak a row, and `@@` might, for all Postgres knows:
-- under row-level security no word index is ever used. So the search is a function of the owner's, who has a policy of their own on these
-- tables, and which itself asks for the caller's rows only.

do $$ declare target regclass; begin
    perform core.allow_owner('core.spans_raw', 'select');
    for target in
        select inhrelid from pg_inherits
        where inhparent = 'core.spans_raw'::regclass and inhrelid is distinct from to_regclass('core.spans_raw_rest')
    loop
        perform core.allow_owner(target, 'select');
    end loop;
end $$;

-- The newest spans that hold all of these words, newest first. Days with an index answer from it; the others, today above all, are read
-- through, where looking for the words as parts of the text is the cheap first test. `until` is not included.
create or replace function core.search_spans(words text, since timestamp, until timestamp, at_most int)
returns table (trace_id text, span_id text, started_at timestamp)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
    who text := core.current_user_id();
    wanted tsquery := plainto_tsquery('pg_catalog.simple', words);
    pieces text[] := array(
        select '%' || replace(replace(replace(word, '\', '\\'), '%', '\%'), '_', '\_') || '%'
        from unnest(tsvector_to_array(to_tsvector('pg_catalog.simple', words))) word);
    p record;
    found int;
    missing int := at_most;
begin
    if who is null or numnode(wanted) = 0 then
        return;
    end if;
    for p in
        select c.oid::regclass as part, to_regclass(format('core.%I', c.relname || '_words')) is not null as indexed
        from pg_inherits i join pg_class c on c.oid = i.inhrelid
        cross join lateral (select case when c.relname ~ '_\d{8}$' then to_date(right(c.relname, 8), 'YYYYMMDD') end as day) d
        where i.inhparent = 'core.spans_raw'::regclass
          and (d.day is null or ((until is null or d.day < until) and (since is null or d.day + 1 > since)))
        order by d.day desc nulls last
    loop
        return query execute format(
            'select trace_id, span_id, started_at from %s where user_id = $1 and core.span_words(name, error, input, output) @@ $2 '
            'and ($3 is null or started_at >= $3) and ($4 is null or started_at < $4) %s order by started_at desc limit $5',
            p.part,
            case when p.indexed then '' else
                'and lower(concat_ws('' '', name, error, left(input, 200000), left(output, 200000))) like all ($6)' end)
        using who, wanted, since, until, missing, pieces;
        get diagnostics found = row_count;
        missing := missing - found;
        exit when missing <= 0;
    end loop;
end $$;

-- Indexes the words of days that are over, newest first; at most so many days a call; says how many it did.
create or replace function core.index_words(at_most int) returns int
language plpgsql security definer set search_path = pg_catalog, pg_temp set maintenance_work_mem = '256MB' as $$
declare
    p record;
    done int := 0;
begin
    for p in
        select c.oid::regclass as part, c.relname::text as name
        from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'core.spans_raw'::regclass and c.relname ~ '_\d{8}$'
          and to_date(right(c.relname, 8), 'YYYYMMDD') < (now() at time zone 'UTC')::date
          and to_regclass(format('core.%I', c.relname || '_words')) is null
        order by c.relname desc
        limit at_most
    loop
        execute format('create index %I on %s using gin (core.span_words(name, error, input, output))', p.name || '_words', p.part);
        done := done + 1;
    end loop;
    return done;
end $$;

revoke all on function core.search_spans(text, timestamp, timestamp, int), core.index_words(int)
    from public;
do $$ begin
    execute format('grant execute on function core.search_spans(text, timestamp, timestamp, int) to %I', core.login('app'));
    execute format('grant execute on function core.index_words(int) to %I', core.login('system'));
end $$;
