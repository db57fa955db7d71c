"""Starts the BigQuery emulator without a network.

Two of its parts are switched off: extensions that it would download (geography, Avro), and the copy of a whole table that it makes after
each append for time travel.
"""

import sys

from bqemulator.cli import main
from bqemulator.storage.engine import DuckDBEngine
from bqemulator.versioning.snapshots import SnapshotManager

DuckDBEngine._load_spatial = lambda self: None
DuckDBEngine._load_format_extensions = lambda self: None
SnapshotManager.capture = lambda self, *arguments, **named: None

sys.exit(main())
