-- Payloads (input, output, arguments, result) are text, for most are no JSON. Typed SQL looks into those that are as it does in DuckDB:
-- arguments->>'place', input->0->>'content', input->>'$[0].content'. Of text that is no JSON every part is null.
create or replace function main.json_part(document text, key text) returns jsonb
language plpgsql immutable parallel restricted set search_path = pg_catalog, pg_temp as $$
begin
    return case when key like '$%' then jsonb_path_query_first(document::jsonb, key::jsonpath) else document::jsonb -> key end;
exception when data_exception then
    return null;
end $$;

create or replace function main.json_part(document text, place int) returns jsonb
language plpgsql immutable parallel restricted set search_path = pg_catalog, pg_temp as $$
begin
    return document::jsonb -> place;
exception when data_exception then
    return null;
end $$;

create or replace function main.json_part_text(document text, key text) returns text
language sql immutable parallel restricted as $$ select main.json_part(document, key) #>> '{}' $$;

create or replace function main.json_part_text(document text, place int) returns text
language sql immutable parallel restricted as $$ select main.json_part(document, place) #>> '{}' $$;

do $$ begin
    if to_regoperator('main.->(text, text)') is null then
        create operator main.-> (leftarg = text, rightarg = text, function = main.json_part);
        create operator main.-> (leftarg = text, rightarg = int, function = main.json_part);
        create operator main.->> (leftarg = text, rightarg = text, function = main.json_part_text);
        create operator main.->> (leftarg = text, rightarg = int, function = main.json_part_text);
    end if;
end $$;
