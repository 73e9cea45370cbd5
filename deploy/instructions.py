"""How many instructions the hot paths take, by valgrind: the same on a busy machine as on an idle one.

`instructions.py` compares with deploy/instructions.json, and fails where one takes 10 % more. `--accept` writes that file.
Each path is run so and so many times and twice as often: the difference has no start-up in it.
"""

import json
import os
import pathlib
import re
import subprocess
import sys

BASELINE = pathlib.Path("deploy/instructions.json")
MOST = 1.10
# Package, and for each path how often it is run.
BENCHES = {
    "custodian": {"policy": 200, "record": 200, "receipt": 200},
    "client": {"sealed": 8},
}


def programs():
    """The benches, by the folder of their package."""
    command = ["cargo", "bench", "--workspace", "--locked", "--quiet", "--bench", "instructions", "--no-run", "--message-format=json"]
    told = map(json.loads, subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines())
    built = [message for message in told if message.get("executable") and message["target"]["name"] == "instructions"]
    return {pathlib.Path(message["manifest_path"]).parent.name: message["executable"] for message in built}


def count(executable, path, times):
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", executable, path, str(times)]
    told = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=True).stderr
    return int(re.search(r"Collected : (\d+)", told)[1])


def main():
    counts = {}
    built = programs()
    for package, paths in BENCHES.items():
        executable = built[package]
        for path, times in paths.items():
            counts[path] = (count(executable, path, 2 * times) - count(executable, path, times)) // times
    if "--accept" in sys.argv:
        BASELINE.write_text(json.dumps(counts, indent=2) + "\n")
    baseline = json.loads(BASELINE.read_text())
    rows = []
    for path, instructions in counts.items():
        ratio = instructions / baseline[path]
        rows.append({"name": f"instructions of one {path}: {instructions:,}; now / accepted", "value": ratio,
                     "unit": "ratio", "target": f"≤ {MOST}", "met": ratio <= MOST})
        print(f"{path:<10} {instructions:>14,} instructions, {ratio:.3f} of what was accepted")
    folder = os.environ.get("BENCH_ROWS")
    if folder:
        bench = {"bench": "instructions", "commit": os.environ.get("BENCH_COMMIT"), "rows": rows}
        pathlib.Path(folder, "instructions.json").write_text(json.dumps(bench))
    worse = [row["name"] for row in rows if not row["met"]]
    if worse:
        sys.exit("more instructions than accepted: " + "; ".join(worse)
                 + ". Find out why; if it must be so: ./deploy/bench --accept instructions")


main()
