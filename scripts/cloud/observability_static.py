"""observability_static.py TREE: whether alerts, their tests, the runbook, the dashboards and docs/metrics.md of a tree fit together.

Says every problem, then fails. `Catalogue` and `expressions` are used by observability_live.py, too.
"""

import json
import math
import pathlib
import re
import runpy
import sys

import grafana_foundation_sdk.cog.plugins as grafana_plugins
import promql_parser as promql
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

# What Prometheus, or Managed Prometheus, adds to every series.
TARGET_LABELS = {"job", "instance", "namespace", "pod", "cluster", "location", "project_id", "node", "container"}
# Series of Prometheus itself.
OWN = {"up": ("0 or 1", {}), "ALERTS": ("", {"alertname": None, "alertstate": None, "severity": None})}
SEVERITIES = {"page", "ticket"}
RUNBOOK = "https://github.com/dunlin-mqtt/dunlin/blob/main/docs/runbook.md#"
# What Grafana puts in: any value of the right kind will do.
VARIABLES = {"$__rate_interval": "1m", "$replica": ".*", "$adapter": ".*"}


# The operator's books: what they refer to has to be there.
BOOKS = ["runbook", "metrics", "sizing", "upgrade", "disaster-recovery", "tracing", "rollout"]


class Catalogue:
    """The metrics of docs/metrics.md: for each name its binary, type, unit and labels; a label's values, or None when it is open."""

    def __init__(self, tree):
        self.metrics = {}
        text = (tree / "docs/metrics.md").read_text()
        for part in ("broker", "adapter"):
            begin, end = text.index(f"<!-- {part}:"), text.index(f"<!-- /{part} -->")
            for line in text[begin:end].splitlines():
                row = re.fullmatch(r"\| `([a-z_]+)` \| (\w+) \| (.*?) \| (.*?) \| (.+) \|", line)
                if row:
                    name, kind, labels, unit, _ = row.groups()
                    self.add(part, name, kind, unit, self.labels(labels))
        if len(self.metrics) < 100:
            raise SystemExit(f"docs/metrics.md: only {len(self.metrics)} metrics can be read from its tables")

    @staticmethod
    def labels(cell):
        found = {}
        for label in filter(None, cell.split("; ")):
            name, _, values = label.partition(":")
            found[name.strip("` ")] = {value.strip() for value in values.split(",")} if values else None
        return found

    def add(self, part, name, kind, unit, labels):
        names = {name: labels}
        if kind == "histogram":
            names = {name + "_bucket": {**labels, "le": None}, name + "_sum": labels, name + "_count": labels}
        for name, labels in names.items():
            parts = self.metrics.get(name, {"parts": set()})["parts"] | {part}
            self.metrics[name] = {"parts": parts, "kind": kind, "unit": unit, "labels": labels}

    def look(self, name):
        """Unit, labels and binaries of a metric; None if there is no such."""
        if name in OWN:
            unit, labels = OWN[name]
            return unit, labels, {"broker", "adapter"}
        metric = self.metrics.get(name)
        return metric and (metric["unit"], metric["labels"], metric["parts"])


def parts(node):
    """Everything in an expression, itself included."""
    found = [node]
    for child in ("expr", "lhs", "rhs", "vector_selector"):
        if hasattr(node, child) and getattr(node, child) is not None:
            found += parts(getattr(node, child))
    for argument in getattr(node, "args", None) or []:
        found += parts(argument)
    return found


def selectors(node):
    return [part for part in parts(node) if isinstance(part, promql.VectorSelector)]


def matchers(selector):
    return selector.matchers.matchers


def alternatives(matcher):
    """The values that a matcher names, where it names them."""
    if matcher.op == promql.MatchOp.Equal:
        return {matcher.value}
    if matcher.op == promql.MatchOp.Re and re.fullmatch(r"[\w|.]+", matcher.value) and ".*" not in matcher.value:
        return set(matcher.value.split("|"))
    return set()


