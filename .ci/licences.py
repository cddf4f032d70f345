#!/usr/bin/env python3
"""Licences, bans and sources of every dependency, by the lists of deny.toml.

`cargo deny` checks more (advisories too) and is used where it is installed; this needs nothing but
Python 3.11 and cargo, so that the check never depends on building another tool first.
"""
import pathlib
import subprocess
import sys
import tomllib

here = pathlib.Path(__file__).parent
rules = tomllib.loads((here / "deny.toml").read_text())
allowed = set(rules["licenses"]["allow"])
banned = {entry["crate"] for entry in rules["bans"]["deny"]}


def satisfied(expression: str) -> bool:
    """Whether the allowed licences satisfy an SPDX expression (AND, OR, parentheses, the old slash)."""
    words = expression.replace("/", " OR ").replace("(", " ( ").replace(")", " ) ").split()
    tokens, i = [], 0
    while i < len(words):
        if i + 2 < len(words) and words[i + 1] == "WITH":
            tokens.append(" ".join(words[i : i + 3]))
            i += 3
        else:
            tokens.append(words[i])
            i += 1
    python = {"AND": "and", "OR": "or", "(": "(", ")": ")"}
    joined = " ".join(python.get(token, str(token in allowed)) for token in tokens)
    return eval(joined, {"__builtins__": {}})  # only True, False, and, or, parentheses


faults = []

lock = tomllib.loads((here.parent / "Cargo.lock").read_text())
for package in lock["package"]:
    source = package.get("source", "")
    if source and not source.startswith("registry+"):
        faults.append(f"{package['name']}: expected a registry as its source, found {source}")

# What our features build on this platform, those of release packages with them: name, version, licence.
command = ["cargo", "tree", "--locked", "--workspace", "--edges", "normal,build"]
command += ["--features", "hospital-trainer/wgpu,hospital-trainer/cuda"]
command += ["--prefix", "none", "--format", "{p}|{l}"]
tree = subprocess.run(command, cwd=here.parent, check=True, stdout=subprocess.PIPE, text=True).stdout
packages = sorted({line.removesuffix(" (*)") for line in tree.splitlines() if line.strip()})
for package in packages:
    name, _, licence = package.partition("|")
    if name.split()[0] in banned:
        faults.append(f"{name}: banned")
    if not satisfied(licence or "none"):
        faults.append(f"{name}: {licence or 'no licence'} is not among the allowed licences")

print("\n".join(faults) or f"licences: {len(packages)} packages, all allowed")
sys.exit(1 if faults else 0)
