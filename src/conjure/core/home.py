"""Where conjure keeps everything; every path it uses is derived here and nowhere else.

Main entry: `Home.from_environment`. Invariant: nothing is created until `create` is called; looking is free.
"""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from conjure.core.text import error_text
from conjure.errors import StoreError

HOME_VARIABLE = "CONJURE_HOME"
_PRIVATE = 0o700
_NAMED = "team-homes"
_MEMORY = Path("/dev/shm")  # noqa: S108 - what is made in it is private and checked to be ours


@dataclass(frozen=True, slots=True)
class Home:
    """Where conjure keeps things: the folder of the database, snapshots, environments, runs and uploads.

    That is what every parameter of this type is; a docstring lists one only where there is more to say of it.

    Attributes:
        root: The folder itself; private to its owner (mode 0700).
    """

    root: Path

    @classmethod
    def from_environment(cls) -> "Home":
        """The home named by ``CONJURE_HOME``, else the platform's data folder.

        Raises:
            StoreError: It is below the home folder of a user that does not exist.
        """
        named = os.environ.get(HOME_VARIABLE)
        if named:
            return cls(_absolute(named))
        import platformdirs  # a few milliseconds that `CONJURE_HOME` and `--help` need not pay

        return cls(Path(platformdirs.user_data_dir("conjure", appauthor=False)))

    @property
    def local(self) -> "Home":
        """The home that has this one as one of its named homes; itself for every other."""
        return Home(self.root.parent.parent) if self.root.parent.name == _NAMED else self

    def named(self, name: str) -> "Home":
        """A home of a team that the user calls by a name; it lies in the local one."""
        return Home(self.local.root / _NAMED / name)

    def names(self) -> list[str]:
        """The names of the homes of teams, in order."""
        folder = self.local.root / _NAMED
        return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []

    @property
    def name(self) -> str:
        """What the user calls this home: ``local``, or the name of a team's."""
        return "local" if self.local is self else self.root.name

    @property
    def database(self) -> Path:
        """The SQLite file that is the truth about state."""
        return self.root / "conjure.db"

    @property
    def team_file(self) -> Path:
        """Which database the home shares with other machines; not there where it shares none."""
        return self.root / "team.json"

    @property
    def code_repository(self) -> Path:
        """Bare git repository with every snapshot's objects."""
        return self.root / "code.git"

    @property
    def mirrors(self) -> Path:
        """Mirrors of remote git repositories, one folder per digest of their address."""
        return self.root / "git"

    @property
    def environments(self) -> Path:
        """Built Python environments, one folder per digest, and records of images with packages added."""
        return self.root / "environments"

    @property
    def runs(self) -> Path:
        """One folder per run, named by its number."""
        return self.root / "runs"

    @property
    def fetched(self) -> Path:
        """What was brought here of runs that other machines have, one folder per run: a cache."""
        return self.root / "fetched"

    @property
    def fetched_lock(self) -> Path:
        """Held while it is decided whose folder of a run counts: that in `fetched`, or that in `runs`."""
        return self.root / "fetched.lock"

    @property
    def node_parts_lock(self) -> Path:
        """Held while folders are made in `node_parts`, or removed from there, maybe by several nodes."""
        return self.root / "members.lock"

    @property
    def node_parts(self) -> Path:
        """What active runs on several nodes have on each but the first: a folder per attempt and node."""
        return self.root / "members"

    @property
    def uploads(self) -> Path:
        """One folder per upload, named by the user."""
        return self.root / "uploads"

    @property
    def links_file(self) -> Path:
        """The links, as they also stand in the database, which may get lost."""
        return self.root / "links.json"

    @property
    def datasets(self) -> Path:
        """Local data files that runs used, by digest; and tokenised texts."""
        return self.root / "datasets"

    @property
    def queued_requests(self) -> Path:
        """What the supervisors of queued runs will be given, secrets included: in memory, where there is one.

        A folder of this home and this user on a file system that is never on a disk; only where the platform
        has none, it is in the home.
        """
        if not os.access(_MEMORY, os.W_OK | os.X_OK):
            return self.root / "queue"
        import hashlib  # a few milliseconds that only runs which may have to wait need to pay

        name = hashlib.sha256(os.fsencode(os.path.realpath(self.root))).hexdigest()[:16]
        return _MEMORY / f"conjure-{os.getuid()}-{name}"

    def queued_request(self, number: int) -> Path:
        """What the supervisor of one of them will be given."""
        return self.queued_requests / f"{number}.json"

    @property
    def scheduler_lock(self) -> Path:
        """Held by the process that starts queued runs; it holds that process's id."""
        return self.root / "scheduler.lock"

    @property
    def scheduler_log(self) -> Path:
        """What went wrong in the process that starts queued runs."""
        return self.root / "scheduler.log"

    @property
    def sweeps(self) -> Path:
        """What is known of sweeps, and the locks and logs of the processes that drive them."""
        return self.root / "sweeps"

    def sweep_file(self, number: int) -> Path:
        """A sweep, as it also stands in the database, which may get lost."""
        return self.sweeps / f"{number}.json"

    @property
    def models(self) -> Path:
        """Models made from GGUF files, one folder per digest of the file."""
        return self.root / "models"

    @property
    def native_weights(self) -> Path:
        """Models' weights in the native engine's layout, one file per digest of the checkpoint."""
        return self.root / "weights"

    @property
    def config_file(self) -> Path:
        """The user's settings, TOML; a named home has those of the local one."""
        return self.local.root / "config.toml"

    @property
    def identity_key(self) -> Path:
        """The key of digests that only this home can make."""
        return self.root / "identity.key"

    @property
    def crashes(self) -> Path:
        """What is written down of errors that nobody expected."""
        return self.root / "crashes"

    @property
    def importable(self) -> Path:
        """What runs whose environment has no conjure can import of it."""
        return self.root / "import"

    def run_folder(self, number: int) -> Path:
        """The folder of one run; of one that another machine has, what was brought here of it."""
        fetched = self.fetched / str(number)
        return fetched if fetched.is_dir() else self.runs / str(number)

    def is_elsewhere(self, number: int) -> bool:
        """Whether a run has no folder of its own here: no such run, or another machine has it."""
        return (self.fetched / str(number)).is_dir() or not (self.runs / str(number)).is_dir()

    def create(self) -> "Home":
        """Make the folder, private to its owner, if it is not there.

        Raises:
            StoreError: It cannot be made or written to.
        """
        if os.pathsep in str(self.root):
            raise StoreError(
                f"conjure's home folder {self.root} contains {os.pathsep!r}, so a run could not have it"
                " on its PATH",
                hint=f"set {HOME_VARIABLE} to another folder",
            )
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=_PRIVATE)
            if stat.S_IMODE(self.root.stat().st_mode) != _PRIVATE and self._is_ours():
                self.root.chmod(_PRIVATE)
        except OSError as error:
            raise StoreError(
                f"conjure's home folder {self.root} cannot be used: {error_text(error)}",
                hint=f"set {HOME_VARIABLE} to a folder you can write to",
            ) from error
        return self

    def _is_ours(self) -> bool:
        """Whether the folder is new or a home already, not one (such as /tmp) that others rely on."""
        return self.database.exists() or not any(self.root.iterdir())


def _absolute(named: str) -> Path:
    try:
        return Path(named).expanduser().absolute()
    except RuntimeError as error:  # a ~NAME left as it is would become a folder of that name
        raise StoreError(
            f"{HOME_VARIABLE} is {named}, and there is no user {Path(named).parts[0][1:]!r}",
            hint=f"set {HOME_VARIABLE} to a folder",
        ) from error
