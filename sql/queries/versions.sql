-- name: read_clock$
select clock_timestamp();

-- name: read_incoming_state
-- Which incoming rows are new content, now that their documents are locked.
select i.position, d.id, v.content_sha256, d.current_version_id,
       v.content_sha256 is distinct from i.content_sha256 as changed
from incoming i
join rag.document d on d.tenant = :tenant and d.source = :source and d.uri = i.uri
left join rag.document_version v on v.id = d.current_version_id;

-- name: close_versions!
update rag.document_version
set valid_to = greatest(valid_from, :at)
where id = any(:version_ids::bigint[]);

-- name: insert_versions!
-- The next version of each document, and the document's pointer to it, in one statement.
with chosen as (
    select * from unnest(:positions::int[], :document_ids::bigint[]) as t(position, document_id)
), created as (
    insert into rag.document_version
        (document_id, ordinal, content_sha256, parser, media_type, title, text, metadata, valid_from)
    select c.document_id,
           1 + coalesce((select max(v.ordinal) from rag.document_version v where v.document_id = c.document_id), 0),
           i.content_sha256, i.parser, i.media_type, i.title, i.text, i.metadata, :at
    from chosen c
    join incoming i on i.position = c.position
    order by c.position
    returning id, document_id
)
update rag.document d
set current_version_id = created.id
from created
where d.id = created.document_id;

-- name: read_history
select v.ordinal, v.title, length(v.text) as characters, v.parser, v.media_type,
       encode(v.content_sha256, 'hex') as content_sha256, v.valid_from, v.valid_to
from rag.document_version v
where v.document_id = :document_id
order by v.ordinal;

-- name: read_version^
select ordinal, title, text, metadata, valid_from, valid_to
from rag.document_version
where document_id = :document_id and ordinal = :ordinal;

-- name: count_versions$
select count(*) from rag.document_version;
