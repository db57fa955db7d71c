-- Not a view: what each day of the table holds and so costs. A query that has a condition on received_at reads these bytes of the days that it asks for,
-- and only of the columns that it names.
select partition_id, total_rows, total_logical_bytes
from `DATASET.INFORMATION_SCHEMA.PARTITIONS`
where table_name = 'messages'
order by partition_id;
