"""Homes with runs and uploads in them, made without running anything."""

from collections.abc import Mapping
from pathlib import Path

from conjure.core.home import Home
from conjure.runs.artifacts.manifest import take_manifest
from support.repositories import write_files


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
