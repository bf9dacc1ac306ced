-- Who may see which row. Run by the owner of the lab after every migration; running it again changes nothing.
--
-- Four roles. The owner (the user of the lab's URL) migrates, and is used for nothing else. The application logs in as `app`, which owns
-- nothing and bypasses nothing; SQL typed by people runs as `sql`, which may only read what the views need; the lab's own housekeeping
-- over all users' rows (dead processes, retention) runs as `system`. Their names and passwords are in secret.logins, which only the
-- owner can read.
--
-- Whose rows a transaction sees is said by the setting lab.token, which anybody may set, and which therefore is signed:
-- HMAC-SHA256 over "<expiry in Unix seconds>.<user id>", in 64 hexadecimal digits before it. The key is in secret.token_key.

create schema if not exists main;
create schema if not exists secret;
revoke all on schema secret from public;

create table if not exists secret.token_key (inner_pad bytea not null, outer_pad bytea not null, key bytea not null);

create or replace function core.current_user_id() returns text
language plpgsql stable parallel safe security definer set search_path = pg_catalog, pg_temp as $$
declare
    token text := current_setting('lab.token', true);
    signed text := substr(token, 65);
    expiry text := split_part(signed, '.', 1);
    k secret.token_key;
begin
    if token is null or token = '' then
        return null;
    end if;
    select * into strict k from secret.token_key;
    if encode(sha256(k.outer_pad || sha256(k.inner_pad || convert_to(signed, 'UTF8'))), 'hex') is distinct from left(token, 64)
    then
        raise insufficient_privilege using message = 'lab.token is not signed by this lab';
    end if;
    if expiry::bigint < extract(epoch from clock_timestamp()) then
        raise insufficient_privilege using message = 'lab.token has expired';
    end if;
    return substr(signed, length(expiry) + 2);
end $$;

revoke all on function core.current_user_id() from public;

-- The column that says whose a row is. Tables of the machine have none, and hold nothing of a user's.
create or replace function core.owner_column(target regclass) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
    select case when target = 'core.users'::regclass then 'id' else (
        select attname::text from pg_attribute where attrelid = target and attname = 'user_id' and not attisdropped
    ) end
$$;

create or replace function core.login(wanted text) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
    select role from secret.logins where purpose = wanted
$$;

-- Puts one table under row-level security and gives the roles what they need. A table without user_id is refused unless it is named here.
create or replace function core.protect_table(target regclass) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    col text := core.owner_column(target);
    app text := core.login('app');
    sys text := core.login('system');
    -- A partition is reached through its parent only: same policies, no grants.
    is_partition boolean := (select relispartition from pg_class where oid = target);
begin
    if col is null then
        if target::text not in ('core.schema_migrations', 'core.processes') then
            raise exception 'table % has no user_id column: no row may be without an owner', target;
        end if;
        execute format('grant select on %s to %I, %I', target, app, sys);
        if target::text = 'core.processes' then
            execute format('grant insert, update, delete on %s to %I, %I', target, app, sys);
        end if;
        return;
    end if;
    execute format('alter table %s enable row level security', target);
    execute format('alter table %s force row level security', target);
    execute format('drop policy if exists own_rows on %s', target);
    execute format('drop policy if exists housekeeping on %s', target);
    execute format(
        'create policy own_rows on %s using (%2$I = (select core.current_user_id())) '
        'with check (%2$I = (select core.current_user_id()))', target, col);
    execute format('create policy housekeeping on %s to %I using (true) with check (true)', target, sys);
    if not is_partition then
        execute format('grant select, insert, update, delete on %s to %I, %I', target, app, sys);
    end if;
end $$;

-- Everything in schema core, and for typed SQL exactly the views of schema main and the tables they read.
create or replace function core.protect_all() returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    target regclass;
    typed text := core.login('sql');
    everyone text := format('%I, %I, %I', core.login('app'), core.login('sql'), core.login('system'));
begin
    execute format('grant usage on schema core, main to %s', everyone);
    execute format('grant execute on function core.current_user_id() to %s', everyone);
    for target in select oid from pg_class where relnamespace = 'core'::regnamespace and relkind in ('r', 'p') loop
        perform core.protect_table(target);
    end loop;
    for target in select oid from pg_class where relnamespace = 'main'::regnamespace and relkind in ('r', 'p', 'm', 'f') loop
        raise exception '% is not a view: schema main holds views only', target;
    end loop;
    for target in select oid from pg_class where relnamespace in ('main'::regnamespace, 'core'::regnamespace) and relkind = 'v' loop
        execute format('alter view %s set (security_invoker = true)', target);
        execute format('grant select on %s to %s', target, everyone);
    end loop;
    for target in
        select distinct c.oid from pg_class c
        join pg_depend d on d.refclassid = 'pg_class'::regclass and d.refobjid = c.oid and d.classid = 'pg_rewrite'::regclass
        where c.relnamespace = 'core'::regnamespace and c.relkind in ('r', 'p')
    loop
        execute format('grant select on %s to %I', target, typed);
    end loop;
end $$;

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

revoke all on function core.owner_column(regclass), core.login(text), core.protect_table(regclass), core.protect_all(),
    core.partition_name(regclass, date), core.make_partition(regclass, text, date), core.ensure_partitions(date, date) from public;
do $$ begin
    execute format('grant execute on function core.ensure_partitions(date, date) to %I, %I', core.login('app'), core.login('system'));
end $$;
select core.protect_all();
