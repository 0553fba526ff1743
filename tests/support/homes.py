"""Homes with runs and uploads in them, made without running anything."""

from collections.abc import Iterator, Mapping
from itertools import takewhile
from pathlib import Path

from conjure.core.home import Home
from conjure.runs.artifacts.manifest import take_manifest
from conjure.runs.maintenance.doctor import Finding, examine
from support.repositories import write_files


def examine_files(home: Home) -> Iterator[Finding]:
    """What doctor finds in a home; it does not get to the programs, to start which takes longest."""
    return takewhile(lambda finding: finding.name != "git", examine(home))


def add_outputs(home: Home, number: int, files: Mapping[str, str | bytes]) -> Path:
    """Give run `number` these outputs; their folder."""
    outputs = home.run_folder(number) / "outputs"
    outputs.mkdir(parents=True, exist_ok=True)
    write_files(outputs, files)
    take_manifest(outputs).save(home.run_folder(number) / "manifest.json")
    return outputs


def add_work(home: Home, number: int, files: Mapping[str, str | bytes]) -> Path:
    """Give run `number` a working folder, as while it is alive; the folder."""
    work = home.run_folder(number) / "work"
    work.mkdir(parents=True, exist_ok=True)
    write_files(work, files)
    return work
