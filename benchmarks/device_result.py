"""The result of device_check.py: what was found, what failed, what stays unverified."""

from __future__ import annotations

import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import asdict
from pathlib import Path
from typing import Any

from device_session import REPOSITORY, Session


def read_junit(path: Path) -> dict[str, Any]:
    """Count a test report's outcomes."""
    cases = ElementTree.parse(path).getroot().iter("testcase")
    counted: dict[str, Any] = {"passed": 0, "failed": [], "skipped": []}
    for case in cases:
        name = f"{case.get('classname')}::{case.get('name')}"
        skipped, broken = case.find("skipped"), [*case.iter("failure"), *case.iter("error")]
        if broken:
            counted["failed"].append({"test": name, "reason": broken[0].get("message", "")[:500]})
        elif skipped is not None:
            counted["skipped"].append({"test": name, "reason": skipped.get("message", "")})
        else:
            counted["passed"] += 1
    return counted


def summarize(session: Session) -> dict[str, Any]:
    """Return the result: verdict, device, steps, and what stays unverified."""
    gpus = session.gpus
    jetson = session.doctor.get("machine", {}).get("jetson")
    failed = any(step.failed for step in session.steps)
    unverified = [f"{s.name}: {s.detail}" for s in session.steps if s.outcome == "not checked"]
    if gpus and not jetson:
        unverified.append("power modes, DLA and zero-copy memory: this is no Jetson")
    return {
        "schema": 1,
        "verdict": "failed" if failed else "passed" if gpus else "nothing of a device was checked",
        "device": ((jetson or {}).get("model") or gpus[0]["name"]) if gpus else "",
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit(),
        "unverified": unverified,
        "steps": [asdict(step) for step in session.steps],
    }


def commit() -> str:
    """Return the commit that was checked, and whether files differ; empty outside a repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def scrub(text: str, session: Session) -> str:
    """Take this machine's folders out of the result."""
    places = {
        str(session.work): "<work>", str(REPOSITORY): "<repository>", sys.prefix: "<python>",
        str(Path.home()): "<home>",
    }  # fmt: skip
    for place in sorted(places, key=len, reverse=True):
        if len(place) > 1:
            text = text.replace(place, places[place])
    return text


def slug(name: str) -> str:
    """Return a name for a file."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