class Check:
    def __init__(self, tree):
        self.tree = tree
        self.catalogue = Catalogue(tree)
        self.problems = []

    def problem(self, place, text):
        self.problems.append(f"{place}: {text}")

    def expression(self, place, text):
        """Every metric and label of an expression exists, and a comparison can be true."""
        for variable, value in VARIABLES.items():
            text = text.replace(variable, value)
        try:
            tree = promql.parse(text)
        except ValueError as error:
            self.problem(place, f"not PromQL: {error}: {text}")
            return None
        for selector in selectors(tree):
            self.selector(place, selector)
        for part in parts(tree):
            self.grouping(place, part)
            if isinstance(part, promql.BinaryExpr):
                self.comparison(place, part)
        return tree

    def selector(self, place, selector):
        known = self.catalogue.look(selector.name)
        if known is None:
            self.problem(place, f"no such metric: {selector.name}")
            return
        _, labels, binaries = known
        for matcher in matchers(selector):
            if matcher.name == "job":
                for job in alternatives(matcher) - binaries:
                    self.problem(place, f"{selector.name} is no metric of job {job}")
            elif matcher.name in TARGET_LABELS:
                pass
            elif matcher.name not in labels:
                self.problem(place, f"{selector.name} has no label {matcher.name}")
            elif labels[matcher.name] is not None:
                for value in alternatives(matcher) - labels[matcher.name]:
                    self.problem(place, f"label {matcher.name} of {selector.name} is never {value}")

    def grouping(self, place, part):
        """Labels after by, on and so on are labels of something in it."""
        names = set()
        if isinstance(part, promql.AggregateExpr) and part.modifier is not None:
            names = set(part.modifier.labels)
        if isinstance(part, promql.BinaryExpr) and part.modifier is not None and part.modifier.matching is not None:
            names = set(part.modifier.matching.labels)
        known = set(TARGET_LABELS)
        for selector in selectors(part):
            of_metric = self.catalogue.look(selector.name)
            known |= set(of_metric[1]) if of_metric else names
        for name in names - known:
            self.problem(place, f"nothing in it has the label {name}")

    def comparison(self, place, part):
        """`x > 1` of something that is at most 1 is never true."""
        op, number, left = str(part.op), part.rhs, part.lhs
        while isinstance(left, (promql.AggregateExpr, promql.ParenExpr)) and str(getattr(left, "op", "max")) in ("max", "min", "avg"):
            left = left.expr
        if not isinstance(number, promql.NumberLiteral) or not isinstance(left, promql.VectorSelector):
            return
        known = self.catalogue.look(left.name)
        if known is None:
            return
        high = 1.0 if known[0] in ("0 or 1", "0 to 1") else math.inf
        value = number.val
        possible = {
            ">": high > value,
            ">=": high >= value,
            "<": value > 0,
            "<=": value >= 0,
            "==": 0 <= value <= high,
            "!=": True,
        }
        if not possible.get(op, True):
            self.problem(place, f"it can never fire: {left.name} is {known[0] or 'never below 0'}, and {op} {value:g} is asked for")

    def alerts(self):
        document = yaml.safe_load((self.tree / "observability/alerts.yaml").read_text())
        rules = [rule for group in document["groups"] for rule in group["rules"]]
        if any("record" in rule for rule in rules):
            self.problem("alerts.yaml", "a recording rule: every expression has to stand alone")
        names = [rule["alert"] for rule in rules]
        for name in {name for name in names if names.count(name) > 1}:
            self.problem("alerts.yaml", f"{name} is there twice")
        anchors = self.runbook()
        for rule in rules:
            place = f"alert {rule['alert']}"
            self.expression(place, rule["expr"])
            if rule.get("labels", {}).get("severity") not in SEVERITIES:
                self.problem(place, f"its severity is not one of {sorted(SEVERITIES)}")
            annotations = rule.get("annotations", {})
            for wanted in ("summary", "description"):
                if not annotations.get(wanted):
                    self.problem(place, f"it has no {wanted}")
            url = annotations.get("runbook_url", "")
            if not url.startswith(RUNBOOK):
                self.problem(place, f"its runbook_url does not begin with {RUNBOOK}")
            elif url.removeprefix(RUNBOOK) != rule["alert"].lower() or rule["alert"] not in anchors:
                self.problem(place, "docs/runbook.md has no entry for it")
        for heading in anchors - set(names):
            self.problem("docs/runbook.md", f"an entry for an alert that does not exist: {heading}")
        self.tests(set(names))
        return rules

    def runbook(self):
        text = (self.tree / "docs/runbook.md").read_text()
        entries = dict(re.findall(r"^### (Dunlin\w+)\n(.*?)(?=^##|\Z)", text, re.M | re.S))
        for name, entry in entries.items():
            for wanted in ("**What it means.**", "**Look.**", "**Do.**"):
                if wanted not in entry:
                    self.problem("docs/runbook.md", f"the entry of {name} lacks {wanted}")
        for name in set(re.findall(r"\bDunlin[A-Z]\w+", text)) - set(entries):
            self.problem("docs/runbook.md", f"it names an alert that has no entry: {name}")
        return set(entries)

    def books(self):
        """Files, headings and alerts that the operator's books refer to."""
        for name in BOOKS:
            path = self.tree / f"docs/{name}.md"
            text = path.read_text()
            for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
                file, _, anchor = target.partition("#")
                there = (path.parent / file).resolve() if file else path
                if not there.exists():
                    self.problem(f"docs/{name}.md", f"no such file: {target}")
                elif anchor and anchor not in anchors(there):
                    self.problem(f"docs/{name}.md", f"no such heading: {target}")
            for metric in set(re.findall(r"`((?:dunlin|process)_[a-z_]+)[`{]", text)):
                if self.catalogue.look(metric) is None and self.catalogue.look(metric + "_bucket") is None:
                    self.problem(f"docs/{name}.md", f"no such metric: {metric}")

    def tests(self, names):
        """Each alert has a test in which it fires and a moment in which it does not, with figures that a metric can have."""
        document = yaml.safe_load((self.tree / "observability/alerts.test.yaml").read_text())
        fires, silent = set(), set()
        for test in document["tests"]:
            for series in test["input_series"]:
                self.figures(f"test {test['name']}", series)
            for asked in test.get("promql_expr_test", []):
                alert = re.search(r'alertname="(\w+)",alertstate="firing"', asked["expr"])
                if alert:
                    (fires if asked.get("exp_samples") else silent).add(alert[1])
        for name in sorted(names - fires):
            self.problem(f"alert {name}", "it can never fire as far as we know: no test in alerts.test.yaml fires it")
        for name in sorted(names - silent):
            self.problem(f"alert {name}", "no test in alerts.test.yaml shows it silent")
        for name in sorted((fires | silent) - names):
            self.problem("alerts.test.yaml", f"a test of an alert that does not exist: {name}")

    def figures(self, place, series):
        tree = self.expression(place, series["series"])
        known = tree is not None and self.catalogue.look(tree.name)
        if known and known[0] in ("0 or 1", "0 to 1"):
            values = [float(value) for value in re.findall(r"(?:^|\s)(-?[\d.]+)", series["values"])]
            if any(value < 0 or value > 1 for value in values):
                self.problem(place, f"{tree.name} is {known[0]}, and never {series['values']}")

    def dashboards(self):
        folder = self.tree / "observability/dashboards"
        made = runpy.run_path(str(folder / "generate.py"))
        specs = [made[name] for name in ("CLUSTER", "REPLICA", "ADAPTERS", "FLEET")]
        files = {path.name for path in folder.glob("*.json")}
        uids = set()
        for spec in specs:
            name = spec[1].removeprefix("dunlin-") + ".json"
            files.discard(name)
            wanted = made["dashboard"](*spec)
            text = (folder / name).read_text() if (folder / name).exists() else "{}"
            there = json.loads(text)
            if there != wanted:
                self.problem(name, "it is not what generate.py makes: run observability/dashboards/generate.py")
            self.dashboard(name, there)
            uids.add(there.get("uid"))
        for name in files:
            self.problem(name, "generate.py does not make it")
        if len(uids) != len(specs):
            self.problem("dashboards", "two have one uid")

    def dashboard(self, name, board):
        # Grafana's own model of a dashboard leaves out what it does not know.
        known = json.loads(json.dumps(Dashboard.from_json(board), cls=JSONEncoder))
        for place in unknown(board, known):
            self.problem(name, f"Grafana does not know {place.removeprefix('.')}")
        ids, places = set(), set()
        variables = {variable["name"] for variable in board.get("templating", {}).get("list", [])}
        for variable in board.get("templating", {}).get("list", []):
            query = variable.get("query")
            if isinstance(query, dict):
                inner = re.fullmatch(r"label_values\((.*), \w+\)", query["query"])
                self.expression(f"{name}, variable {variable['name']}", inner[1] if inner else query["query"])
        for panel in board.get("panels", []):
            place = f"{name}, panel {panel['title']!r}"
            grid = panel["gridPos"]
            cells = {(x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])}
            if grid["x"] + grid["w"] > 24 or cells & places:
                self.problem(place, "it lies over another panel, or beyond the edge")
            places |= cells
            if panel["id"] in ids:
                self.problem(place, f"a second panel with id {panel['id']}")
            ids.add(panel["id"])
            if panel["type"] != "row" and not panel.get("targets"):
                self.problem(place, "it shows nothing")
            for target in panel.get("targets", []):
                for variable in re.findall(r"\$(\w+)", target["expr"]):
                    if variable not in variables and variable != "__rate_interval":
                        self.problem(place, f"no such variable: ${variable}")
                self.expression(place, target["expr"])


def unknown(ours, theirs, place=""):
    """What of a structure is not in another one."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key, value in ours.items():
            yield from unknown(value, theirs[key], f"{place}.{key}") if key in theirs else [f"{place}.{key}"]
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for index, (value, other) in enumerate(zip(ours, theirs)):
            yield from unknown(value, other, f"{place}[{index}]")
    elif ours != theirs:
        yield f"{place}: {ours!r}"


def anchors(path):
    """The anchors that GitHub makes of headings."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def expressions(tree):
    """(place, expression) of all dashboards."""
    for path in sorted((tree / "observability/dashboards").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", []):
                yield f"{path.name}, panel {panel['title']!r}", target["expr"]


def main():
    grafana_plugins.register_default_plugins()
    check = Check(pathlib.Path(sys.argv[1]))
    rules = check.alerts()
    check.books()
    check.dashboards()
    for problem in check.problems:
        print(problem)
    if check.problems:
        raise SystemExit(f"observability: {len(check.problems)} problems")
    shown = len(list(expressions(check.tree)))
    print(f"observability: {len(check.catalogue.metrics)} metrics, {len(rules)} alerts, each with a test and an entry in the runbook, {shown} expressions in dashboards")


if __name__ == "__main__":
    main()
