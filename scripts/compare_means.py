"""Compares the warehouse with the input files: the monthly mean temperature per station, and the number of rows.

    compare_means.py WAREHOUSE EXPECTED.json [SECONDS]

EXPECTED.json is what `loadtest expected --json` printed: sums as integers of the last decimal place, so that the
comparison is exact. Waits up to SECONDS (120) for rows that are on their way. Exit code 1: they do not agree.
"""

import json
import sys
import time

import duckdb

MEANS = """
    SELECT station, month, count(*) AS count, sum(value) AS sum, sum(value) / count(*) AS mean
    FROM (
        SELECT json_extract_string(payload_json, '$.station') AS station,
               json_extract_string(payload_json, '$.time')[:7] AS month,
               CAST(json_extract_string(payload_json, '$.temperature') AS DECIMAL(18, 6)) AS value
        FROM messages
    )
    WHERE value IS NOT NULL
    GROUP BY station, month ORDER BY station, month
"""
ROWS = "SELECT json_extract_string(payload_json, '$.station') AS station, count(*) FROM messages GROUP BY 1"


def ask(warehouse):
    with duckdb.connect() as db:
        files = f"{warehouse}/messages/*/*.parquet"
        if not db.execute("SELECT count(*) FROM glob(?)", [files]).fetchone()[0]:
            return {}, []
        db.execute(f"CREATE VIEW messages AS SELECT * FROM read_parquet('{files}')")
        return dict(db.execute(ROWS).fetchall()), db.execute(MEANS).fetchall()


def main():
    warehouse, expected_file = sys.argv[1:3]
    seconds = float(sys.argv[3]) if len(sys.argv) > 3 else 120
    with open(expected_file, encoding="utf-8") as file:
        expected = json.load(file)
    rows_expected = {station["station"]: station["rows"] for station in expected["stations"]}
    deadline = time.monotonic() + seconds
    while True:
        rows, means = ask(warehouse)
        if sum(rows.values()) >= sum(rows_expected.values()) or time.monotonic() > deadline:
            break
        time.sleep(0.5)

    agree = rows == rows_expected
    want = {(month["station"], month["month"]): month for month in expected["months"]}
    print(f"{'station':16} {'month':8} {'rows':>6} {'mean by SQL':>12} {'mean of files':>14}")
    for station, month, count, total, mean in means:
        expected_month = want.pop((station, month), None)
        same = expected_month is not None and (count, int(total * 10 ** expected_month["decimals"])) == (
            expected_month["count"],
            expected_month["sum"],
        )
        agree &= same
        files = expected_month["mean"] if expected_month else "-"
        print(f"{station:16} {month:8} {count:6} {mean:12.4f} {files:>14}{'' if same else '  DIFFERS'}")
    agree &= not want
    for station, month in want:
        print(f"{station:16} {month:8} is missing in the warehouse")
    print(f"rows: {sum(rows.values())} in the warehouse, {sum(rows_expected.values())} in the input files")
    print("they agree exactly" if agree else "THEY DO NOT AGREE")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
