"""What other people's verifiers say of a log: aics-tlog and pymerkle from PyPI.

Usage: foreign.py LOG LOG_KEY WITNESS_KEYS QUORUM OLD_CHECKPOINT ENTRY_FILE INDEX
Prints one line per question, `tool question: answer`; the caller compares.
"""
import json
import pathlib
import subprocess
import sys

log, log_key, witness_keys, quorum, old, entry, index = sys.argv[1:]
folder = pathlib.Path(log)


def ask(question, *arguments):
    command = [sys.executable, "-m", "aics_tlog", *arguments, "--log-key", log_key]
    answer = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(f"aics-tlog {question}: {answer.returncode} {answer.stdout.strip()}", file=sys.stderr)
    print(f"aics-tlog {question}: {'ok' if answer.returncode == 0 else 'refused'}")


try:
    from aics_tlog.checkpoint import checkpoint_from_note
    from aics_tlog.tiles import FileSystemTileReader
    from aics_tlog.verified import audit_tiles
except ImportError as error:
    print(f"aics-tlog: absent ({error})")
else:
    witnesses = [word for key in witness_keys.split(",") for word in ("--witness-key", key)]
    ask("checkpoint", "verify-checkpoint", "--tiles", log, *witnesses, "--quorum", quorum)
    ask("consistency", "verify-consistency", "--tiles", log, "--old-checkpoint", old)
    ask("inclusion", "verify-inclusion", "--tiles", log, "--leaf", entry, "--index", index)
    checkpoint, _ = checkpoint_from_note((folder / "checkpoint").read_bytes())
    try:
        report = audit_tiles(FileSystemTileReader(folder), checkpoint.size, checkpoint.root)
        print(f"aics-tlog audit_tiles: {report.tiles} tiles, {report.bundles} bundles")
    except Exception as error:
        print(f"aics-tlog audit_tiles: {error}", file=sys.stderr)
        print("aics-tlog audit_tiles: refused")

try:
    from pymerkle import InmemoryTree
except ImportError as error:
    print(f"pymerkle: absent ({error})")
else:
    tree = InmemoryTree(algorithm="sha256")
    for bundle in sorted((folder / "tile" / "entries").iterdir(), key=lambda path: path.name):
        if bundle.is_dir():
            width, bundle = max((int(part.name), part) for part in bundle.iterdir())
        data, at = bundle.read_bytes(), 0
        while at < len(data):
            length = int.from_bytes(data[at : at + 2], "big")
            tree.append_entry(data[at + 2 : at + 2 + length])
            at += 2 + length
    print(f"pymerkle root: {tree.get_state().hex()}")
