-- Tables with PARTITION BY RANGE over one timestamp column get one partition a day. Rows further back or ahead than the days asked for
-- live in the default partition; when their day is made, they move to it.
create or replace function core.partition_name(parent regclass, day date) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
    select format('%I.%I', n.nspname, c.relname || to_char(day, '"_"YYYYMMDD'))
    from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = parent
$$;

create or replace view core.day_partitioned with (security_invoker = true) as
    select c.oid::regclass as parent, c.relname::text as name, a.attname::text as col
    from pg_catalog.pg_partitioned_table p
    join pg_catalog.pg_class c on c.oid = p.partrelid
    join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum = p.partattrs[0]
    where c.relnamespace = 'core'::regnamespace and p.partstrat = 'r' and p.partnatts = 1;

create or replace function core.make_partition(parent regclass, col text, day date) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    made text := core.partition_name(parent, day);
    rest text := format('%s_rest', parent);
    next_day date := day + 1;
    keys text := (select string_agg(format('%I', attname), ', ') from pg_attribute
                  where attrelid = parent and attnum > 0 and not attisdropped and attgenerated = '');
begin
    execute format('create table %s (like %s including defaults including constraints including generated including storage '
        'including compression)', made, parent);
    execute format('with moved as (delete from %s where %I >= %L and %2$I < %4$L returning %5$s) '
        'insert into %6$s (%5$s) select %5$s from moved', rest, col, day, next_day, keys, made);
    execute format('alter table %s attach partition %s for values from (%L) to (%L)', parent, made, day, next_day);
    perform core.protect_table(made::regclass);
    if parent = 'core.spans_raw'::regclass then
        perform core.allow_owner(made::regclass, 'select');
    end if;
end $$;

-- Makes the partitions of the given days that are missing, in every partitioned table; says how many it made. At most 800 days a call.
create or replace function core.ensure_partitions(first_day date, last_day date) returns int
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    t record;
    day date;
    made int := 0;
begin
    if last_day - first_day > 800 then
        raise exception 'too many days asked for: % to %', first_day, last_day;
    end if;
    -- One at a time; the number is arbitrary, and the same in every process.
    perform pg_advisory_xact_lock(7305441);
    for t in select * from core.day_partitioned loop
        if to_regclass(format('%s_rest', t.parent)) is null then
            execute format('create table %s_rest partition of %1$s default', t.parent);
            perform core.protect_table(format('%s_rest', t.parent)::regclass);
            perform core.allow_owner(format('%s_rest', t.parent)::regclass, 'all');
        end if;
        for day in select generate_series(first_day, last_day, interval '1 day')::date loop
            if to_regclass(core.partition_name(t.parent, day)) is null then
                perform core.make_partition(t.parent, t.col, day);
                made := made + 1;
            end if;
        end loop;
    end loop;
    return made;
end $$;

-- Drops the partitions of whole days before the given one; says which. Rows in the default partition are not touched.
create or replace function core.drop_days_before(day date) returns setof text
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    p record;
begin
    for p in
        select c.oid::regclass as part, c.relname::text as name, d.parent
        from core.day_partitioned d join pg_inherits i on i.inhparent = d.parent join pg_class c on c.oid = i.inhrelid
        where c.relname ~ '_\d{8}$' and to_date(right(c.relname, 8), 'YYYYMMDD') < day
    loop
        execute format('drop table %s', p.part);
        return next p.name;
    end loop;
end $$;

revoke all on function core.partition_name(regclass, date), core.make_partition(regclass, text, date),
    core.ensure_partitions(date, date), core.drop_days_before(date) from public;
do $$ begin
    execute format('grant execute on function core.ensure_partitions(date, date) to %I, %I', core.login('app'), core.login('system'));
    execute format('grant execute on function core.drop_days_before(date) to %I', core.login('system'));
end $$;
