-- The newest message of each topic.
-- Cost: the table is clustered by topic, so a condition on it reads little: where topic like 'plant/a/%'. A condition on received_at
-- leaves whole days out.
create or replace view `DATASET.latest` as
select topic, client_id, received_at, payload, payload_json
from `DATASET.messages`
where true
qualify row_number() over (partition by topic order by received_at desc, message_id desc) = 1;
