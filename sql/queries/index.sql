-- name: insert_generation$
insert into rag.generation (model_id, chunker_id, recipe)
values (:model_id, :chunker_id, :recipe)
returning id;

-- name: wait_for_writers
-- Whoever began to change documents before the new generation was visible has committed after this.
select pg_advisory_xact_lock(rag.change_lock());

-- name: read_generation^
select g.id, g.model_id, m.slug, m.space_id, m.dimension, g.chunker_id, g.recipe, g.state, g.table_name,
       g.loaded_at, g.metrics, g.created_at
from rag.generation g
join rag.embedding_model m on m.id = g.model_id
where g.id = :id;

-- name: list_generations
select g.id, g.model_id, m.slug, m.space_id, m.dimension, g.chunker_id, g.recipe, g.state, g.table_name,
       g.loaded_at, g.metrics, g.created_at
from rag.generation g
join rag.embedding_model m on m.id = g.model_id
where g.state = any(:states::text[])
order by g.id;

-- name: lock_generation$
-- One applier at a time; the state is read under the lock.
select state from rag.generation where id = :id for update;

-- name: set_state!
update rag.generation set state = :state, changed_at = clock_timestamp() where id = :id and state <> :state;

-- name: set_table_name!
update rag.generation set table_name = :table_name where id = :id;

-- name: set_loaded!
update rag.generation set loaded_at = clock_timestamp() where id = :id;

-- name: merge_metrics!
update rag.generation set metrics = metrics || :metrics where id = :id;

-- name: count_churn!
-- Rows that came and went since the index was built; its builder sets both to 0.
update rag.generation
set metrics = metrics || jsonb_build_object(
    'inserted', coalesce((metrics ->> 'inserted')::bigint, 0) + :inserted,
    'deleted', coalesce((metrics ->> 'deleted')::bigint, 0) + :deleted)
where id = :id;

-- name: count_pending
select p.generation_id, count(distinct p.document_id), min(p.queued_at)
from rag.pending_change p
group by p.generation_id;

-- name: take_pending#
create temporary table touched (document_id bigint primary key) on commit drop;
create temporary table taken (id bigint primary key) on commit drop;

-- name: fill_taken!
insert into taken
select id from rag.pending_change where generation_id = :generation_id and id > :after order by id limit :most;

-- name: last_taken$
select max(id) from taken;

-- name: fill_touched_from_taken!
insert into touched select distinct p.document_id from rag.pending_change p join taken using (id);

-- name: fill_touched_from_all!
insert into touched select id from rag.document where current_version_id is not null;

-- name: create_target!
-- What each touched document should be in this generation. A document moves only when it can move whole:
-- its current version is cut, and every chunk of it has a vector or was refused by the model.
create temporary table target on commit drop as
select t.document_id, d.current_version_id as version_id
from touched t
left join rag.document d on d.id = t.document_id
where d.current_version_id is null
   or (exists (select from rag.version_chunking c
               where c.version_id = d.current_version_id and c.chunker_id = :chunker_id)
       and not exists (
           select from rag.version_chunk vc
           where vc.version_id = d.current_version_id and vc.chunker_id = :chunker_id
             and not exists (select from rag.embedding e
                             where e.space_id = :space_id and e.chunk_id = vc.chunk_id)
             and not exists (select from rag.embedding_failure f
                             where f.space_id = :space_id and f.chunk_id = vc.chunk_id)));

-- name: create_affected!
create temporary table affected on commit drop as
select distinct chunk_id, tenant from (
    select vc.chunk_id, c.tenant
    from target t
    join rag.generation_version gv on gv.generation_id = :generation_id and gv.document_id = t.document_id
    join rag.version_chunk vc on vc.version_id = gv.version_id and vc.chunker_id = :chunker_id
    join rag.chunk c on c.id = vc.chunk_id
    union all
    select vc.chunk_id, c.tenant
    from target t
    join rag.version_chunk vc on vc.version_id = t.version_id and vc.chunker_id = :chunker_id
    join rag.chunk c on c.id = vc.chunk_id
) a;

-- name: analyze_touched#
analyze touched;

-- name: analyze_target#
analyze target;

-- name: analyze_affected#
analyze affected;

-- name: remove_generation_versions!
delete from rag.generation_version gv
using target t
where gv.generation_id = :generation_id and gv.document_id = t.document_id
  and gv.version_id is distinct from t.version_id;

-- name: insert_generation_versions!
insert into rag.generation_version (generation_id, document_id, version_id)
select :generation_id, document_id, version_id from target where version_id is not null
on conflict (generation_id, document_id) do nothing;

-- name: create_dead!
-- Chunks this generation no longer serves in any document.
create temporary table dead on commit drop as
select a.chunk_id
from affected a
where not exists (
    select from rag.version_chunk vc
    join rag.generation_version gv on gv.version_id = vc.version_id and gv.generation_id = :generation_id
    where vc.chunk_id = a.chunk_id and vc.chunker_id = :chunker_id);

