"""Starts the BigQuery emulator without a network.

Switched off: extensions that it would download (geography, Avro), and the copy of a whole table that it makes after each append for time
travel. Mended, because BigQuery does it: appends to columns with fields, appends with a column that was added to the table after it was
made, appends that leave out the stream's name after the first one of a connection, queries while appends are executed, and writers that
die. It ends when its standard input does, so that it never outlives who started it.
"""

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc.aio
from bqemulator.api.routes.tabledata import _build_arrow_schema
from bqemulator.cli import main
from bqemulator.grpc_api import write_servicer
from bqemulator.storage.engine import DuckDBEngine
from bqemulator.storage.sql_identifiers import quoted_table_ref
from bqemulator.storage.type_map import bq_schema_to_duckdb_columns
from bqemulator.versioning.snapshots import SnapshotManager

DuckDBEngine._load_spatial = lambda self: None
DuckDBEngine._load_format_extensions = lambda self: None
SnapshotManager.capture = lambda self, *arguments, **named: None
write_servicer._table_arrow_schema = lambda table: _build_arrow_schema([field.model_dump() for field in table.schema_.fields])

flush_to_target = write_servicer.BigQueryWriteHandler._flush_to_target


def extend_and_flush(self, stream, rows):
    with self._write_lock:
        table = self._ctx.catalog.get_table(stream.project_id, stream.dataset_id, stream.table_id)
        target = quoted_table_ref(stream.project_id, stream.dataset_id, stream.table_id)
        there = {column[0] for column in self._ctx.engine.execute(f"DESCRIBE {target}").fetchall()}
        fields = [field.model_dump() for field in table.schema_.fields] if table else []
        for name, kind in bq_schema_to_duckdb_columns(fields):
            if name not in there:
                self._ctx.engine.execute(f'ALTER TABLE {target} ADD COLUMN "{name}" {kind}')
        flush_to_target(self, stream, rows)


write_servicer.BigQueryWriteHandler._flush_to_target = extend_and_flush

# A call takes a thread, for ever if its client dies: of the six that there are by default on two cores none would be left.
server = grpc.aio.server
grpc.aio.server = lambda *arguments, **named: server(ThreadPoolExecutor(4096), *arguments, **named)

cursors = threading.local()
shared = DuckDBEngine.connection


def own_connection(self):
    connection = shared.fget(self)
    if threading.current_thread() is threading.main_thread():
        return connection
    if getattr(cursors, "of", None) is not connection:
        cursors.of, cursors.own = connection, connection.cursor()
        cursors.own.execute("SET TimeZone = 'UTC'")
    return cursors.own


DuckDBEngine.connection = property(own_connection)

ensure_stream_bound = write_servicer.BigQueryWriteHandler._ensure_stream_bound


def stay_bound(self, name, bound, context):
    return bound if bound and not name else ensure_stream_bound(self, name, bound, context)


write_servicer.BigQueryWriteHandler._ensure_stream_bound = stay_bound


def watch():
    while sys.stdin.buffer.read(4096):
        pass
    os._exit(0)


threading.Thread(target=watch, daemon=True).start()
sys.exit(main())
