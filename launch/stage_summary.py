"""The final messages of a stage: what was skipped, and why something is missing."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from launch.clusters.logs import last_words, read_log
from launch.run_status.reading import status_of
from launch.run_status.snapshot import RunStatus
from storage_layouts.counts import counted, share, unit_of
from storage_layouts.runs import RunFolder
from storage_layouts.verdicts import ASKED, UNKNOWN_PAYMENTS, unknown_payments


def skipped_images(run: RunFolder, shown: int = 10) -> list[str]:
    """Returns lines with the number of unreadable images and the first of them."""
    found = _unreadable(run)
    if not found:
        return []
    more = [f"  ... and {len(found) - shown} more (geometry/ lists all)"] if len(found) > shown else []
    lines = [f"  {skipped['path']}: {skipped['reason']}" for skipped in found[:shown]]
    were = "was" if len(found) == 1 else "were"
    return [f"{run.stage}: {counted(len(found), 'image')} could not be read and {were} skipped:", *lines, *more]


def _unreadable(run: RunFolder) -> list[dict[str, str]]:
    return [skipped for receipt in run.receipts() for skipped in receipt.facts.get("unreadable", [])]


def sinks(run: RunFolder, title: str) -> list[str]:
    """Returns a line on the rows of a store that are attention sinks, if there are any; `title` is its prefix."""
    count = sum(len(receipt.facts.get("sinks", ())) for receipt in run.receipts())
    if not count:
        return []
    rows = share(count, run.require_plan().items, "row")
    are = "is an attention sink" if count == 1 else "are attention sinks"
    way = "" if run.config.get("add") else "; --keep-sinks would keep them"  # as the stores that are continued do
    return [f"{title}: {rows} {are} (massive norm), which no search finds{way}"]


def completed(run: RunFolder) -> str:
    """Returns the contents of a complete run, as in `9 of 10 images in 1 shard`, and the verdicts that enter rates."""
    plan = run.require_plan()
    skipped = len(_unreadable(run)) if run.stage == "analyze" else 0
    unit = unit_of(run.stage)
    held = share(plan.items - skipped, plan.items, unit) if skipped else counted(plan.items, unit)
    outcomes: Counter[str] = Counter()
    for receipt in run.receipts():
        for of_judge in receipt.facts.get("outcomes", {}).values():
            outcomes.update(of_judge)
    rated = outcomes["yes"] + outcomes["no"]
    verdicts = f"; {share(rated, outcomes.total(), 'verdict')} enter rates" if outcomes else ""
    return f"{held} in {counted(plan.shard_count, 'shard')}{verdicts}"


def missing_answers(run: RunFolder, shown: int = 10) -> list[str]:
    """Returns lines on the verdicts that are neither yes nor no, and on requests of unknown payment."""
    lines = []
    counts: dict[str, Counter[str]] = {}
    why: dict[str, str] = {}
    unknown: list[str] = []
    for receipt in run.receipts():
        for judge, outcomes in receipt.facts.get("outcomes", {}).items():
            perhaps_paid = unknown_payments(receipt.facts, judge)  # failed verdicts too
            of_judge = counts.setdefault(judge, Counter())
            of_judge.update(outcomes)
            of_judge["failed"] -= perhaps_paid
            of_judge["perhaps paid"] += perhaps_paid
            why[judge] = why.get(judge) or receipt.facts.get(ASKED, {}).get(judge, {}).get("why", "")
        unknown += receipt.facts.get(UNKNOWN_PAYMENTS, [])
    for judge, outcomes in counts.items():
        kinds = ("refused", "unparsable", "failed", "perhaps paid")
        missing = [f"{outcomes[kind]:,} {kind}" for kind in kinds if outcomes[kind]]
        if missing:
            remedy = "; --ask-failed-again asks those that failed again" if outcomes["failed"] else ""
            example = f" (such as: {why[judge]})" if why[judge] else ""
            counts_of = f"{', '.join(missing)} of {counted(outcomes.total(), 'verdict')}, which enter no rate"
            lines.append(f"{run.stage}: {judge}: {counts_of}{example}{remedy}")
    if unknown:
        names = ", ".join(key[:12] for key in unknown[:shown]) + (", ..." if len(unknown) > shown else "")
        lines.append(
            f"{run.stage}: {counted(len(unknown), 'request')} {'was' if len(unknown) == 1 else 'were'} under way when "
            "a worker died, and may have been paid: "
            f"{names}; repeat the command with --resend-unknown to ask them again"
        )
    return lines


def useless(run: RunFolder) -> str:
    """Returns why a complete run is useless (no image could be read, or no verdict is yes or no); else ""."""
    if run.stage == "analyze" and len(_unreadable(run)) == run.require_plan().items:
        return "no image could be read"
    asked = [of_judge for receipt in run.receipts() for of_judge in receipt.facts.get(ASKED, {}).values()]
    if any(one["things"] for one in asked) and not any(one["answered"] for one in asked):
        return "no verdict is a yes or no, so there is no rate"
    return ""


def failure(run: RunFolder, title: str, logs: list[Path], shown: int = 5) -> str:
    """Returns why a run is incomplete (failed shards, or the last error of a worker), and what to do.

    `title` is the prefix, as the user calls the stage.
    """
    status = status_of(run.path)
    if not status.planned:
        return f"{title}: not planned yet ({_last_error(status, logs)}); repeat the command to go on: {run.path}"
    missing = status.shards - status.done
    are = "is" if status.shards == 1 else "are"
    lines = [f"{title}: {share(missing, status.shards, 'shard')} {are} missing: {run.path}"]
    for failed in status.failed[:shown]:
        where = f"; log: {failed.log}" if failed.log else ""
        lines.append(f"  shard {failed.shard} failed {counted(failed.tries, 'time')}: {failed.error}{where}")
    if len(status.failed) > shown:
        lines.append(f"  ... and {len(status.failed) - shown} more (lens status {run.path} --failed shows all)")
    if not status.failed:
        lines.append(f"  {_last_error(status, logs)}")
    quarantined = sum(failed.quarantined for failed in status.failed)
    if quarantined:
        shards = f"{counted(quarantined, 'shard')} {'is' if quarantined == 1 else 'are'} quarantined"
        lines.append(f"{shards}: fix the cause, and repeat the command with --retry-failed")
    if quarantined < missing:
        lines.append("repeat the command to go on")
    return "\n".join(lines)


def _last_error(status: RunStatus, logs: list[Path]) -> str:
    """Returns the last error that a worker reported; a killed worker reports none, and then that in its log."""
    if status.last_error is not None:
        log = status.last_error.log or next(map(str, logs[-1:]), "")
        return status.last_error.error + (f"; log: {log}" if log else "")
    return "".join(f"{last_words(read_log(log))}; log: {log}" for log in logs[-1:]) or "a worker was killed"
