"""The one thing pyproject.toml cannot say yet: build the native engine, where a C compiler can.

Everything else about the package is in pyproject.toml. The library is loaded by ctypes, so it needs no Python
headers; where it cannot be built, installing goes on without it, and `conjure doctor` says so.
"""

from pathlib import Path

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "conjure.lm.native._forward",
            [
                "src/conjure/lm/native/forward.c",
                "src/conjure/lm/native/logits.c",
                "src/conjure/lm/native/pack.c",
                "src/conjure/lm/native/training.c",
            ],
            depends=[str(header) for header in sorted(Path("src/conjure/lm/native").glob("*.h"))],
            extra_compile_args=["-std=gnu11", "-O3", "-fopenmp", "-fno-math-errno", "-Wall", "-Wextra"],
            extra_link_args=["-fopenmp"],
            optional=True,
        )
    ]
)
