-- name: lock_changes
-- Taken before a transaction that changes documents: see rag.change_lock in the first migration.
select pg_advisory_xact_lock_shared(rag.change_lock());

-- name: read_known_documents
-- What is known of one location of a source, to tell what changed.
select d.uri, d.id, v.content_sha256, d.stat_token
from rag.document d
left join rag.document_version v on v.id = d.current_version_id
where d.tenant = :tenant and d.source = :source and starts_with(d.uri, :prefix);

-- name: read_known_failures
-- Input that failed before: it is tried again only when its hash differs.
select uri, content_sha256, code, reason
from rag.document_failure
where tenant = :tenant and source = :source and starts_with(uri, :prefix);

-- name: create_incoming#
create temporary table incoming (
    position       int not null,
    uri            text not null,
    external_id    text,
    stat_token     text,
    content_sha256 bytea not null,
    parser         text not null,
    media_type     text not null,
    title          text not null,
    text           text not null,
    metadata       jsonb not null
) on commit drop;

-- name: upsert_incoming_documents!
-- In the order of their URIs, so that two writers of the same documents wait instead of deadlocking.
insert into rag.document (tenant, source, uri, external_id, stat_token)
select :tenant, :source, uri, external_id, stat_token from incoming order by uri
on conflict (tenant, source, uri) do update
set external_id = excluded.external_id, stat_token = excluded.stat_token, deleted_at = null;

-- name: forget_failures!
-- What has been read is no failure any more.
delete from rag.document_failure f
using incoming i
where f.tenant = :tenant and f.source = :source and f.uri = i.uri;

-- name: update_stat_tokens!
-- The file was touched but says the same: remember its new look, so that it is not read again.
update rag.document d
set stat_token = t.token
from unnest(:ids::bigint[], :tokens::text[]) as t(id, token)
where d.id = t.id;

-- name: record_failure!
insert into rag.document_failure (tenant, source, uri, content_sha256, code, reason)
values (:tenant, :source, :uri, :content_sha256, :code, :reason)
on conflict (tenant, source, uri) do update
set content_sha256 = excluded.content_sha256, code = excluded.code, reason = excluded.reason,
    failed_at = clock_timestamp();

-- name: forget_failures_of!
delete from rag.document_failure
where tenant = :tenant and source = :source and uri = any(:uris::text[]);

-- name: lock_documents
-- A statement of its own, in the writers' order: the deletion behind it sees what a writer it waited for wrote.
select id from rag.document where id = any(:ids::bigint[]) order by tenant, source, uri for update;

-- name: delete_documents
-- A deletion is a state: the document serves nothing, its versions stay.
with gone as (
    update rag.document set deleted_at = :at, current_version_id = null, stat_token = null
    where id = any(:ids::bigint[]) and deleted_at is null
    returning id
), closed as (
    update rag.document_version v set valid_to = greatest(v.valid_from, :at)
    from gone where v.document_id = gone.id and v.valid_to is null
)
select id from gone;

-- name: register_source!
insert into rag.source (tenant, name, location, kind, include, prune, token, read_at)
values (:tenant, :name, :location, :kind, :include, :prune, :token, clock_timestamp())
on conflict (tenant, name, location) do update
set kind = excluded.kind, include = excluded.include, prune = excluded.prune, token = excluded.token, read_at = excluded.read_at;

-- name: forget_other_folders!
-- A source that is now read from another folder is not read from the old one any more.
delete from rag.source
where tenant = :tenant and name = :name and kind = 'folder' and location <> all(:locations::text[]);

-- name: list_sources
select id, tenant, name, location, include, prune, token from rag.source order by id;

-- name: list_failures
select tenant, source, uri, code, reason, failed_at from rag.document_failure order by tenant, source, uri;

-- name: find_documents
-- A document by its URI, its external id or its number.
select id, tenant, source, uri, external_id, deleted_at
from rag.document
where uri = :name or external_id = :name or id::text = :name
order by deleted_at nulls first, id;

-- name: count_documents^
select count(*) filter (where deleted_at is null and current_version_id is not null) as live,
       count(*) filter (where deleted_at is not null) as deleted
from rag.document;
