-- Who may see which row. These files are run by the owner of the lab after every migration; running them again changes nothing.
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

-- The few things the owner's own functions do with rows: read spans for the word search, which asks for its caller's only, and move
-- rows out of a default partition.
create or replace function core.allow_owner(target regclass, what text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    execute format('drop policy if exists owner_functions on %s', target);
    execute format('create policy owner_functions on %s for %s to current_user using (true)', target, what);
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

revoke all on function core.owner_column(regclass), core.login(text), core.protect_table(regclass), core.protect_all(), core.allow_owner(regclass, text)
    from public;