-- name: dead_everywhere
-- Those that no generation with this chunker serves: their words leave the lexical index.
select l.chunk_id, l.length, l.term_ids
from dead d
join rag.lexical_chunk l on l.chunker_id = :chunker_id and l.chunk_id = d.chunk_id
where not exists (
    select from rag.version_chunk vc
    join rag.generation_version gv on gv.version_id = vc.version_id
    join rag.generation g on g.id = gv.generation_id and g.chunker_id = :chunker_id
    where vc.chunk_id = d.chunk_id and vc.chunker_id = :chunker_id);

-- name: born_for_words
-- Chunks some generation serves now and the lexical index does not know.
select c.id, c.title, c.heading_path, c.text
from affected a
join rag.chunk c on c.id = a.chunk_id
where not exists (select from dead d where d.chunk_id = a.chunk_id)
  and not exists (select from rag.lexical_chunk l where l.chunker_id = :chunker_id and l.chunk_id = a.chunk_id)
order by c.id;

-- name: finish_taken!
-- Only what was taken and resolved: a change committed meanwhile has its own row.
delete from rag.pending_change p
using taken k, target t
where p.id = k.id and t.document_id = p.document_id;

-- name: queue_unresolved!
-- After a whole load: documents that could not move yet wait in the queue.
insert into rag.pending_change (generation_id, document_id)
select :generation_id, document_id from touched t
where not exists (select from target x where x.document_id = t.document_id);

-- name: read_unindexed_texts
-- Chunks whose words are not in the lexical index: nobody serves them now.
select c.id, c.title, c.heading_path, c.text
from rag.chunk c
where c.id = any(:chunk_ids::bigint[])
  and not exists (select from rag.lexical_chunk l where l.chunker_id = :chunker_id and l.chunk_id = c.id);

-- name: ensure_lexical_index!
insert into rag.lexical_index (chunker_id, analyzer) values (:chunker_id, :analyzer) on conflict do nothing;

-- name: lock_lexical_index^
select analyzer, chunk_count, total_length from rag.lexical_index where chunker_id = :chunker_id for update;

-- name: read_lexical_index^
select analyzer, chunk_count, total_length from rag.lexical_index where chunker_id = :chunker_id;

-- name: ensure_terms!
insert into rag.lexical_term (chunker_id, term)
select :chunker_id, t from unnest(:terms::text[]) as t
where not exists (select from rag.lexical_term x where x.chunker_id = :chunker_id and x.term = t)
order by t
on conflict do nothing;

-- name: read_terms
select t.term, t.term_id, t.chunk_count
from rag.lexical_term t
where t.chunker_id = :chunker_id and t.term = any(:terms::text[]);

-- name: shift_term_counts!
update rag.lexical_term t
set chunk_count = t.chunk_count + s.shift
from unnest(:term_ids::int[], :shifts::int[]) as s(term_id, shift)
where t.term_id = s.term_id;

-- name: shift_lexical_index!
update rag.lexical_index
set chunk_count = chunk_count + :chunks, total_length = total_length + :length
where chunker_id = :chunker_id;

-- name: delete_postings!
delete from rag.posting p
using unnest(:chunk_ids::bigint[], :term_ids::int[]) as gone(chunk_id, term_id)
where p.chunker_id = :chunker_id and p.term_id = gone.term_id and p.chunk_id = gone.chunk_id;

-- name: delete_lexical_chunks!
delete from rag.lexical_chunk where chunker_id = :chunker_id and chunk_id = any(:chunk_ids::bigint[]);

-- name: lost_words
-- Chunks this generation serves and the lexical index does not know; `served` is a temporary table.
select s.chunk_id from served s
where not exists (select from rag.lexical_chunk l where l.chunker_id = :chunker_id and l.chunk_id = s.chunk_id);

-- name: wrong_words
-- Chunks whose words are there though no generation serves them, or whose postings are not their words.
with known as (
    select l.chunk_id, l.length, cardinality(l.term_ids) as terms,
           (select bit_xor(hashint8extended((u.term_id::bigint << 16) | u.frequency, 0))
            from unnest(l.term_ids, l.frequencies) as u(term_id, frequency)) as hash
    from rag.lexical_chunk l where l.chunker_id = :chunker_id
), written as (
    select p.chunk_id, count(*) as terms, min(p.length) as shortest, max(p.length) as longest,
           bit_xor(hashint8extended((p.term_id::bigint << 16) | p.frequency, 0)) as hash
    from rag.posting p where p.chunker_id = :chunker_id
    group by p.chunk_id
), live as (
    select distinct vc.chunk_id
    from rag.generation_version gv
    join rag.version_chunk vc on vc.version_id = gv.version_id and vc.chunker_id = :chunker_id
    join rag.generation g on g.id = gv.generation_id and g.chunker_id = :chunker_id
)
select coalesce(k.chunk_id, w.chunk_id)
from known k
full join written w on w.chunk_id = k.chunk_id
where k.chunk_id is null or k.terms <> coalesce(w.terms, 0) or k.hash is distinct from w.hash
   or w.shortest <> k.length or w.longest <> k.length
   or not exists (select from live where live.chunk_id = k.chunk_id);

