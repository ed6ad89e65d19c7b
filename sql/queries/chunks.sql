-- name: ensure_chunker$
-- The number of a chunker recipe; the same recipe has one number for ever.
with created as (
    insert into rag.chunker (fingerprint, recipe) values (:fingerprint, :recipe)
    on conflict (fingerprint) do nothing
    returning id
)
select id from created
union all
select id from rag.chunker where fingerprint = :fingerprint
limit 1;

-- name: read_chunker$
select recipe from rag.chunker where id = :chunker_id;

-- name: missing_versions
-- Current versions this chunker has not cut yet: all of them.
select v.id, length(v.text) as characters
from rag.document d
join rag.document_version v on v.id = d.current_version_id
where not exists (select from rag.version_chunking c where c.version_id = v.id and c.chunker_id = :chunker_id)
order by v.id;

-- name: missing_changed_versions
-- The same among the documents that some generation waits for: costs what the change costs.
select v.id, length(v.text) as characters
from (select distinct document_id from rag.pending_change) p
join rag.document d on d.id = p.document_id
join rag.document_version v on v.id = d.current_version_id
where not exists (select from rag.version_chunking c where c.version_id = v.id and c.chunker_id = :chunker_id)
order by v.id;

-- name: read_texts
select v.id, d.tenant, v.title, v.text
from rag.document_version v
join rag.document d on d.id = v.document_id
where v.id = any(:version_ids::bigint[])
order by v.id;

-- name: create_incoming_chunks#
create temporary table incoming_chunk (
    version_id     bigint not null,
    ordinal        int not null,
    tenant         text not null,
    content_sha256 bytea not null,
    bucket         smallint not null,
    title          text not null,
    heading_path   text[] not null,
    text           text not null,
    token_count    int not null,
    start_offset   int not null,
    end_offset     int not null
) on commit drop;

-- name: claim_versions
-- A version is cut by whoever writes this row; a second writer waits here and then finds nothing to do.
insert into rag.version_chunking (version_id, chunker_id, chunk_count)
select version_id, :chunker_id, chunk_count
from unnest(:version_ids::bigint[], :counts::int[]) as t(version_id, chunk_count)
order by version_id
on conflict do nothing
returning version_id;

-- name: insert_chunks!
insert into rag.chunk (tenant, content_sha256, bucket, title, heading_path, text, token_count)
select tenant, content_sha256, bucket, title, heading_path, text, token_count
from (
    select distinct on (tenant, content_sha256) *
    from incoming_chunk
    where version_id = any(:version_ids::bigint[])
    order by tenant, content_sha256, version_id, ordinal
) i
where not exists (select from rag.chunk c where c.tenant = i.tenant and c.content_sha256 = i.content_sha256)
order by tenant, content_sha256
on conflict do nothing;

-- name: insert_version_chunks!
insert into rag.version_chunk (version_id, chunker_id, ordinal, chunk_id, start_offset, end_offset, heading_path, own_text)
select i.version_id, :chunker_id, i.ordinal, c.id, i.start_offset, i.end_offset, i.heading_path,
       case when i.text <> c.text then i.text end
from incoming_chunk i
join rag.chunk c on c.tenant = i.tenant and c.content_sha256 = i.content_sha256
where i.version_id = any(:version_ids::bigint[]);

-- name: count_chunks$
select count(*) from rag.chunk;
