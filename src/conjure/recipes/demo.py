"""The story, as runs: sample, prepare a text, tune, sample again.

Main entry: `story`. Invariant: it needs nothing but this installation: the model and the jokes come with it.
"""

import sys
from collections.abc import Generator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from conjure.core.home import Home
from conjure.recipes.finetune_specs import finetune_spec
from conjure.recipes.generation_specs import generate_spec
from conjure.recipes.options import GenerateOptions
from conjure.recipes.run_specs import path_with_own_python
from conjure.runs.schema.spec import CodeChoice, Mount, RunSpec

EPOCHS = 10
SEED = 7
SAMPLES = 5
LENGTH = 40

_CSV_TO_TEXT = (
    "import csv; rows = csv.DictReader(open('jokes.csv', encoding='utf-8')); "
    "jokes = [row['Joke'] for row in rows]; "
    "open('data.txt', 'w', encoding='utf-8').write('\\n'.join(jokes) + '\\n'); "
    "print(len(jokes), 'jokes, one per line')"
)


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the story.

    Attributes:
        title: What happens, in a few words.
        command: What one would type for it.
        spec: The run it becomes.
    """

    title: str
    command: str
    spec: RunSpec


def story(home: Home) -> Generator[Step, int, None]:
    """The steps in order; each wants the number of its run sent back, for the next ones to build on.

    Yields:
        Steps; ``send`` the run's number.
    """
    first = yield _sample(home, "sprite", f"Sample from the pretrained model {SAMPLES} times")
    jokes = Path(str(files("conjure.recipes") / "data" / "jokes.csv")).resolve()
    data = yield Step(
        "Convert a table of jokes to a text file, one per line",
        "conjure run -m ./jokes.csv \"python -c '… csv to data.txt …'\"",
        RunSpec(
            command=(Path(sys.executable).name, "-c", _CSV_TO_TEXT),
            folder=Path.cwd(),
            code=CodeChoice(none=True),
            mounts=(Mount(str(jokes), "jokes.csv", read_only=True),),
            variables={"PATH": path_with_own_python()},
            description="jokes.csv as text",
        ),
    )
    tuned = yield Step(
        f"Fine-tune on it for {EPOCHS} epochs",
        f"conjure finetune runs/{data}/data.txt --split lines --epochs {EPOCHS}",
        finetune_spec(home, [f"runs/{data}/data.txt"], "sprite", {"split": "lines", "epochs": EPOCHS}),
    )
    yield _sample(home, f"runs/{tuned}", f"Sample again, with the seeds of run {first}")


def _sample(home: Home, model: str, title: str) -> Step:
    command = f"conjure generate --model {model} -n {SAMPLES} --length {LENGTH} --seed {SEED} --save"
    options: GenerateOptions = {"num_samples": SAMPLES, "max_new_tokens": LENGTH, "seed": SEED}
    return Step(title, command, generate_spec(home, "", model, options))
