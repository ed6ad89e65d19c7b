-- name: read_serving^
select generation_id, previous_id, changed_at from rag.serving;

-- name: insert_evaluation$
insert into rag.evaluation (generation_id, baseline_id, verdict, allows, reason, metrics)
values (:generation_id, :baseline_id, :verdict, :allows, :reason, :metrics)
returning id;

-- name: latest_evaluation^
select id, generation_id, baseline_id, verdict, allows, reason, metrics, created_at
from rag.evaluation
where generation_id = :generation_id
order by id desc
limit 1;

-- name: lock_pointer
-- One move of the pointer at a time.
select pg_advisory_xact_lock(7461003);

-- name: promotable^
-- The whole gate, read in the transaction that moves the pointer.
select g.state = any(array['ready', 'soaking']) as state_allows,
       coalesce((select i.indisvalid and i.indisready
                 from pg_index i
                 join pg_class c on c.oid = i.indexrelid
                 join pg_namespace n on n.oid = c.relnamespace
                 where n.nspname = 'rag' and c.relname = g.table_name || '_hnsw'), false) as index_valid,
       e.id, coalesce(e.allows, false) as verdict_allows, e.verdict, e.reason
from rag.generation g
left join lateral (
    select * from rag.evaluation e
    where e.generation_id = g.id
      and e.baseline_id is not distinct from (select s.generation_id from rag.serving s)
    order by e.id desc limit 1
) e on true
where g.id = :generation_id;

-- name: move_pointer!
insert into rag.serving (generation_id, previous_id) values (:generation_id, null)
on conflict (singleton) do update
set previous_id = rag.serving.generation_id, generation_id = excluded.generation_id,
    changed_at = clock_timestamp();

-- name: soak_previous!
update rag.generation set state = 'soaking', changed_at = clock_timestamp() where state = 'serving';

-- name: serve_generation!
update rag.generation set state = 'serving', changed_at = clock_timestamp() where id = :generation_id;

-- name: record_promotion!
insert into rag.promotion (action, generation_id, previous_id, evaluation_id, forced, actor, reason)
values (:action, :generation_id, :previous_id, :evaluation_id, :forced, :actor, :reason);

-- name: list_promotions
select id, action, generation_id, previous_id, evaluation_id, forced, actor, reason, promoted_at
from rag.promotion
order by id;

-- name: sample_chunks
-- A repeatable sample of served chunks to make known-item queries of: ordered by their hash, so by chance.
select c.id, c.title, c.heading_path, c.text
from rag.chunk c
where octet_length(c.text) >= 200
  and exists (
    select from rag.version_chunk vc
    join rag.generation_version gv on gv.version_id = vc.version_id and gv.generation_id = :generation_id
    where vc.chunk_id = c.id and vc.chunker_id = :chunker_id)
order by md5(encode(c.content_sha256, 'hex') || :seed)
limit :most;

-- name: list_holders
-- The documents that hold each of the chunks in what a generation serves.
select vc.chunk_id, array_agg(distinct gv.document_id)
from rag.version_chunk vc
join rag.generation_version gv on gv.version_id = vc.version_id and gv.generation_id = :generation_id
where vc.chunk_id = any(:chunk_ids::bigint[]) and vc.chunker_id = :chunker_id
group by vc.chunk_id;

-- name: list_served_chunks
select distinct vc.chunk_id
from rag.version_chunk vc
join rag.generation_version gv on gv.version_id = vc.version_id and gv.generation_id = :generation_id
where vc.chunk_id = any(:chunk_ids::bigint[]) and vc.chunker_id = :chunker_id;

-- name: list_golden_queries
select query_id, text, relevant from rag.golden_query where tenant = :tenant order by query_id;

-- name: upsert_golden_query!
insert into rag.golden_query (tenant, query_id, text, relevant)
values (:tenant, :query_id, :text, :relevant)
on conflict (tenant, query_id) do update set text = excluded.text, relevant = excluded.relevant;

-- name: insert_logged_queries*!
-- The model by its slug: null where words alone answered.
insert into rag.query_log
    (tenant, query, mode, k, filters, generation_id, model_id, chunk_ids, similarity, milliseconds, degraded)
values (:tenant, :query, :mode, :k, :filters, :generation_id,
        (select id from rag.embedding_model where slug = :embedded_by),
        :chunk_ids, :similarity, :milliseconds, :degraded);

-- name: forget_old_queries!
delete from rag.query_log where asked_at < clock_timestamp() - make_interval(secs => :days * 86400.0);

-- name: list_warming_queries
-- What was asked last; where less is logged, the beginnings of chunks from all over the corpus in its place.
(select tenant, query
 from (select distinct on (tenant, query) id, tenant, query
       from (select id, tenant, query from rag.query_log order by id desc limit 10 * :most) recent) asked
 order by id desc limit :most)
union all
(select c.tenant, left(c.text, 200)
 from (select (1 + floor(random() * t.last))::bigint as first
       from (select max(id) as last from rag.chunk) t, generate_series(1, :most)) r,
      lateral (select tenant, text from rag.chunk where id >= r.first order by id limit 1) c)
limit :most;

-- name: record_heartbeat!
insert into rag.serving_process (id, warm) values (:id, :warm::int[])
on conflict (id) do update set seen_at = clock_timestamp(), warm = excluded.warm;

-- name: forget_process!
delete from rag.serving_process where id = :id;

-- name: forget_dead_processes!
delete from rag.serving_process where seen_at < clock_timestamp() - make_interval(secs => :seconds);

-- name: list_cold_processes
-- Processes alive that do not have the generation ready yet.
select id from rag.serving_process
where seen_at > clock_timestamp() - make_interval(secs => :seconds) and not :generation_id = any(warm)
order by id;
