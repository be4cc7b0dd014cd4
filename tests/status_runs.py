"""Runs in every state, made by hand, and a call of `lens status` on them."""

from __future__ import annotations

import json
import os
import time

from launch import cli
from storage_layouts.files import write_atomic
from storage_layouts.runs import Receipt, RunFolder

LONG_AGO = 5000.0


def make_run(path, items=40, planned=True):
    run = RunFolder.create(path, "extract", {"name": path.name}, {})
    if planned:
        run.write_plan(items, 4, {}, {})
    return run


def finish(run, shard, size=100):
    name = f"data/{shard:05d}"
    digest = write_atomic(run.path / name, b"x" * size)
    run.write_receipt(Receipt(shard, run.require_plan().shard(shard).items, {name: digest}))


def age(path, seconds):
    """Make every file look old."""
    for found in [path, *path.rglob("*")]:
        os.utime(found, (time.time() - seconds,) * 2)


def look(capsys, *words):
    """Exit code, and the JSON document if it was asked for, else the text."""
    code = cli.main(["status", *map(str, words)])
    out = capsys.readouterr().out
    return code, json.loads(out) if "--json" in words else out
