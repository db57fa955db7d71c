-- What does not fit, since when, and an example of each.
create or replace view `DATASET.dead_letters_by_reason` as
select table_name, reason, count(distinct message_id) as messages, min(received_at) as first_received, max(received_at) as last_received, any_value(topic) as example_topic
from `DATASET.dead_letters`
group by table_name, reason;
