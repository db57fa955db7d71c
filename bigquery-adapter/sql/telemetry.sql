-- Numeric telemetry as (device, metric, value, time), whatever the devices call their metrics: each number (also one that is written as
-- a text) at the first level of a JSON body is a row. The device is the authenticated client id, not what the body says.
-- Cost: reads payload_json of the days that are asked for. Metrics that are asked for every day deserve a rule with columns of their own.
create or replace view `DATASET.telemetry_values` as
select client_id as device, topic, metric, lax_float64(payload_json[metric]) as value, received_at as time
from `DATASET.messages`, unnest(json_keys(payload_json, 1)) as metric
where lax_float64(payload_json[metric]) is not null;
