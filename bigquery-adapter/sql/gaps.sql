-- When a device was silent for more than ten minutes.
create or replace view `DATASET.gaps` as
select device, silent_from, silent_until, timestamp_diff(silent_until, silent_from, second) as seconds
from (
  select client_id as device, lag(received_at) over (partition by client_id order by received_at) as silent_from, received_at as silent_until
  from `DATASET.messages`
  where client_id is not null
)
where timestamp_diff(silent_until, silent_from, second) > 600;
