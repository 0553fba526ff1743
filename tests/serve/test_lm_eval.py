"""lm-evaluation-harness over HTTP gives what it gives with the model in its own process."""

import json
import subprocess
import sys

import pytest

_TASK = """
task: words
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_target: answer
doc_to_choice: choices
target_delimiter: " "
metric_list:
  - metric: acc
  - metric: acc_norm
metadata:
  version: 1
"""
_WORDS = {
    "animal": ["dog", "cat", "horse", "bird"],
    "meal": ["bread", "soup", "fish", "cake"],
    "person": ["boy", "girl", "king", "old woman"],
    "place": ["house", "garden", "forest", "sea-side town"],
    "thing": ["book", "chair", "clock", "très jolie lampe"],
}


def _items():
    """Questions whose right answer is one of four: half of them of many tokens."""
    for kind, words in _WORDS.items():
        for number, word in enumerate(words):
            others = [next_[number] for name, next_ in _WORDS.items() if name != kind][:3]
            long = "She had walked for days, and the night was cold. " * (number * 4)
            question = f"{long}This {kind} is called a {word}. I like my"
            choices = [*others[: number % 4], word, *others[number % 4 :]]
            yield {"question": question, "choices": choices, "answer": choices.index(word)}


def _evaluate(folder, model, arguments, *more):
    """Accuracies, and the log-likelihoods of every item."""
    output = folder / model
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "lm_eval", "--model", model, "--model_args", arguments,
         "--tasks", "words", "--include_path", str(folder), "--output_path", str(output), "--log_samples",
         *more],
        capture_output=True, text=True, check=False,
        env={"PATH": "/usr/bin:/bin", "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1",
             "HOME": str(folder)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    (results,) = output.rglob("results_*.json")
    (samples,) = output.rglob("samples_words_*.jsonl")
    items = sorted(map(json.loads, samples.read_text().splitlines()), key=lambda item: item["doc_id"])
    return json.loads(results.read_text())["results"]["words"], [item["resps"] for item in items]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("task")
    lines = [json.dumps(item) for item in _items()]
    (folder / "items.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "words.yaml").write_text(_TASK.format(data=folder / "items.jsonl"))
    return folder


def test_accuracy_is_equal_and_log_likelihoods_are_within_1e_4(folder, sprite, address):
    served, theirs = _evaluate(
        folder,
        "local-completions",
        f"model=sprite,base_url={address}/completions,max_length=512,num_concurrent=4",
        "--batch_size",
        "4",
    )
    local, ours = _evaluate(folder, "hf", f"pretrained={sprite},dtype=float32", "--device", "cpu")
    for metric in ("acc,none", "acc_norm,none"):
        assert served[metric] == local[metric]
    assert 0.0 < local["acc,none"] < 1.0
    assert len(ours) == len(theirs) == 20
    for one, other in zip(ours, theirs, strict=True):
        for ((logprob, greedy),), ((logprob_, greedy_),) in zip(one, other, strict=True):
            assert abs(float(logprob) - float(logprob_)) < 1e-4
            assert str(greedy) == str(greedy_)
