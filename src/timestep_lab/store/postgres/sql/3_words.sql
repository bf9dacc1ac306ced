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

-- The newest finished spans that match, newest first. `query` is a tsquery, `patterns` the same words as regular expressions, and
-- `phrases`, in lower case, must occur as they are. A span whose input is shared matches when one of its messages does. Days that are over
-- answer from their index, and so do the hours of today that are; only what came since is read, where patterns are faster than words_of().
drop function if exists core.search_spans(text, text[], text[], int);
create function core.search_spans(query text, patterns text[], phrases text[], at_most int)
returns table (trace_id text, span_id text, started_at timestamp)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
    who text := core.current_user_id();
    wanted tsquery := to_tsquery('pg_catalog.simple', query);
    everything constant text := 'concat_ws(chr(10), name, error, input, output, core.event_text(attributes))';
    by_index constant text := 'core.span_words(name, error, input, output, attributes) @@ $2';
    by_reading constant text := everything || ' ~* all ($6)';
    -- Lower case by the rules of "C" is three times faster, and enough for phrases without other letters.
    phrases_hold text := case when cardinality(phrases) = 0 then '' else
        format(' and not exists (select 1 from unnest($5) piece where strpos(lower(%s%s), piece) = 0)', everything,
               case when phrases::text ~ '[^[:ascii:]]' then '' else ' collate "C"' end) end;
    hashes text[];
    conditions text[];
    branches text;
    p record;
    found int;
    missing int := at_most;
begin
    if who is null or numnode(wanted) = 0 then
        return;
    end if;
    hashes := array(
        select m.hash from core.message_bodies m
        where m.user_id = who and core.body_words(m.body) @@ wanted
          and not exists (select 1 from unnest(phrases) piece where strpos(lower(m.body), piece) = 0));
    for p in
        select c.oid::regclass as part, to_regclass(format('core.%I', c.relname || '_words')) is not null as indexed,
               case when c.relname ~ '_\d{8}$' then to_date(right(c.relname, 8), 'YYYYMMDD')::timestamp end as day,
               (select max(right(i.relname, 2)::int) + 1 from pg_class i
                where i.relnamespace = c.relnamespace and i.relname ~ format('^%s_words_\d\d$', c.relname)) as hours
        from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'core.spans_raw'::regclass
        order by 3 desc nulls last
    loop
        if p.indexed then
            conditions := array[by_index];
        elsif p.hours is null then
            conditions := array[by_reading];
        else
            conditions := array(
                select format('started_at >= %L and started_at < %L and %s',
                              p.day + make_interval(hours => h), p.day + make_interval(hours => h + 1), by_index)
                from generate_series(0, p.hours - 1) h
            ) || format('started_at >= %L and %s', p.day + make_interval(hours => p.hours), by_reading);
        end if;
        select string_agg(format('select trace_id, span_id, started_at from %s where user_id = $1 and %s%s', p.part, condition,
                                 phrases_hold), ' union all ') into branches from unnest(conditions) condition;
        if cardinality(hashes) > 0 then
            branches := branches || format(' union select trace_id, span_id, started_at from %s where user_id = $1 '
                'and input_refs is not null and string_to_array(input_refs, '' '') && $4', p.part);
        end if;
        return query execute format('select * from (%s) hits order by started_at desc limit $3', branches)
        using who, wanted, missing, hashes, phrases, patterns;
        get diagnostics found = row_count;
        missing := missing - found;
        exit when missing <= 0;
    end loop;
end $$;

create or replace function core.make_words_index(name text, of_table regclass, condition text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    execute format('create index %I on %s using gin (core.span_words(name, error, input, output, attributes)) %s', name, of_table, condition);
    -- Statistics would have every row's words taken again, by each ANALYZE, for nothing.
    execute format('alter index core.%I alter column 1 set statistics 0', name);
end $$;

-- Indexes the words of today's hours that are over, then of days that are over, newest first: at most so many days a call; says how many
-- it did. Whoever writes to such a day waits meanwhile, for half a second an hour of 1,500 spans.
create or replace function core.index_words(at_most int) returns int
language plpgsql security definer set search_path = pg_catalog, pg_temp set maintenance_work_mem = '256MB' as $$
declare
    moment timestamp := now() at time zone 'UTC';
    today text := 'spans_raw_' || to_char(moment, 'YYYYMMDD');
    p record;
    h int;
    old text;
    done int := 0;
begin
    perform pg_advisory_xact_lock(7305443);  -- one process at a time; the number is arbitrary
    for h in 0 .. extract(hour from moment - interval '2 minutes')::int - 1 loop
        if (moment - interval '2 minutes')::date = moment::date
            and to_regclass(format('core.%I', format('%s_words_%s', today, to_char(h, 'FM00')))) is null
        then
            perform core.make_words_index(format('%s_words_%s', today, to_char(h, 'FM00')), to_regclass('core.' || today), format(
                'where started_at >= %L and started_at < %L', moment::date + make_interval(hours => h),
                moment::date + make_interval(hours => h + 1)));
        end if;
    end loop;
    for p in
        select c.oid::regclass as part, c.relname::text as name
        from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'core.spans_raw'::regclass and c.relname ~ '_\d{8}$'
          and to_date(right(c.relname, 8), 'YYYYMMDD') < moment::date
          and to_regclass(format('core.%I', c.relname || '_words')) is null
        order by c.relname desc
        limit at_most
    loop
        execute format('create index if not exists %I on %s using gin (string_to_array(input_refs, '' '')) where input_refs is not null',
            p.name || '_refs', p.part);
        execute format('alter index core.%I alter column 1 set statistics 0', p.name || '_refs');
        perform core.make_words_index(p.name || '_words', p.part, '');
        for old in
            select relname from pg_class where relnamespace = 'core'::regnamespace and relname ~ format('^%s_words_\d\d$', p.name)
        loop
            execute format('drop index core.%I', old);
        end loop;
        done := done + 1;
    end loop;
    return done;
end $$;

revoke all on function core.search_spans(text, text[], text[], int), core.index_words(int),
    core.make_words_index(text, regclass, text) from public;
do $$ begin
    execute format('grant execute on function core.search_spans(text, text[], text[], int) to %I', core.login('app'));
    execute format('grant execute on function core.index_words(int) to %I', core.login('system'));
end $$;
