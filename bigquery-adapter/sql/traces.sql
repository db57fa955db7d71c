-- The trace of each message that came with one (W3C traceparent, a user property): to find the row of a trace, or the trace of a row.
-- Cost: reads user_properties of the days that the query asks for.
create or replace view `DATASET.traces` as
select trace_id, parent_span_id, sampled, received_at, topic, client_id, message_id
from (
  select
    regexp_extract(carried, r'^[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}') as trace_id,
    regexp_extract(carried, r'^[0-9a-f]{2}-[0-9a-f]{32}-([0-9a-f]{16})-[0-9a-f]{2}') as parent_span_id,
    regexp_contains(carried, r'^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f][13579bdf]') as sampled,
    received_at, topic, client_id, message_id
  from (
    select
      (select property.value from unnest(user_properties) as property where property.key = 'traceparent' limit 1) as carried,
      received_at, topic, client_id, message_id
    from `DATASET.messages`
  )
)
where trace_id is not null;
