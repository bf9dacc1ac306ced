-- Searching spans by word. A policy's condition comes before any of a query that might leak a row, and `@@` might, for all Postgres knows:
-- under row-level security no word index is ever used. So the search is a function of the owner's, who has a policy of their own on these
-- tables, and which itself asks for the caller's rows only.

do $$ declare target regclass; begin
    perform core.allow_owner('core.spans_raw', 'select');
    perform core.allow_owner('core.message_bodies', 'select');
    for target in
        select inhrelid from pg_inherits
        where inhparent = 'core.spans_raw'::regclass and inhrelid is distinct from to_regclass('core.spans_raw_rest')
    loop
        perform core.allow_owner(target, 'select');
    end loop;
end $$;

-- The newest finished spans that match, newest first. `query` is a tsquery, `patterns` the same words as
-- regular expressions, and `phrases`, in lower case, must occur as they are. A span whose input is shared matches when one of its messages
-- does. Days with an index answer from it; the others, today above all, are read, where a pattern is ten times faster than words_of().
drop function if exists core.search_spans(text, text[], text[], int);
create function core.search_spans(query text, patterns text[], phrases text[], at_most int)
returns table (trace_id text, span_id text, started_at timestamp)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
    who text := core.current_user_id();
    wanted tsquery := to_tsquery('pg_catalog.simple', query);
    hashes text[];
    p record;
    found int;
    missing int := at_most;
    everything constant text := 'concat_ws(chr(10), name, error, input, output)';
    holds text := 'true';
begin
    if who is null or numnode(wanted) = 0 then
        return;
    end if;
    if cardinality(phrases) > 0 then
        holds := format('not exists (select 1 from unnest($5) piece where strpos(lower(%s), piece) = 0)', everything);
    end if;
    hashes := array(
        select m.hash from core.message_bodies m
        where m.user_id = who and core.body_words(m.body) @@ wanted
          and not exists (select 1 from unnest(phrases) piece where strpos(lower(m.body), piece) = 0));
    for p in
        select c.oid::regclass as part, to_regclass(format('core.%I', c.relname || '_words')) is not null as indexed
        from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'core.spans_raw'::regclass
        order by case when c.relname ~ '_\d{8}$' then c.relname end desc nulls last
    loop
        return query execute
            format('select trace_id, span_id, started_at from (select trace_id, span_id, started_at from %s where user_id = $1 and ', p.part) ||
            case when p.indexed then 'core.span_words(name, error, input, output) @@ $2' else everything || ' ~* all ($6)' end ||
            ' and ' || holds ||
            case when cardinality(hashes) > 0 then
                format(' union select trace_id, span_id, started_at from %s where user_id = $1 and input_refs is not null '
                       'and string_to_array(input_refs, '' '') && $4', p.part)
            else '' end || ') hits order by started_at desc limit $3'
        using who, wanted, missing, hashes, phrases, patterns;
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
    perform pg_advisory_xact_lock(7305443);  -- one process at a time; the number is arbitrary
    for p in
        select c.oid::regclass as part, c.relname::text as name
        from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'core.spans_raw'::regclass and c.relname ~ '_\d{8}$'
          and to_date(right(c.relname, 8), 'YYYYMMDD') < (now() at time zone 'UTC')::date
          and to_regclass(format('core.%I', c.relname || '_words')) is null
        order by c.relname desc
        limit at_most
    loop
        execute format('create index %I on %s using gin (string_to_array(input_refs, '' '')) where input_refs is not null',
            p.name || '_refs', p.part);
        execute format('create index %I on %s using gin (core.span_words(name, error, input, output))', p.name || '_words', p.part);
        -- Statistics of either would have every row's words taken again, by each ANALYZE, for nothing.
        execute format('alter index core.%I alter column 1 set statistics 0', p.name || '_refs');
        execute format('alter index core.%I alter column 1 set statistics 0', p.name || '_words');
        done := done + 1;
    end loop;
    return done;
end $$;

revoke all on function core.search_spans(text, text[], text[], int), core.index_words(int)
    from public;
do $$ begin
    execute format('grant execute on function core.search_spans(text, text[], text[], int) to %I', core.login('app'));
    execute format('grant execute on function core.index_words(int) to %I', core.login('system'));
end $$;
