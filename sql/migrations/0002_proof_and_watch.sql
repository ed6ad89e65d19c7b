-- What a swap is proven by and watched with: judged queries one by one, logged queries, recall, alerts.

create table rag.evaluation_query (
    evaluation_id             bigint not null references rag.evaluation on delete cascade,
    kind                      text not null check (kind in ('golden', 'known-item', 'shadow')),
    query_id                  text not null,
    query                     text not null,
    candidate_ndcg_at_10      real,
    baseline_ndcg_at_10       real,
    candidate_recall_at_10    real,
    baseline_recall_at_10     real,
    candidate_reciprocal_rank real,
    baseline_reciprocal_rank  real,
    overlap_at_10             real,
    candidate                 text[] not null default '{}',
    baseline                  text[] not null default '{}',
    primary key (evaluation_id, kind, query_id)
);
comment on table rag.evaluation_query is 'Every query of an evaluation: both figures and the first results of both sides';

create table rag.query_log (
    id            bigint generated always as identity primary key,
    asked_at      timestamptz not null default clock_timestamp(),
    tenant        text not null,
    query         text not null,
    mode          text not null,
    k             int not null,
    filters       jsonb not null default '{}',
    generation_id int not null,
    model_id      int,
    chunk_ids     bigint[] not null,
    similarity    real,
    milliseconds  real not null,
    degraded      text
);
comment on table rag.query_log is 'A sample of the searches asked (RAG_QUERY_LOG_SHARE), kept RAG_QUERY_LOG_DAYS days; replayed to candidates';
comment on column rag.query_log.model_id is 'The model that embedded the query; null where words alone answered';
comment on column rag.query_log.similarity is 'Cosine of the query and the nearest hit';
comment on column rag.query_log.degraded is 'Why only words answered a search that asked for vectors too';
create index query_log_asked_at on rag.query_log (asked_at);

create table rag.serving_process (
    id      text primary key,
    seen_at timestamptz not null default clock_timestamp(),
    warm    int[] not null default '{}'
);
comment on table rag.serving_process is 'Processes that answer searches, and the generations each has ready in memory';

create table rag.recall_measurement (
    id            bigint generated always as identity primary key,
    generation_id int not null references rag.generation,
    scope         text not null check (scope in ('all', 'filtered', 'tenant')),
    subject       text not null default '',
    ef_search     int not null,
    queries       int not null,
    recall_at_10  real not null,
    low           real not null,
    high          real not null,
    p95_ms        real not null,
    measured_at   timestamptz not null default clock_timestamp()
);
comment on table rag.recall_measurement is 'HNSW against exact search over time; rag.generation.metrics has the ef_search that follows';
comment on column rag.recall_measurement.low is 'One-sided 95 % bound below the mean; high: above it';
create index recall_measurement_generation on rag.recall_measurement (generation_id, measured_at);

create table rag.alert (
    id           bigint generated always as identity primary key,
    kind         text not null,
    subject      text not null,
    message      text not null,
    raised_at    timestamptz not null default clock_timestamp(),
    delivered_at timestamptz,
    tried_at     timestamptz,
    failure      text
);
comment on table rag.alert is 'What someone should look at; delivered once through RAG_ALERT_CHANNEL';
comment on column rag.alert.failure is 'Why the last try to deliver it failed';
create index alert_undelivered on rag.alert (tried_at) where delivered_at is null;

alter table rag.embedding_model
    add column checked_at timestamptz,
    add column drift text;
comment on column rag.embedding_model.drift is 'What is wrong with the model behind this name since it was registered; null: nothing';
