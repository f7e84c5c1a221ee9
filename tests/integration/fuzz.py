"""Asks a coordinator for all kinds of things by its own OpenAPI document, and tells what it answers that is not in there.

fuzz.py URL EXAMPLES: so many examples an operation, beside those that the document itself calls for.
"""

import json
import re
import subprocess
import sys
import tempfile
import urllib.request

CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance"
)


def short_waits(document):
    """A wait of minutes for what nobody does tells nothing new."""
    for item in document["paths"].values():
        for operation in item.values():
            for parameter in operation.get("parameters", []):
                if parameter["name"] == "wait":
                    parameter["schema"] = {"type": "string", "enum": ["1ms", "soon"]}


url, examples = sys.argv[1], sys.argv[2]
with urllib.request.urlopen(url + "/openapi.json") as answer:
    document = json.load(answer)
short_waits(document)
with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
    json.dump(document, file)
    file.flush()
    command = [sys.executable, "-m", "schemathesis.cli", "run", file.name, "--url", url, "--checks", CHECKS]
    command += ["--phases", "coverage,fuzzing", "--max-examples", examples, "--seed", "1", "--no-color"]
    command += ["--generation-database", "none", "--suppress-health-check", "all", "--request-timeout", "20"]
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
print(run.stdout)
counted = re.search(r"([\d,]+) generated", run.stdout)
print("requests:", counted.group(1).replace(",", "") if counted else 0)
sys.exit(run.returncode)
