-- The whole data model: documents -> versions -> chunks -> embeddings -> index -> serving.
-- Names and ideas: docs/decisions.md. Every table may be read by users; rows are written by the pipeline only.

create extension if not exists vector;

create table rag.parameter (
    name  text primary key,
    value text not null
);
comment on table rag.parameter is 'Choices fixed at first run, such as the number of buckets';

-- documents ---------------------------------------------------------------------------------------------

create table rag.source (
    id         bigint generated always as identity primary key,
    tenant     text not null,
    name       text not null,
    location   text not null,
    kind       text not null check (kind in ('folder', 'file', 'jsonl')),
    include    text[] not null default '{}',
    prune      boolean not null default false,
    created_at timestamptz not null default clock_timestamp(),
    read_at    timestamptz,
    token      text,
    unique (tenant, name, location)
);
comment on table rag.source is 'Where documents come from; read by the hourly schedule and watched by the source sensor';
comment on column rag.source.token is 'What the location looked like when it was last read whole; the sensor compares it';

create table rag.document (
    id                 bigint generated always as identity primary key,
    tenant             text not null,
    source             text not null,
    uri                text not null,
    external_id        text,
    current_version_id bigint,
    stat_token         text,
    deleted_at         timestamptz,
    created_at         timestamptz not null default clock_timestamp(),
    unique (tenant, source, uri)
);
comment on table rag.document is 'Identity is (tenant, source, uri); deletion is a state';
comment on column rag.document.stat_token is 'Path, size, inode and times of the file; unchanged means it need not be read';

create table rag.document_failure (
    tenant         text not null,
    source         text not null,
    uri            text not null,
    content_sha256 bytea not null,
    code           text not null,
    reason         text not null,
    failed_at      timestamptz not null default clock_timestamp(),
    primary key (tenant, source, uri)
);
comment on table rag.document_failure is 'Input that could not be read, with the reason; tried again only when it changes';

-- versions ----------------------------------------------------------------------------------------------

create table rag.document_version (
    id             bigint generated always as identity primary key,
    document_id    bigint not null references rag.document on delete cascade,
    ordinal        int not null,
    content_sha256 bytea not null,
    parser         text not null,
    media_type     text not null,
    title          text not null,
    text           text not null,
    metadata       jsonb not null default '{}',
    valid_from     timestamptz not null,
    valid_to       timestamptz,
    unique (document_id, ordinal),
    check (valid_to is null or valid_to >= valid_from)
);
comment on table rag.document_version is 'Append-only; a new row only when the content changed';
create index document_version_metadata on rag.document_version using gin (metadata jsonb_path_ops);
create unique index document_version_current on rag.document_version (document_id) where valid_to is null;

alter table rag.document add constraint document_current_version
    foreign key (current_version_id) references rag.document_version on delete set null
    deferrable initially deferred;
create index document_current_version on rag.document (current_version_id);

-- chunks ------------------------------------------------------------------------------------------------

create table rag.chunker (
    id          int generated always as identity primary key,
    fingerprint text not null unique,
    recipe      jsonb not null,
    created_at  timestamptz not null default clock_timestamp()
);

create table rag.chunk (
    id             bigint generated always as identity primary key,
    tenant         text not null,
    content_sha256 bytea not null,
    bucket         smallint not null,
    title          text not null,
    heading_path   text[] not null,
    text           text not null,
    token_count    int not null,
    unique (tenant, content_sha256)
);
comment on table rag.chunk is 'Content-addressed: one row per tenant and hash of what is embedded';

create table rag.version_chunk (
    version_id   bigint not null references rag.document_version on delete cascade,
    chunker_id   int not null references rag.chunker,
    ordinal      int not null,
    chunk_id     bigint not null references rag.chunk,
    start_offset int not null,
    end_offset   int not null,
    heading_path text[] not null,
    own_text     text,
    primary key (version_id, chunker_id, ordinal),
    check (start_offset >= 0 and end_offset > start_offset)
);
comment on table rag.version_chunk is 'Which chunks a version is made of; offsets in characters of its text';
comment on column rag.version_chunk.own_text is
    'The version''s own text where it differs from the chunk''s in what is not embedded, such as a link''s destination';
create index version_chunk_chunk on rag.version_chunk (chunk_id, chunker_id, version_id);

create table rag.version_chunking (
    version_id  bigint not null references rag.document_version on delete cascade,
    chunker_id  int not null references rag.chunker,
    chunk_count int not null,
    primary key (version_id, chunker_id)
);
comment on table rag.version_chunking is 'Written with a version''s last chunk: absent means not chunked yet';

-- embeddings --------------------------------------------------------------------------------------------

create table rag.embedding_model (
    id              int generated always as identity primary key,
    slug            text not null unique,
    source          text not null,
    base_url        text,
    query_prompt    text not null default '',
    document_prompt text not null default '',
    normalise       boolean not null default true,
    weights_sha256  text,
    max_tokens      int,
    dimension       int,
    fingerprint     bytea,
    canaries        bytea,
    space_id        int references rag.embedding_model,
    state           text not null default 'registered'
                    check (state in ('registered', 'probed', 'refused', 'retired')),
    reason          text,
    probe           jsonb not null default '{}',
    created_at      timestamptz not null default clock_timestamp()
);
comment on column rag.embedding_model.space_id is 'The first model with the same canary vectors; its ledger is shared';

create table rag.embedding (
    space_id int not null,
    chunk_id bigint not null references rag.chunk on delete cascade,
    vector   vector not null,
    primary key (space_id, chunk_id)
) partition by list (space_id);
comment on table rag.embedding is 'The ledger: one vector per embedding space and chunk, ever';

