"""The hashed requirements of CI are those that the constraints name."""

from __future__ import annotations

import re

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import REPOSITORY

LOCK = (REPOSITORY / "requirements-ci.txt").read_text(encoding="utf-8")
PINNED = dict(re.findall(r"^([\w.-]+)==(\S+) \\$", LOCK, re.MULTILINE))
CI = {"python_version": "3.11", "python_full_version": "3.11.0", "platform_machine": "x86_64",
      "platform_system": "Linux", "sys_platform": "linux"}  # fmt: skip
# PyTorch comes without a hash (the Makefile says why); the tools of a release are not CI's.
ELSEWHERE = {"torch", "cyclonedx-bom", "uv"}


def constraints() -> dict[str, str]:
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {
        canonicalize_name(r.name): str(r.specifier).removeprefix("==")
        for r in found
        if r.marker is None or r.marker.evaluate(CI)
    }


def test_every_constraint_is_in_the_hashed_requirements() -> None:
    wanted = {name: v for name, v in constraints().items() if name not in ELSEWHERE}
    assert {name: PINNED.get(name) for name in wanted} == wanted, "run: make lock"
    assert not ELSEWHERE & set(PINNED)


def test_every_package_has_a_hash_and_no_index_of_somebody_is_named() -> None:
    lines = [line for line in LOCK.splitlines() if not line.startswith("#")]
    pins = [i for i, line in enumerate(lines) if "==" in line]
    assert len(pins) == len(PINNED) > 50
    assert all(re.match(r"    --hash=sha256:[0-9a-f]{64}", lines[i + 1]) for i in pins)
    assert all(re.match(r"([\w.-]+==\S+|    --hash=sha256:[0-9a-f]{64})( \\)?$", x) for x in lines)
