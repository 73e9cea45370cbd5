"""One table of what the benches wrote: `bench-table.py FOLDER [DOCUMENT]`. With DOCUMENT, between its two marks; else printed.

Benches can be run one by one, so each says which commit it measured. What was run by hand does not know.
"""

import json
import os
import pathlib
import platform
import subprocess
import sys

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def short(value):
    decimals = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{decimals}f}"


def figure(row):
    text = f"{short(row['value'])} {row['unit']}".strip()
    if "range" in row and row["range"]:
        text += " ({} to {})".format(*map(short, row["range"]))
    return text


def verdict(row):
    return {True: "met", False: "**not met**", None: ""}[row.get("met")]


def said(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return ""


def machine():
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "unknown")
    memory = int(open("/proc/meminfo").readline().split()[1]) / 1024**2
    programs = [said("rustc", "--version"), said("openssl", "version"), "SoftHSM " + said("softhsm2-util", "--version")]
    for name, command in {"age": ["age", "--version"], "gpg": ["gpg", "--version"], "sq": ["sq", "--version"]}.items():
        told = said(*command)
        if told:
            programs.append(told if told.startswith(name) else f"{name} {told}")
    return (
        f"{os.cpu_count()} cores of {model}, {memory:.0f} GiB, Linux {platform.release().split('-')[0]}. "
        + "; ".join(programs)
        + ".\nA range is the least and the most of the rounds, the figure before it their median."
    )


def benches(folder):
    return [json.loads(path.read_text()) for path in sorted(pathlib.Path(folder).glob("*.json"))]


def table(folder):
    lines = [machine(), ""]
    for bench in benches(folder):
        lines += [f"### {bench['bench']}", "", f"Commit {bench.get('commit') or 'not known'}.", "", "| | | target | |", "|---|---|---|---|"]
        lines += [f"| {row['name']} | {figure(row)} | {row.get('target') or ''} | {verdict(row)} |" for row in bench["rows"]]
        lines.append("")
    return "\n".join(lines)


def main(folder, document=None):
    text = table(folder)
    if document is None:
        print(text)
        return
    path = pathlib.Path(document)
    before, rest = path.read_text().split(BEGIN)
    _, after = rest.split(END)
    path.write_text(f"{before}{BEGIN}\n{text}{END}{after}")
    print(f"written into {document}")


main(*sys.argv[1:])
