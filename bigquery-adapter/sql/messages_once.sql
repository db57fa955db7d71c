-- Each message once, also where rows were written twice: by the default stream, by a replay that was broken off, or after a table
-- was deleted under the adapter (DUN-2069). Not needed otherwise: what comes from a tap is there once.
-- Cost: reads all columns that the query asks for, of all days that it asks for. Ask for days.
create or replace view `DATASET.messages_once` as
select *
from `DATASET.messages`
where true
qualify row_number() over (partition by message_id order by received_at) = 1;