-- name: wrong_statistics$
-- Terms that are said to be in another number of chunks than they are, and totals that are no sums.
select count(*) from (
    select 1
    from (select term_id, chunk_count from rag.lexical_term where chunker_id = :chunker_id) t
    full join (select term_id, count(*) as found from rag.posting where chunker_id = :chunker_id group by term_id) p
        on p.term_id = t.term_id
    where coalesce(t.chunk_count, 0) <> coalesce(p.found, 0)
    union all
    select 1
    from rag.lexical_index i,
         (select count(*) as chunks, coalesce(sum(length), 0) as length
          from rag.lexical_chunk where chunker_id = :chunker_id) l
    where i.chunker_id = :chunker_id and (i.chunk_count, i.total_length) <> (l.chunks, l.length)
) w;

-- name: forget_postings!
delete from rag.posting where chunker_id = :chunker_id and chunk_id = any(:chunk_ids::bigint[]);

-- name: recount_terms!
update rag.lexical_term t
set chunk_count = coalesce(p.found, 0)
from rag.lexical_term x
left join (select term_id, count(*) as found from rag.posting where chunker_id = :chunker_id group by term_id) p
    on p.term_id = x.term_id
where t.chunker_id = :chunker_id and x.chunker_id = :chunker_id and x.term = t.term
  and t.chunk_count <> coalesce(p.found, 0);

-- name: recount_lexical_index!
update rag.lexical_index i
set chunk_count = l.chunks, total_length = l.length
from (select count(*) as chunks, coalesce(sum(length), 0) as length
      from rag.lexical_chunk where chunker_id = :chunker_id) l
where i.chunker_id = :chunker_id;

-- name: index_state^
-- Whether the generation's HNSW index exists and is valid, and its size in bytes.
select i.indisvalid and i.indisready, pg_relation_size(i.indexrelid)
from pg_index i
join pg_class c on c.oid = i.indexrelid
join pg_namespace n on n.oid = c.relnamespace
where n.nspname = 'rag' and c.relname = :index_name;

-- name: index_definition^
-- What the generation's HNSW index is: method, operator class, type of the column, and its options.
select m.amname, o.opcname, format_type(a.atttypid, a.atttypmod), coalesce(c.reloptions, '{}')
from pg_index i
join pg_class c on c.oid = i.indexrelid
join pg_namespace n on n.oid = c.relnamespace
join pg_am m on m.oid = c.relam
join pg_opclass o on o.oid = i.indclass[0]
join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
where n.nspname = 'rag' and c.relname = :index_name;

-- name: lock_build
-- Held by the session that builds. The server finishes the build of a client that was killed: wait for it.
select pg_advisory_lock(7461004, :id);

-- name: build_progress^
select phase, tuples_done, tuples_total from pg_stat_progress_create_index where pid = :pid;

-- name: drop_pending!
delete from rag.pending_change where generation_id = :generation_id;

-- name: list_soaked
-- Generations that were replaced at least so many hours ago.
select id from rag.generation
where state = 'soaking' and changed_at <= clock_timestamp() - make_interval(secs => :hours * 3600)
order by id;

-- name: list_undropped
-- Retired generations whose tables are still there: a retirement that was cut short.
select id from rag.generation where state = 'retired' and to_regclass('rag.' || table_name) is not null order by id;

-- name: forget_served!
delete from rag.generation_version where generation_id = :generation_id;

-- name: orphaned_words
-- Words of chunks that no generation serves under this chunker.
select l.chunk_id, l.length, l.term_ids
from rag.lexical_chunk l
where l.chunker_id = :chunker_id and not exists (
    select from rag.version_chunk vc
    join rag.generation_version gv on gv.version_id = vc.version_id
    join rag.generation g on g.id = gv.generation_id and g.chunker_id = :chunker_id
    where vc.chunk_id = l.chunk_id and vc.chunker_id = :chunker_id);

-- name: serves_chunker$
select exists (
    select from rag.generation_version gv
    join rag.generation g on g.id = gv.generation_id and g.chunker_id = :chunker_id);

-- name: forget_all_words!
delete from rag.lexical_chunk where chunker_id = :chunker_id;

-- name: forget_all_terms!
delete from rag.lexical_term where chunker_id = :chunker_id;

-- name: limit_lock_wait
select set_config('lock_timeout', :milliseconds::text, true);

-- name: limit_session_lock_wait^
select set_config('lock_timeout', :milliseconds, false);

-- name: is_detach_pending$
-- Null: it is no partition (any more).
select i.inhdetachpending
from pg_inherits i
join pg_class c on c.oid = i.inhrelid
join pg_namespace n on n.oid = c.relnamespace
where n.nspname = 'rag' and c.relname = :name;
