-- What someone should look at, and whether it was told.

-- name: lock_alerts#
-- Two that raise the same alert at once take turns, until their transactions end.
select pg_advisory_xact_lock(7461005);

-- name: insert_alert$
-- Not again while the same alert is younger than a day.
insert into rag.alert (kind, subject, message)
select :kind, :subject, :message
where not exists (
    select from rag.alert
    where kind = :kind and subject = :subject and message = :message
      and raised_at > clock_timestamp() - interval '1 day'
)
returning id;

-- name: take_undelivered^
-- One that was not delivered yet: those never tried first, then the one whose last try is longest ago.
-- Held for the transaction, so that two who deliver at once send it once.
select id, kind, subject, message, raised_at
from rag.alert
where delivered_at is null and (tried_at is null or tried_at < :before)
order by tried_at nulls first, id
limit 1
for update skip locked;

-- name: record_delivery!
-- A failure: it is tried again. None: it was delivered.
update rag.alert
set tried_at = clock_timestamp(), failure = :failure,
    delivered_at = case when :failure::text is null then clock_timestamp() end
where id = :id;

-- name: list_undelivered
select id, kind, subject, message, raised_at, delivered_at, failure
from rag.alert
where delivered_at is null
order by id;

-- name: list_alerts
select id, kind, subject, message, raised_at, delivered_at, failure
from rag.alert
order by id desc
limit :most;

-- name: read_time$
select clock_timestamp();
