select core.protect_all();

-- What acts on other sessions, waits, locks, or runs SQL given as text is not for SQL that people type. By default everybody may execute it, so it
-- is taken from everybody and given to the lab's other roles. Only who owns these functions (a superuser) can; elsewhere the check of the text remains.
do $$
declare
    target regprocedure;
    others text := format('%I, %I, %I', core.login('app'), core.login('system'), current_user);
begin
    if not (select rolsuper from pg_roles where rolname = current_user) then
        return;
    end if;
    -- A large result waits in temporary files, which could fill the disk of the server. Only a superuser can set this, and no query can lift it.
    if not exists (select from pg_roles where rolname = core.login('sql') and 'temp_file_limit=1GB' = any(rolconfig)) then
        execute format('alter role %I set temp_file_limit = %L', core.login('sql'), '1GB');
    end if;
    for target in
        select oid from pg_proc where pronamespace = 'pg_catalog'::regnamespace and (
            proname ~ '^(pg_(try_)?advisory_|pg_sleep|pg_stat_get_|lo_|txid_|pg_export_snapshot|pg_notify)'
            or proname ~ '_to_xml(_and_xmlschema|schema)?$'
            or proname in ('pg_cancel_backend', 'pg_terminate_backend', 'ts_stat', 'pg_listening_channels', 'pg_lock_status', 'pg_blocking_pids')
            or oid = 'ts_rewrite(tsquery, text)'::regprocedure
        ) and has_function_privilege('public', oid, 'execute')
    loop
        execute format('revoke execute on function %s from public', target);
        execute format('grant execute on function %s to %s', target, others);
    end loop;
    revoke select on pg_catalog.pg_stat_activity from public;
end $$;
