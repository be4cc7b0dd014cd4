"""A paid judge with injected errors, and a command that is killed at random: is anything lost, or paid twice?

    python -m benchmarks.judge_chaos --calls 2000 --kills 10 --seed 0

Starts `lens judge` repeatedly against a local server that injects errors, kills it at random times, lets it finish,
resends the requests of unknown payment, and compares with the records of the server. Fails if a question is sent again
after its answer was recorded, if a verdict is missing, if the server billed more than the limit, or if an odd reply
(strange counts, shapes, reasoning, errors, pages, truncated bodies) was misread.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random

import pandas as pd

from storage_layouts.budget import Budget
from storage_layouts.runs import RunFolder
from storage_layouts.verdicts import read_verdicts
from storage_layouts.verification import verify
from tests.judge_runs import KEY, answered, assert_books_agree, prices, response_id
from tests.judge_server import FAULTS, JudgeServer
from tests.odd_replies import ODDITIES
from tests.synthetic_run import make_results

PER_PATCH = 9.9  # three layers, three lenses, and a control on a tenth
FAULT_SHARES = {"429": 0.06, "500": 0.04, "timeout": 0.01, "drop": 0.03, "drop after": 0.02, "slow": 0.4}
FAULT_SHARES |= {"refusal": 0.03, "truncated": 0.02, "malformed": 0.02}
FAULT_SHARES |= {name: 0.3 / len(ODDITIES) for name in ODDITIES}


def main() -> int:
    """Run the test once and print the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--max-cost", type=float, default=10.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        results = make_results(folder / "analyzed")
        with JudgeServer(lambda text, urls: ["circle", "star"], FAULT_SHARES, seed=arguments.seed, key=KEY) as server:
            print(json.dumps(_chaos(arguments, folder, results.path, server), indent=1))
    return 0


def _chaos(arguments: argparse.Namespace, folder: Path, results: Path, server: JudgeServer) -> dict[str, object]:
    out, random, began = folder / "run", Random(arguments.seed), time.monotonic()
    environment = {**os.environ, "OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": server.url}
    command = [sys.executable, "-m", "launch.cli", "judge", "--results", str(results), "--out", str(out)]
    command += ["--judge", "openai:judge-1", "--patches", str(round(arguments.calls / PER_PATCH))]
    command += ["--items-per-shard", "20", "--workers", str(arguments.workers), "--stale-after", "3"]
    command += ["--max-cost", str(arguments.max_cost), "--prices", str(prices(folder)), "--max-output-tokens", "400"]
    command += ["--request-timeout", "1", "--concurrency", "8", "--image-side", "64", "--crop-side", "32"]
    output = []
    kills = 0
    for _ in range(arguments.kills):
        driver = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        until = len(server.arrivals) + random.randrange(20, round(1.6 * arguments.calls / (arguments.kills + 1)))
        while len(server.arrivals) < until and driver.poll() is None:
            time.sleep(0.01)
        if driver.poll() is None:
            kills += 1
            driver.kill()
        output.append(driver.communicate()[0])
    for extra in ([], ["--resend-unknown"]):
        done = subprocess.run([*command, *extra], env=environment, capture_output=True, check=False)
        output += [done.stdout, done.stderr]
        assert done.returncode == 0, done.stderr.decode()
        if not extra:
            unknown = sum(len(receipt.facts["unknown_payments"]) for receipt in RunFolder.open(out).receipts())
    run = RunFolder.open(out)
    verdicts, budget = read_verdicts(run), Budget(out / "budget")
    budget.refresh()
    assert len(verdicts) == round(9 * (run.require_plan().items + -(-run.require_plan().items // 10)))
    assert_books_agree(server, run, arguments.max_cost)
    told = b"".join(output) + b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert KEY.encode() not in told
    faults = Counter(arrival.fault or "none" for arrival in server.arrivals)
    assert set(faults) >= {*FAULTS, *ODDITIES}
    assert verify(out).problems == []
    odd = _odd_outcomes(server, out / "ledger", verdicts)
    return {
        "verdicts": len(verdicts),
        "outcomes": verdicts["outcome"].value_counts().to_dict(),
        "different questions": int(verdicts["key"].nunique()),
        "requests that reached the server": len(server.arrivals),
        "faults": dict(faults),
        "odd replies that were answers or unparsable": len(odd),
        "kills": kills,
        "requests of unknown payment, sent again": unknown,
        "questions asked again after a settled answer": 0,
        "billed by the server, dollars": server.billed / 1e9,
        "counted as spent, dollars": budget.spent / 1e9,
        "limit, dollars": arguments.max_cost,
        "seconds": round(time.monotonic() - began),
    }


def _odd_outcomes(server: JudgeServer, ledger: Path, verdicts: pd.DataFrame) -> list[str]:
    """Returns the outcomes of the odd replies that are no failures. Raises AssertionError if one was misread."""
    faults = {arrival.response_id: arrival.fault for arrival in server.arrivals if arrival.response_id}
    outcomes = dict(zip(verdicts["key"], verdicts["outcome"], strict=True))
    found = []
    for event, reply in answered(ledger):
        odd = ODDITIES.get(faults[response_id(reply)])
        if odd is not None and event["key"] in outcomes:
            assert odd.means != "failed"
            assert (outcomes[event["key"]] == "unparsable") == (odd.means == "unparsable")
            found.append(outcomes[event["key"]])
    return found


if __name__ == "__main__":
    sys.exit(main())