create table rag.embedding_failure (
    space_id  int not null,
    chunk_id  bigint not null references rag.chunk on delete cascade,
    reason    text not null,
    failed_at timestamptz not null default clock_timestamp(),
    primary key (space_id, chunk_id)
);
comment on table rag.embedding_failure is 'Chunks the model refused; they cost nobody else and are found by words only';

-- index -------------------------------------------------------------------------------------------------

create table rag.generation (
    id         int generated always as identity primary key,
    model_id   int not null references rag.embedding_model,
    chunker_id int not null references rag.chunker,
    recipe     jsonb not null,
    state      text not null default 'building'
               check (state in ('building', 'ready', 'serving', 'soaking', 'retired', 'failed')),
    table_name text,
    loaded_at  timestamptz,
    metrics    jsonb not null default '{}',
    created_at timestamptz not null default clock_timestamp(),
    changed_at timestamptz not null default clock_timestamp()
);
comment on table rag.generation is 'An immutable recipe (model + chunker + index settings) with its own table and HNSW index';
create unique index generation_one_serving on rag.generation (state) where state = 'serving';
create unique index generation_one_building on rag.generation (state) where state = 'building';

create table rag.generation_version (
    generation_id int not null,
    document_id   bigint not null,
    version_id    bigint not null,
    primary key (generation_id, document_id)
) partition by list (generation_id);
comment on table rag.generation_version is
    'Which version of each document a generation serves; a document moves to its next version whole';
create index generation_version_version on rag.generation_version (version_id, generation_id);

create table rag.pending_change (
    id            bigint generated always as identity primary key,
    generation_id int not null,
    document_id   bigint not null,
    queued_at     timestamptz not null default clock_timestamp()
);
comment on table rag.pending_change is 'Documents that changed and are not yet true in a generation';
create index pending_change_generation on rag.pending_change (generation_id, id);

create table rag.lexical_index (
    chunker_id   int primary key references rag.chunker,
    analyzer     text not null,
    chunk_count  bigint not null default 0,
    total_length bigint not null default 0
);
comment on table rag.lexical_index is 'BM25 statistics over the chunks that some active generation serves';

create table rag.lexical_term (
    chunker_id  int not null,
    term        text not null,
    term_id     int generated always as identity,
    chunk_count int not null default 0,
    primary key (chunker_id, term)
);
create unique index lexical_term_id on rag.lexical_term (term_id);

create table rag.lexical_chunk (
    chunker_id  int not null,
    chunk_id    bigint not null references rag.chunk on delete cascade,
    length      int not null,
    term_ids    int[] not null,
    frequencies smallint[] not null,
    primary key (chunker_id, chunk_id)
);
comment on table rag.lexical_chunk is 'The terms of each served chunk; the postings are this table turned over';

create table rag.posting (
    chunker_id int not null,
    term_id    int not null,
    chunk_id   bigint not null,
    frequency  smallint not null,
    length     int not null
) partition by list (chunker_id);

-- serving -----------------------------------------------------------------------------------------------

create table rag.evaluation (
    id            bigint generated always as identity primary key,
    generation_id int not null references rag.generation,
    baseline_id   int references rag.generation,
    verdict       text not null check (verdict in ('first', 'better', 'not_worse', 'worse', 'cannot_tell', 'broken')),
    allows        boolean not null,
    reason        text not null,
    metrics       jsonb not null default '{}',
    created_at    timestamptz not null default clock_timestamp()
);
comment on column rag.evaluation.allows is 'Whether the policy lets this verdict serve; promotion reads it in its transaction';

create table rag.serving (
    singleton     boolean primary key default true check (singleton),
    generation_id int not null references rag.generation,
    previous_id   int references rag.generation,
    changed_at    timestamptz not null default clock_timestamp()
);
comment on table rag.serving is 'The pointer: one row that says which generation serves';

create table rag.promotion (
    id            bigint generated always as identity primary key,
    action        text not null check (action in ('promote', 'rollback')),
    generation_id int not null references rag.generation,
    previous_id   int references rag.generation,
    evaluation_id bigint references rag.evaluation,
    forced        boolean not null default false,
    actor         text not null,
    reason        text not null,
    promoted_at   timestamptz not null default clock_timestamp()
);
comment on table rag.promotion is 'Append-only history of the pointer, with the verdict behind each move';

create table rag.golden_query (
    id       bigint generated always as identity primary key,
    tenant   text not null,
    query_id text not null,
    text     text not null,
    relevant jsonb not null,
    unique (tenant, query_id)
);
comment on table rag.golden_query is 'Judged queries; relevant maps a document id (external id or uri) to its grade';

-- deltas ------------------------------------------------------------------------------------------------

-- Writers hold this lock shared from before they look at the list of generations until they commit; the
-- creator of a generation takes it exclusively once. So a writer either saw the new generation and queued
-- its documents, or committed before the generation's first load began.
create function rag.change_lock() returns bigint language sql immutable as $$ select 7461001 $$;

create function rag.queue_changed_documents() returns trigger language plpgsql as $$
begin
    perform pg_advisory_xact_lock_shared(rag.change_lock());
    insert into rag.pending_change (generation_id, document_id)
    select g.id, n.id
    from new_rows n
    join old_rows o on o.id = n.id
    join rag.generation g on g.state in ('building', 'ready', 'serving', 'soaking')
    where n.current_version_id is distinct from o.current_version_id;
    return null;
end $$;

create trigger queue_changed_documents
    after update on rag.document
    referencing old table as old_rows new table as new_rows
    for each statement execute function rag.queue_changed_documents();
