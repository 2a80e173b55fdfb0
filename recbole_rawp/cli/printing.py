"""Prints what a job found, and where it lies."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def show(result: dict[str, Any]) -> int:
    """Print what a run found and where it lies."""
    folder = result["output_dir"]
    print(f"\n{result['table']}\n")
    if result.get("overview"):
        print(f"{result['overview']}\n")
    for line in filter(None, [result.get("search"), *result.get("repair", [])]):
        print(line + "\n")
    show_failed(result.get("checks", []))
    if result.get("answer"):
        lines = "\n".join(["ANSWER", *result["answer"], ""]).replace("**", "")
        print(lines.replace("CHECKPOINT", result.get("checkpoint") or f"{folder}/model.pth"))
    print(f"report:  {folder}/report.md, {folder}/report.html\npicture: {folder}/robustness.png")
    return 0


def show_failed(checks: Iterable[Any]) -> None:
    """Print the self-checks that failed."""
    from recbole_rawp.report.scores import label

    for check in checks:
        if check.status == "failed":
            print(f"SELF-CHECK FAILED ({label(check.defense)}): {check.name} ({check.detail})")
