"""Labels, projects, links and the archive in a database.

Main entry: `LabelStatements` (see `base.LabelsAndLinks` and `base.Projects`). Invariant: what is said here is
in files too, before the database says it: labels and projects in the runs' records, the links in a file of
their own.
"""

from dataclasses import replace

from conjure.core.quoting import shell_words
from conjure.core.text import did_you_mean
from conjure.errors import ConflictError, NotFoundError
from conjure.runs.database.base import Link, Project
from conjure.runs.database.record_files import write_links
from conjure.runs.database.rows import as_json
from conjure.runs.database.run_statements import RunStatements
from conjure.runs.database.statements import reading_rows
from conjure.runs.schema.record import from_iso
from conjure.runs.schema.resource import LAST


class LabelStatements(RunStatements):
    """See `base.LabelsAndLinks` and `base.Projects`, which say what each method does."""

    def add_label(self, number: int, label: str) -> None:
        """Give a run a label; it may have it already."""

        def add() -> None:
            self.get(number)
            self._insert_label(number, label)
            self._rewrite(number)

        self._change(number, add)

    def remove_label(self, number: int, label: str) -> None:
        """Take a label off a run."""

        def remove() -> None:
            labels = self.get(number).labels
            if label not in labels:
                known = f"its labels are {', '.join(labels)}" if labels else "it has none"
                raise NotFoundError(f"run {number} has no label {label!r}; {known}")
            self._session.execute("DELETE FROM run_labels WHERE run = ? AND label = ?", (number, label))
            self._rewrite(number)

        self._change(number, remove)

    def set_archived(self, number: int, *, archived: bool) -> None:
        """Put a run away, or take it out again."""

        def archive() -> None:
            self.get(number)
            self._set(number, {"archived_at": self._now() if archived else None})
            self._rewrite(number)

        self._change(number, archive)

    def projects(self) -> list[Project]:
        """All projects, the one with the newest run first; runs without one as the last of them."""
        rows = self._session.query(
            "SELECT project, count(*) AS runs, sum(CASE WHEN end_reason IS NULL THEN 1 ELSE 0 END) AS active,"
            " max(number) AS newest, max(requested_at) AS requested_at FROM runs GROUP BY project"
        )
        with reading_rows():
            found = [
                Project(
                    row["project"], row["runs"], row["active"], row["newest"], from_iso(row["requested_at"])
                )
                for row in rows
            ]
        return sorted(found, key=lambda project: (project.name is None, -project.newest))

    def project_names(self) -> list[str]:
        """The names of all projects, in order."""
        return self._column("SELECT DISTINCT project FROM runs WHERE project IS NOT NULL ORDER BY project")

    def rename_project(self, name: str, new_name: str) -> int:
        """Let the runs of a project belong to another, which there may be already."""
        numbers = self._column("SELECT number FROM runs WHERE project = ? ORDER BY number", (name,))
        if not numbers:
            known = self.project_names()
            near = did_you_mean(name, known) or (
                f"available: {', '.join(known)}" if known else "there are none"
            )
            raise NotFoundError(f"there is no project {name!r}; {near}", fix="conjure project ls")
        for number in numbers:
            self._change(number, lambda number=number: self._set_project(number, name, new_name))
        return len(numbers)

    def _set_project(self, number: int, before: str, name: str) -> None:
        record = self.get(number)
        if record.project != before:
            return
        spec = replace(record.spec, project=name)
        self._set(number, {"project": name, "spec": as_json(spec.to_dict())})
        self._rewrite(number)

    def set_link(self, name: str, resource: str) -> None:
        """Give a resource a name."""

        def add() -> None:
            self._session.lock_all()
            taken = self.link(name)
            if taken is not None:
                raise ConflictError(
                    f"link {name!r} already exists and points to {taken.resource}",
                    fix=shell_words("conjure", "unlink", name),
                )
            self._session.execute("INSERT INTO links VALUES (?, ?, ?)", (name, resource, self._now()))
            self._write_links()

        self._session.transact(add)

    def remove_link(self, name: str) -> None:
        """Take a name away."""

        def remove() -> None:
            self._session.lock_all()
            if self.link(name) is None:
                raise NotFoundError(f"there is no link {name!r}", fix="conjure link")
            self._session.execute("DELETE FROM links WHERE name = ?", (name,))
            self._write_links()

        self._session.transact(remove)

    def link(self, name: str) -> Link | None:
        """The link of that name, or None."""
        return next(iter(self._links("WHERE name = ?", name)), None)

    def links(self) -> list[Link]:
        """All links, by name."""
        return self._links("ORDER BY name")

    def _links(self, rest: str, *values: str) -> list[Link]:
        rows = self._session.query(f"SELECT name, resource, created_at FROM links {rest}", values)
        return [Link(row["name"], row["resource"], row["created_at"]) for row in rows]

    def lookup_link(self, name: str) -> str | None:
        """The resource a name stands for, or None."""
        last = LAST.fullmatch(name)
        if last is not None:
            return f"runs/{self.last_number(int(last['back'] or 0))}"
        link = self.link(name)
        return None if link is None else link.resource

    def _write_links(self) -> None:
        with self._session.errors_translated():
            write_links(self.home, self.links())
