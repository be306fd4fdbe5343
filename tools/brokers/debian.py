"""Debian's packages, installed without starting the services that come with them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from brokers.executables import find_executable
from brokers.quietly import run_quietly
from brokers.run import Report
from brokers.unavailable import Unavailable

APT_SECONDS = 600
# Debian asks this program whether a package may start its service; 101 means no.
SERVICE_POLICY = Path("/usr/sbin/policy-rc.d")
START_NO_SERVICE = "#!/bin/sh\n# Written by spakky-tracing's set-up while it installs packages.\nexit 101\n"


def install(package: str, report: Report) -> None:
    """Install a package as root on Debian.

    Raises:
        Unavailable: This is not Debian, or we are not root, or apt-get fails.
    """
    if os.geteuid() != 0 or not find_executable("apt-get"):
        raise not_installed(package)
    report(f"installing Debian's package {package} ...")
    with _no_service_starts():
        _update()
        _apt_get("install", "--yes", "--no-install-recommends", package)


def not_installed(package: str) -> Unavailable:
    """Say that a package is missing and how to get it."""
    return Unavailable(reason=f"{package} is not installed", remedy=f"install {package}")


@contextmanager
def _no_service_starts() -> Iterator[None]:
    if SERVICE_POLICY.exists() and SERVICE_POLICY.read_text() != START_NO_SERVICE:
        yield
        return
    SERVICE_POLICY.write_text(START_NO_SERVICE)
    SERVICE_POLICY.chmod(0o755)
    try:
        yield
    finally:
        SERVICE_POLICY.unlink()


@cache
def _update() -> None:
    _apt_get("update")


def _apt_get(*arguments: str) -> None:
    command = ["apt-get", "--quiet=2", "--option=DPkg::Lock::Timeout=120", *arguments]
    variables = {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    run_quietly(command, arguments[0], APT_SECONDS, variables=variables)
