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

-- name: latest_comparison^
-- The newest verdict on one generation against a certain other one, or against none.
select id, generation_id, baseline_id, verdict, allows, reason, metrics, created_at
from rag.evaluation
where generation_id = :generation_id and baseline_id is not distinct from :baseline_id::int
order by id desc
limit 1;

-- name: insert_evaluation_queries*!
insert into rag.evaluation_query
    (evaluation_id, kind, query_id, query, candidate_ndcg_at_10, baseline_ndcg_at_10, candidate_recall_at_10,
     baseline_recall_at_10, candidate_reciprocal_rank, baseline_reciprocal_rank, overlap_at_10, candidate, baseline)
values (:evaluation_id, :kind, :query_id, :query, :candidate_ndcg_at_10, :baseline_ndcg_at_10, :candidate_recall_at_10,
        :baseline_recall_at_10, :candidate_reciprocal_rank, :baseline_reciprocal_rank, :overlap_at_10, :candidate,
        :baseline);

-- name: list_evaluation_queries
select kind, query_id, query, candidate_ndcg_at_10, baseline_ndcg_at_10, candidate_recall_at_10, baseline_recall_at_10,
       candidate_reciprocal_rank, baseline_reciprocal_rank, overlap_at_10, candidate, baseline
from rag.evaluation_query
where evaluation_id = :evaluation_id
order by kind, query_id;

-- name: list_documents_by_name
-- Those of the names that are documents of the tenant, by their own id or their URI.
select n from unnest(:names::text[]) as n
where exists (select from rag.document d where d.tenant = :tenant and d.deleted_at is null
              and (d.external_id = n or d.uri = n));

-- name: name_documents
select id, coalesce(external_id, uri) from rag.document where id = any(:document_ids::bigint[]);

-- name: sample_logged_searches
-- The searches asked last, each once, of those that vectors took part in.
select max(id), tenant, query, filters
from rag.query_log
where mode <> 'lexical'
group by tenant, query, filters
order by max(id) desc
limit :most;

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
-- A repeatable sample of served chunks to take sentences from, ordered by their hash, so by chance; of the documents
-- that hold one, the first.
select c.text, (
    select min(gv.document_id)
    from rag.version_chunk vc
    join rag.generation_version gv on gv.version_id = vc.version_id and gv.generation_id = :generation_id
    where vc.chunk_id = c.id and vc.chunker_id = :chunker_id) as document_id
from rag.chunk c
where octet_length(c.text) >= 200
  and exists (
    select from rag.version_chunk vc
    join rag.generation_version gv on gv.version_id = vc.version_id and gv.generation_id = :generation_id
    where vc.chunk_id = c.id and vc.chunker_id = :chunker_id)
order by md5(encode(c.content_sha256, 'hex') || :seed)
limit :most;

-- name: locate_sentences
-- The chunks that hold each sentence of a document, as a generation cuts it.
select distinct s.n - 1, c.id, c.title, c.heading_path, c.text
from unnest(:document_ids::bigint[], :sentences::text[]) with ordinality as s(document_id, sentence, n)
join rag.generation_version gv on gv.generation_id = :generation_id and gv.document_id = s.document_id
join rag.version_chunk vc on vc.version_id = gv.version_id and vc.chunker_id = :chunker_id
join rag.chunk c on c.id = vc.chunk_id
where strpos(c.text, s.sentence) > 0
order by 1, 2;

-- name: list_holders
-- The documents that hold each of the chunks in what a generation serves.
select vc.chunk_id, array_agg(distinct gv.document_id)
from rag.version_chunk vc
join rag.generation_version gv on gv.version_id = vc.version_id and gv.generation_id = :generation_id
where vc.chunk_id = any(:chunk_ids::bigint[]) and vc.chunker_id = :chunker_id
group by vc.chunk_id;

-- name: forget_old_queries!
delete from rag.query_log where asked_at < clock_timestamp() - make_interval(secs => :days * 86400);

-- name: list_logged_queries
-- Different queries that were asked for meaning: ordered by their hash, so by chance and the same ones tomorrow.
select query from (select distinct query from rag.query_log where mode <> 'lexical') q order by md5(query) limit :most;

-- name: list_filter_shares
-- Metadata values of the documents a generation serves, with the share of all documents that have each.
with served as materialized (
    select d.tenant, v.metadata
    from rag.generation_version gv
    join rag.document_version v on v.id = gv.version_id
    join rag.document d on d.id = gv.document_id
    where gv.generation_id = :generation_id and d.deleted_at is null
), counted as (
    select s.tenant, e.key, e.value #>> '{}' as value, count(*)::float8 / (select count(*) from served) as share
    from served s, jsonb_each(s.metadata) e
    where jsonb_typeof(e.value) in ('string', 'number', 'boolean') and length(e.value #>> '{}') between 1 and 200
    group by 1, 2, 3
)
select tenant, key, value, share from counted where share >= :least order by tenant, key, value;

-- name: insert_recall!
insert into rag.recall_measurement
    (generation_id, measured_at, scope, subject, ef_search, queries, recall_at_10, low, high, p95_ms)
values (:generation_id, now(), :scope, :subject, :ef_search, :queries, :recall_at_10, :low, :high, :p95_ms);

-- name: list_recall
select generation_id, slug, state, measured_at, scope, subject, ef_search, queries, recall_at_10, low, high, p95_ms
from (
    select r.id, r.generation_id, m.slug, g.state, r.measured_at, r.scope, r.subject, r.ef_search, r.queries,
           r.recall_at_10, r.low, r.high, r.p95_ms
    from rag.recall_measurement r
    join rag.generation g on g.id = r.generation_id
    join rag.embedding_model m on m.id = g.model_id
    where :generation_id::int is null or r.generation_id = :generation_id
    order by r.id desc
    limit :most
) newest
order by id;

-- name: latest_recall
select r.generation_id, m.slug, g.state, r.measured_at, r.scope, r.subject, r.ef_search, r.queries,
       r.recall_at_10, r.low, r.high, r.p95_ms
from rag.recall_measurement r
join rag.generation g on g.id = r.generation_id
join rag.embedding_model m on m.id = g.model_id
where r.generation_id = :generation_id
  and r.measured_at = (select max(measured_at) from rag.recall_measurement where generation_id = :generation_id)
order by r.id;

-- name: list_golden_queries
select tenant, query_id, text, relevant from rag.golden_query order by tenant, query_id;

-- name: upsert_golden_query!
insert into rag.golden_query (tenant, query_id, text, relevant)
values (:tenant, :query_id, :text, :relevant)
on conflict (tenant, query_id) do update set text = excluded.text, relevant = excluded.relevant;
