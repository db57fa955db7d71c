"""Asks the warehouse for the monthly mean temperature per station and compares the answer with the input files.

usage: compare_means.py WAREHOUSE EXPECTED_JSON

WAREHOUSE is a directory of Parquet files, or a dataset of BigQuery (of its emulator) as URL of its REST API:
http://127.0.0.1:9050/bigquery/v2/projects/PROJECT/datasets/DATASET.

EXPECTED_JSON is what `loadtest expected --json` prints: figures computed from the measurements' files alone. Every count
and every sum has to agree exactly (sums are compared as integers), and so has the number of rows; the exit code says so.
"""

import json
import sys
import time
import urllib.request
from decimal import ROUND_HALF_EVEN, Decimal

import duckdb

# Rows become visible some seconds after they are stored, when the adapter rolls its journal into a Parquet file.
LIMIT_SECONDS = 120

MESSAGES = "read_parquet('{warehouse}/messages/**/*.parquet', hive_partitioning = true)"

QUESTION = """
SELECT payload_json->>'$.station'                                  AS station,
       (payload_json->>'$.time')[:7]                               AS month,
       count(*)                                                    AS readings,
       sum(CAST(payload_json->>'$.temperature' AS DECIMAL(9, 1)))  AS total,
       avg(CAST(payload_json->>'$.temperature' AS DECIMAL(9, 1)))  AS mean
FROM   {messages}
WHERE  payload_json->>'$.temperature' IS NOT NULL
GROUP  BY station, month
ORDER  BY station, month
"""


BIGQUERY_QUESTION = """
SELECT json_value(payload_json, '$.station')                                 AS station,
       substr(json_value(payload_json, '$.time'), 1, 7)                      AS month,
       count(*)                                                              AS readings,
       sum(cast(json_value(payload_json, '$.temperature') AS NUMERIC))       AS total
FROM   {messages}
WHERE  json_value(payload_json, '$.temperature') IS NOT NULL
GROUP  BY station, month
ORDER  BY station, month
"""


class BigQuery:
    """A dataset behind its REST API."""

    def __init__(self, url):
        project, dataset = url.split("/projects/")[1].split("/datasets/")
        self.queries = url.split("/datasets/")[0] + "/queries"
        self.messages = f"`{project}.{dataset}.messages`"
        self.question = BIGQUERY_QUESTION.format(messages=self.messages)

    def query(self, sql):
        body = json.dumps({"query": sql, "useLegacySql": False, "timeoutMs": 60_000}).encode()
        request = urllib.request.Request(self.queries, data=body, headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as response:
            answer = json.load(response)
        if answer.get("errors") or not answer.get("jobComplete"):
            sys.exit(f"compare_means: the query failed: {answer}")
        return [[cell["v"] for cell in row["f"]] for row in answer.get("rows", [])]

    def rows(self):
        return int(self.query(f"SELECT count(*) FROM {self.messages}")[0][0])

    def ask(self):
        return [(station, month, int(count), Decimal(total)) for station, month, count, total in self.query(self.question)]


class Files:
    """Parquet files, read by DuckDB."""

    def __init__(self, warehouse):
        self.messages = MESSAGES.format(warehouse=warehouse.replace("'", "''"))
        self.question = QUESTION.format(messages=f"'{warehouse}/messages/**/*.parquet'")

    def rows(self):
        return rows_of(self.messages)

    def ask(self):
        return [row[:4] for row in ask(self.messages)]


def rows_of(messages):
    """Rows that can be read now; a file may vanish under the reader while the adapter merges small ones."""
    try:
        return duckdb.execute(f"SELECT count(*) FROM {messages}").fetchone()[0]
    except duckdb.IOException:
        return 0


def wait_for_rows(warehouse, wanted):
    deadline = time.monotonic() + LIMIT_SECONDS
    while (found := warehouse.rows()) < wanted and time.monotonic() < deadline:
        time.sleep(0.25)
    return found


def ask(messages):
    """The answer, tried again when a file was merged away in the middle."""
    for _ in range(20):
        try:
            return duckdb.execute(QUESTION.format(messages=messages)).fetchall()
        except duckdb.IOException:
            time.sleep(0.25)
    sys.exit("compare_means: the files of the warehouse cannot be read")


def main():
    warehouse, expected_file = sys.argv[1:]
    with open(expected_file, encoding="utf-8") as file:
        expected = json.load(file)
    warehouse = BigQuery(warehouse) if warehouse.startswith("http") else Files(warehouse)
    wanted_rows = sum(station["rows"] for station in expected["stations"])
    found_rows = wait_for_rows(warehouse, wanted_rows)

    print(warehouse.question)
    answer = {(station, month): (count, total) for station, month, count, total in warehouse.ask()}
    wanted = {(m["station"], m["month"]): m for m in expected["months"]}

    print(f"{'':24}{'-- warehouse, by SQL --':^31}{'-- input files --':^31}")
    print(f"{'station':16}{'month':8}{'readings':>9}{'sum':>11}{'mean':>10} {'readings':>10}{'sum':>11}{'mean':>10}")
    wrong = 0
    for key in sorted(wanted.keys() | answer.keys()):
        count, total = answer.get(key, (0, Decimal(0)))
        month = wanted.get(key, {"count": 0, "sum": 0, "decimals": 1, "mean": "-"})
        scale = Decimal(10) ** month["decimals"]
        # As the expected mean: exact, then rounded half to even to four places.
        mean = (total / count).quantize(Decimal("0.0001"), ROUND_HALF_EVEN) if count else "-"
        equal = count == month["count"] and total * scale == month["sum"] and str(mean) == month["mean"]
        wrong += not equal
        expected_sum = Decimal(month["sum"]) / scale
        print(
            f"{key[0]:16}{key[1]:8}{count:>9}{total:>11}{mean!s:>10} "
            f"{month['count']:>10}{expected_sum:>11}{month['mean']:>10}{'' if equal else '   <-- differs'}"
        )
    print(f"\n{'rows':24}{found_rows:>9}{'':21} {wanted_rows:>10}")

    if wrong or found_rows != wanted_rows:
        sys.exit(f"\ncompare_means: {wrong} figures and {abs(found_rows - wanted_rows)} rows differ")
    print(f"\nThey agree exactly: {len(wanted)} monthly figures, {wanted_rows} rows.")


main()
