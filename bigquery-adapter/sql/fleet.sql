-- One row for each device: since when, when last, how many messages and bytes, on how many topics.
create or replace view `DATASET.fleet` as
select client_id as device, min(received_at) as first_seen, max(received_at) as last_seen, count(*) as messages,
  sum(byte_length(payload)) as payload_bytes, count(distinct topic) as topics
from `DATASET.messages`
where client_id is not null
group by device;
