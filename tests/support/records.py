"""The same records written as every kind of file that conjure reads."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow
from pyarrow import parquet

JOKES = [
    "My dog ate the clock; now he is a watch dog.",
    'He said "no", twice, and left.',
    "Времени нет, а часы идут.",
    "A line\nand another.",
    "😀 naïve, isn't it?",
]
ONE_LINERS = [joke for joke in JOKES if "\n" not in joke]
KINDS = ("csv", "tsv", "jsonl", "parquet")


def write_records(path: Path, texts: Sequence[str]) -> Path:
    """Write texts as the kind of file the path's ending says, tables with columns ID and Joke."""
    match path.suffix:
        case ".csv" | ".tsv":
            with path.open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
                writer.writerow(["ID", "Joke"])
                writer.writerows(enumerate(texts, start=1))
        case ".jsonl":
            rows = [json.dumps({"ID": number, "Joke": text}) for number, text in enumerate(texts, start=1)]
            path.write_text("\n".join(rows) + "\n", encoding="utf-8")
        case ".parquet":
            columns = {"ID": list(range(1, len(texts) + 1)), "Joke": list(texts)}
            parquet.write_table(pyarrow.table(columns), path)
        case ".txt":
            path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
        case other:
            raise ValueError(f"no writer for {other}")
    return path


def many_records(count: int) -> list[str]:
    """Distinct one-line records of various lengths."""
    return [f"Record {number} has {'many ' * (number % 7)}words." for number in range(count)]
