-- What runs report beside their own numbers: samples to look at, and figures for the checks.

-- name: sample_documents
-- The documents that changed last.
select d.uri, d.source, v.ordinal, v.media_type, length(v.text) as characters, v.valid_from
from rag.document d
join rag.document_version v on v.id = d.current_version_id
order by v.id desc
limit :most;

-- name: sample_chunks
-- The chunks that were written last.
select c.id, c.title, c.heading_path, c.token_count, left(c.text, 120)
from rag.chunk c
order by c.id desc
limit :most;

-- name: sample_embeddings
-- Some vectors of a space, with the text they stand for.
select e.chunk_id, c.title, c.token_count, vector_dims(e.vector), vector_norm(e.vector), left(c.text, 80)
from rag.embedding e
join rag.chunk c on c.id = e.chunk_id
where e.space_id = :space_id and c.bucket = any(:buckets::smallint[])
order by e.chunk_id desc
limit :most;

-- name: vector_figures^
-- Vectors of a space: how many, how many of another dimension, shortest, longest, how many of no length.
select count(*),
       count(*) filter (where vector_dims(vector) <> :dimension),
       min(vector_norm(vector)),
       max(vector_norm(vector)),
       count(*) filter (where not vector_norm(vector) > 0)
from rag.embedding
where space_id = :space_id;

-- name: pending_chunks^
-- Chunks of the documents that a generation waits for: all, and those that have their vector already.
select count(*), count(e.chunk_id)
from (
    select distinct vc.chunk_id
    from (select distinct document_id from rag.pending_change where generation_id = :generation_id) p
    join rag.document d on d.id = p.document_id
    join rag.version_chunk vc on vc.version_id = d.current_version_id and vc.chunker_id = :chunker_id
) w
left join rag.embedding e on e.space_id = :space_id and e.chunk_id = w.chunk_id;

-- name: any_vector$
-- One vector of a space, as text: a query for looking at a plan.
select vector::text from rag.embedding where space_id = :space_id limit 1;
