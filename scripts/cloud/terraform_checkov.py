#!/usr/bin/env python3
"""terraform_checkov.py CHECKOV TERRAFORM: runs checkov over a folder with Terraform files. What it finds is an error unless terraform_checkov.txt says why it
is not; so is a line there that nothing needs, and a run that has looked at next to nothing.
"""
import json
import re
import subprocess
import sys
from pathlib import Path

ALLOWED = Path(__file__).with_suffix(".txt")
# It makes 49 today; fewer than this, and it has not understood the files.
LEAST = 40


def main():
    checkov, folder = sys.argv[1:]
    command = [checkov, "--framework", "terraform", "--directory", folder, "--skip-download", "--compact", "--output", "json"]
    command += ["--var-file", f"{folder}/examples/production/terraform.tfvars"]
    run = subprocess.run(command, capture_output=True, text=True)
    try:
        report = json.loads(run.stdout)
    except json.JSONDecodeError:
        sys.exit(f"checkov has not run:\n{run.stdout[-2000:]}{run.stderr[-2000:]}")
    if "results" not in report or report["summary"]["parsing_errors"] or report["summary"]["passed"] < LEAST:
        sys.exit(f"checkov has not understood the files: {report.get('summary', report)} {report.get('results', {}).get('parsing_errors', '')}")
    allowed = dict(re.findall(r"^(CKV\w+ \S+): (.+)$", ALLOWED.read_text(), re.M))
    found = {f"{check['check_id']} {check['resource']}": check["check_name"] for check in report["results"]["failed_checks"]}
    wrong = [f"checkov: {where}: {name}" for where, name in sorted(found.items()) if where not in allowed]
    wrong += [f"{ALLOWED.name}: {where} is found no more" for where in sorted(set(allowed) - set(found))]
    if wrong:
        sys.exit("\n".join(wrong))
    print(f"checkov: {report['summary']['passed']} checks passed, {len(allowed)} do not apply ({ALLOWED.name} says why)")


if __name__ == "__main__":
    main()
