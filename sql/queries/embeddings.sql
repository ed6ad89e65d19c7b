-- name: insert_model^
insert into rag.embedding_model (slug, source, base_url, query_prompt, document_prompt, normalise, weights_sha256)
values (:slug, :source, :base_url, :query_prompt, :document_prompt, :normalise, :weights_sha256)
on conflict (slug) do nothing
returning id;

-- name: read_model^
select id, slug, source, base_url, query_prompt, document_prompt, normalise, weights_sha256, max_tokens,
       dimension, fingerprint, canaries, space_id, state, reason, probe, checked_at, drift
from rag.embedding_model
where slug = :slug;

-- name: read_model_by_id^
select id, slug, source, base_url, query_prompt, document_prompt, normalise, weights_sha256, max_tokens,
       dimension, fingerprint, canaries, space_id, state, reason, probe, checked_at, drift
from rag.embedding_model
where id = :id;

-- name: list_models
select id, slug, source, base_url, query_prompt, document_prompt, normalise, weights_sha256, max_tokens,
       dimension, fingerprint, canaries, space_id, state, reason, probe, checked_at, drift
from rag.embedding_model
order by id;

-- name: record_probe!
update rag.embedding_model
set state = 'probed', reason = null, max_tokens = :max_tokens, dimension = :dimension,
    fingerprint = :fingerprint, canaries = :canaries, space_id = :space_id, probe = :probe
where id = :id;

-- name: refuse_model!
update rag.embedding_model set state = 'refused', reason = :reason where id = :id;

-- name: missing_chunks
-- The work: chunks of current versions without a vector in this space, and not refused by it.
select c.id, c.bucket, c.token_count
from (
    select distinct vc.chunk_id
    from rag.document d
    join rag.version_chunk vc on vc.version_id = d.current_version_id and vc.chunker_id = :chunker_id
    where not exists (select from rag.embedding e where e.space_id = :space_id and e.chunk_id = vc.chunk_id)
      and not exists (select from rag.embedding_failure f where f.space_id = :space_id and f.chunk_id = vc.chunk_id)
) w
join rag.chunk c on c.id = w.chunk_id
where :buckets::smallint[] is null or c.bucket = any(:buckets::smallint[]);

-- name: missing_changed_chunks
-- The same among the documents that some generation waits for: costs what the change costs.
select c.id, c.bucket, c.token_count
from (
    select distinct vc.chunk_id
    from (select distinct document_id from rag.pending_change) p
    join rag.document d on d.id = p.document_id
    join rag.version_chunk vc on vc.version_id = d.current_version_id and vc.chunker_id = :chunker_id
    where not exists (select from rag.embedding e where e.space_id = :space_id and e.chunk_id = vc.chunk_id)
      and not exists (select from rag.embedding_failure f where f.space_id = :space_id and f.chunk_id = vc.chunk_id)
) w
join rag.chunk c on c.id = w.chunk_id
where :buckets::smallint[] is null or c.bucket = any(:buckets::smallint[]);

-- name: read_chunk_texts
-- The texts still to embed among some chunks: another worker may have been faster.
select c.id, c.title, c.heading_path, c.text, c.token_count
from rag.chunk c
where c.id = any(:chunk_ids::bigint[])
  and not exists (select from rag.embedding e where e.space_id = :space_id and e.chunk_id = c.id)
order by c.token_count desc, c.id;

-- name: try_lock_bucket$
select pg_try_advisory_lock(:space_id, :bucket);

-- name: unlock_bucket$
select pg_advisory_unlock(:space_id, :bucket);

-- name: create_staging#
create temporary table staged_embedding (chunk_id bigint not null, vector vector not null) on commit drop;

-- name: land_embeddings!
insert into rag.embedding (space_id, chunk_id, vector)
select :space_id, chunk_id, vector from staged_embedding order by chunk_id
on conflict do nothing;

-- name: record_embedding_failure!
insert into rag.embedding_failure (space_id, chunk_id, reason)
values (:space_id, :chunk_id, :reason)
on conflict (space_id, chunk_id) do update set reason = excluded.reason, failed_at = clock_timestamp();

-- name: count_embeddings
select space_id, count(*) from rag.embedding group by space_id;

-- name: coverage^
-- Chunks of current versions: all, with a vector, refused by the model.
select count(*) as chunks,
       count(e.chunk_id) as embedded,
       count(f.chunk_id) filter (where e.chunk_id is null) as refused
from (
    select distinct vc.chunk_id
    from rag.document d
    join rag.version_chunk vc on vc.version_id = d.current_version_id and vc.chunker_id = :chunker_id
) w
left join rag.embedding e on e.space_id = :space_id and e.chunk_id = w.chunk_id
left join rag.embedding_failure f on f.space_id = :space_id and f.chunk_id = w.chunk_id;

-- name: gaps^
-- Chunks of current versions with neither a vector nor a refusal: of documents that are not in the generation's
-- queue, and of documents that are.
select count(*) filter (where not queued), count(*) filter (where queued)
from (
    select vc.chunk_id, bool_and(exists (
        select from rag.pending_change p where p.generation_id = :generation_id and p.document_id = d.id)) as queued
    from rag.document d
    join rag.version_chunk vc on vc.version_id = d.current_version_id and vc.chunker_id = :chunker_id
    where not exists (select from rag.embedding e where e.space_id = :space_id and e.chunk_id = vc.chunk_id)
      and not exists (select from rag.embedding_failure f where f.space_id = :space_id and f.chunk_id = vc.chunk_id)
    group by vc.chunk_id
) w;

-- name: list_embedding_failures
select m.slug, f.chunk_id, f.reason, f.failed_at
from rag.embedding_failure f
join rag.embedding_model m on m.id = f.space_id
order by m.slug, f.chunk_id;

-- name: set_paused!
update rag.embedding_model
set probe = case when :reason::text is null then probe - 'paused'
                 else probe || jsonb_build_object('paused', :reason::text) end
where id = :id and (:reason::text is not null or probe ? 'paused');

-- name: set_drift!
-- What a check of the model found: null is nothing.
update rag.embedding_model set checked_at = clock_timestamp(), drift = :drift where id = :id;
