-- Mean, least and greatest value of each metric of each device by the minute.
create or replace view `DATASET.telemetry_by_minute` as
select device, metric, timestamp_trunc(time, minute) as minute, count(*) as samples, avg(value) as mean, min(value) as least, max(value) as greatest
from `DATASET.telemetry_values`
group by device, metric, minute;
