-- Logged queries for shadow replay, and the recall watch.

create table rag.query_log (
    id           bigint generated always as identity primary key,
    tenant       text not null,
    text         text not null,
    mode         text not null,
    k            int not null,
    generation_id int not null,
    milliseconds real not null,
    logged_at    timestamptz not null default clock_timestamp()
);
comment on table rag.query_log is
    'A sample of the searches asked (RAG_QUERY_LOG_SAMPLE), to replay on candidates; deleted after RAG_QUERY_LOG_DAYS';
create index query_log_logged_at on rag.query_log (logged_at);

create table rag.recall_sample (
    id            bigint generated always as identity primary key,
    generation_id int not null references rag.generation,
    kind          text not null check (kind in ('overall', 'filtered')),
    tenant        text,
    queries       int not null,
    ef_search     int not null,
    recall        real not null,
    target        real not null,
    sampled_at    timestamptz not null default clock_timestamp()
);
comment on table rag.recall_sample is
    'HNSW against exact search: recall@10 over sampled queries at one ef_search; tenant names the small one asked for';
create index recall_sample_generation on rag.recall_sample (generation_id, sampled_at);
