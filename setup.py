"""The one thing pyproject.toml cannot say yet: build the native engine, where a C compiler can.

Everything else about the package is in pyproject.toml. The library is loaded by ctypes, so it needs no Python
headers; where it cannot be built, installing goes on without it, and `conjure doctor` says so.
"""

from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext


class BuildExtension(build_ext):
    """Builds as usual, but the library in the source tree is whole at every moment.

    Processes have it mapped, and others start and load it meanwhile: a new file takes its name.
    """

    def copy_file(self, infile: str, outfile: str, **options: Any) -> tuple[str, bool]:
        """Copy a file as setuptools does, to a name of its own first."""
        unfinished = Path(f"{outfile}.unfinished")
        try:
            super().copy_file(infile, str(unfinished), **options)
            unfinished.replace(outfile)
        finally:
            unfinished.unlink(missing_ok=True)
        return outfile, True


setup(
    cmdclass={"build_ext": BuildExtension},
    ext_modules=[
        Extension(
            "conjure.lm.native._forward",
            [
                "src/conjure/lm/native/forward.c",
                "src/conjure/lm/native/logits.c",
                "src/conjure/lm/native/optimizer.c",
                "src/conjure/lm/native/pack.c",
                "src/conjure/lm/native/training.c",
            ],
            depends=[str(header) for header in sorted(Path("src/conjure/lm/native").glob("*.h"))],
            extra_compile_args=["-std=gnu11", "-O3", "-fopenmp", "-fno-math-errno", "-Wall", "-Wextra"],
            extra_link_args=["-fopenmp"],
            optional=True,
        )
    ],
)
