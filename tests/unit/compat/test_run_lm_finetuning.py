"""The fine-tuning script: what it writes where, what it says, one sentence for each mistake."""

import json
import re
import shlex

import pytest
import torch

from conjure.compat.run_lm_finetuning import main
from conjure.compat.training import read_blocks
from conjure.lm.checkpoints.pretrained import load_checkpoint, load_model, save_checkpoint
from conjure.metric_logging import METRICS_VARIABLE
from support.models import TEXTS, tiny_checkpoint, tiny_model, tiny_tokenizer

BLOCK = 16
MODEL_FILES = {
    "config.json",
    "generation_config.json",
    "merges.txt",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "training.json",
    "vocab.json",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with a model, a text to learn from and a text to measure on."""
    monkeypatch.chdir(tmp_path)
    tiny_checkpoint(tmp_path / "model", resid_pdrop=0.1)
    (tmp_path / "train.txt").write_text("\n".join(TEXTS) * 2, encoding="utf-8")
    (tmp_path / "eval.txt").write_text("\n".join(TEXTS[:3]), encoding="utf-8")
    return tmp_path


@pytest.fixture
def finetune(folder, capsys):
    """The script in this process, on the folder's files: exit status and stderr; nothing goes to stdout."""

    def run(*arguments: str) -> tuple[int, str]:
        needed = ["--model_type=gpt2", "--model_name_or_path=model", f"--block_size={BLOCK}"]
        files = ["--train_data_file=train.txt", "--output_dir=output"]
        status = main([*needed, *files, *arguments])
        out, err = capsys.readouterr()
        assert out == ""
        return status, err

    return run


def _planned_steps(err: str) -> int:
    return int(re.findall(r"Training: (\d+) steps", err)[0])


def weights(path) -> torch.Tensor:
    return load_model(path).embedding.weight


class TestBlocks:
    def test_a_tail_is_dropped_and_counted_aloud(self, finetune, folder):
        tokens = len(tiny_tokenizer().encode((folder / "train.txt").read_text(encoding="utf-8").strip()))
        status, err = finetune("--do_train")
        count, dropped = divmod(tokens, BLOCK)
        assert status == 0
        assert dropped > 0
        assert f"train.txt: {count} blocks of {BLOCK} tokens; warning: its last {dropped} tokens" in err

    def test_blocks_join_up_to_the_text(self, folder):
        blocks, dropped = read_blocks(folder / "train.txt", tiny_tokenizer(), 10)
        text = tiny_tokenizer().decode(blocks.flatten().tolist())
        whole = (folder / "train.txt").read_text(encoding="utf-8")
        assert whole.startswith(text.rstrip("\ufffd"))
        assert len(blocks) * 10 + dropped == len(tiny_tokenizer().encode(whole.strip()))

    def test_an_edited_file_is_read_anew(self, finetune, folder):
        _, before = finetune("--do_train")
        (folder / "train.txt").write_text(TEXTS[0] * 3)
        _, after = finetune("--do_train", "--overwrite_output_dir")
        assert before.splitlines()[0] != after.splitlines()[0]
        assert {path.name for path in folder.iterdir()} == {"model", "train.txt", "eval.txt", "output"}

    @pytest.mark.parametrize("flag", ["--block_size=-1", "--block_size=1000"])
    def test_the_context_is_the_largest_block(self, finetune, flag):
        _, err = finetune("--do_train", flag)
        assert "blocks of 32 tokens" in err

    def test_too_little_text(self, finetune, folder):
        (folder / "train.txt").write_text("My dog")
        status, err = finetune("--do_train")
        tokens = len(tiny_tokenizer().encode("My dog"))
        assert status == 1
        assert f"train.txt has {tokens} tokens, which do not fill one block of {BLOCK}" in err
        (line,) = [line for line in err.splitlines() if line.startswith("  try: ")]
        assert line.startswith("  try: python -m conjure.compat.run_lm_finetuning --model_type=gpt2 ")
        assert line.endswith(f" --do_train --block_size {tokens}")
        assert main(shlex.split(line)[4:]) == 0

    @pytest.mark.parametrize(
        ("content", "words"), [(b"caf\xe9", "is not UTF-8 text: byte 3 cannot be read"), (b"", "0 tokens")]
    )
    def test_text_that_is_none(self, finetune, folder, content, words):
        (folder / "train.txt").write_bytes(content)
        status, err = finetune("--do_train")
        assert status == 1
        assert words in err


@pytest.mark.slow
class TestOutput:
    def test_the_model_and_its_checkpoints_are_whole(self, finetune, folder):
        status, err = finetune("--do_train", "--save_steps=4", "--per_gpu_train_batch_size=2")

        output = folder / "output"
        steps = _planned_steps(err)
        numbers = list(range(4, steps + 1, 4))
        assert status == 0
        assert len(numbers) >= 2
        assert {path.name for path in output.iterdir()} == MODEL_FILES | {f"checkpoint-{n}" for n in numbers}
        for number in numbers:
            checkpoint = output / f"checkpoint-{number}"
            assert {path.name for path in checkpoint.iterdir()} == MODEL_FILES
            load_checkpoint(checkpoint)
        assert not torch.equal(weights(output), weights("model"))
        assert not torch.equal(weights(output), weights(output / "checkpoint-4"))

    def test_the_arguments_are_kept_as_json(self, finetune, folder):
        finetune("--do_train", "--learning_rate=1e-3")
        saved = json.loads((folder / "output" / "training.json").read_text())
        assert saved["script"] == "run_lm_finetuning"
        assert saved["arguments"]["learning_rate"] == 1e-3
        assert saved["arguments"]["block_size"] == BLOCK
        assert saved["average_loss"] > 0

    def test_the_oldest_checkpoints_go(self, finetune, folder):
        finetune("--do_train", "--save_steps=2", "--save_total_limit=2", "--per_gpu_train_batch_size=1")
        steps = json.loads((folder / "output" / "training.json").read_text())["step"]
        last = steps - steps % 2
        assert sorted(path.name for path in (folder / "output").glob("checkpoint-*")) == sorted(
            [f"checkpoint-{last}", f"checkpoint-{last - 2}"]
        )

    def test_those_of_an_earlier_training_go_first(self, finetune, folder):
        save_checkpoint(folder / "output" / "checkpoint-900", tiny_model(), None)
        finetune("--do_train", "--save_steps=4", "--save_total_limit=1", "--overwrite_output_dir")
        assert [path.name for path in (folder / "output").glob("checkpoint-*")] == ["checkpoint-4"]

    def test_a_folder_that_is_not_empty_is_left_alone(self, finetune, folder):
        (folder / "output").mkdir()
        (folder / "output" / "notes.txt").write_text("mine")
        status, err = finetune("--do_train")
        assert status == 1
        assert "--output_dir output exists and is not empty" in err
        assert "--overwrite_output_dir" in err

    def test_overwriting_replaces_the_model_and_nothing_else(self, finetune, folder):
        output = folder / "output"
        save_checkpoint(output, tiny_model(seed=5), tiny_tokenizer())
        (output / "notes.txt").write_text("mine")
        (output / "training_args.bin").write_bytes(b"of an older tool")

        status, _ = finetune("--do_train", "--overwrite_output_dir")

        assert status == 0
        assert {path.name for path in output.iterdir()} == MODEL_FILES | {"notes.txt", "training_args.bin"}
        assert torch.allclose(weights(output), weights("model"), atol=0.01)

    def test_the_same_seed_gives_the_same_model_and_another_does_not(self, finetune):
        for name, seed in (("one", 1), ("again", 1), ("other", 2)):
            finetune("--do_train", f"--output_dir={name}", f"--seed={seed}", "--learning_rate=1e-3")
        assert torch.equal(weights("one"), weights("again"))
        assert not torch.equal(weights("one"), weights("other"))

    def test_training_learns(self, finetune):
        flags = ["--do_train", "--num_train_epochs=6", "--learning_rate=1e-2", "--logging_steps=5"]
        _, err = finetune(*flags, "--per_gpu_train_batch_size=2")
        losses = [float(loss) for loss in re.findall(r"step \d+: loss ([\d.]+)", err)]
        assert losses[-1] < 0.7 * losses[0]


class TestEvaluation:
    def test_the_result_is_a_file_as_in_2019(self, finetune, folder):
        status, err = finetune("--do_train", "--do_eval", "--eval_data_file=eval.txt")
        result = (folder / "output" / "eval_results.txt").read_text()
        assert status == 0
        assert re.fullmatch(r"perplexity = tensor\(\d+\.\d{4}\)\n", result)
        assert f"output: perplexity {result[20:-2]}" in err

    @pytest.mark.parametrize("asked", ["--do_eval", "--evaluate_during_training"])
    @pytest.mark.parametrize(
        ("content", "words"), [(None, "eval.txt does not exist"), ("My dog", "eval.txt has")]
    )
    def test_a_file_that_cannot_be_measured_on_is_told_before_training(
        self, finetune, folder, asked, content, words
    ):
        (folder / "eval.txt").unlink()
        if content is not None:
            (folder / "eval.txt").write_text(content)
        status, err = finetune("--do_train", asked, "--eval_data_file=eval.txt")
        assert status == 1
        assert words in err
        assert "Training:" not in err
        assert not (folder / "output").exists()

    def test_an_untuned_model_can_be_measured(self, finetune, folder):
        status, err = finetune("--do_eval", "--eval_data_file=eval.txt", "--output_dir=model")
        assert status == 0
        assert (folder / "model" / "eval_results.txt").exists()
        assert "model: perplexity " in err

    def test_all_checkpoints_get_a_file_each(self, finetune, folder):
        flags = ["--do_train", "--do_eval", "--eval_all_checkpoints", "--eval_data_file=eval.txt"]
        finetune(*flags, "--save_steps=4", "--per_gpu_train_batch_size=2", "--output_dir=my-checkpoint")
        results = [path.parent.name for path in sorted(folder.rglob("eval_results.txt"))]
        models = [path.parent.name for path in sorted(folder.rglob("model.safetensors"))]
        assert len(results) > 2
        assert results == [name for name in models if name != "model"]

    def test_during_training_it_is_measured_at_every_logging_step(self, finetune, folder, monkeypatch):
        metrics = folder / "metrics.jsonl"
        monkeypatch.setenv(METRICS_VARIABLE, str(metrics))
        flags = ["--do_train", "--evaluate_during_training", "--eval_data_file=eval.txt"]
        _, err = finetune(*flags, "--logging_steps=2", "--per_gpu_train_batch_size=2")

        points = [json.loads(line) for line in metrics.read_text().splitlines()]
        logged = {
            name: [p["step"] for p in points if p["name"] == name]
            for name in ("loss", "lr", "eval_perplexity")
        }
        steps = _planned_steps(err)
        assert logged["loss"] == logged["lr"] == logged["eval_perplexity"] == list(range(2, steps + 1, 2))
        assert err.count("perplexity") == len(logged["loss"])

    def test_no_model_to_measure(self, finetune):
        status, err = finetune("--do_eval", "--eval_data_file=eval.txt")
        assert status == 1
        assert "--output_dir output contains no model to evaluate" in err


class TestOtherModels:
    def test_a_configuration_from_elsewhere(self, finetune, folder):
        tiny_checkpoint(folder / "other", resid_pdrop=0.4)
        finetune("--do_train", "--config_name=other")
        assert json.loads((folder / "output" / "config.json").read_text())["resid_pdrop"] == 0.4

    def test_one_that_does_not_fit(self, finetune, folder):
        tiny_checkpoint(folder / "other", context_length=64)
        status, err = finetune("--do_train", "--config_name=other")
        assert status == 1
        assert "--config_name: wpe.weight is (32, 16) and (64, 16) is needed" in err

    def test_a_tokenizer_from_elsewhere(self, finetune, folder):
        for path in (folder / "model").glob("*.json"):
            if path.name not in ("config.json", "generation_config.json"):
                path.rename(folder / path.name)
        (folder / "model" / "merges.txt").unlink()
        assert finetune("--do_train")[0] == 1
        tiny_checkpoint(folder / "other")
        status, _ = finetune("--do_train", "--tokenizer_name=other")
        assert status == 0
        load_checkpoint(folder / "output")

    def test_a_tokenizer_too_large_for_the_model(self, finetune, folder):
        save_checkpoint(folder / "small", tiny_model(vocab_size=290), None)
        status, err = finetune("--do_train", "--model_name_or_path=small", "--tokenizer_name=model")
        assert status == 1
        assert "the tokenizer has 300 tokens and the model only 290" in err


class TestMistakes:
    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (["--model_type=bert"], "--model_type is 'bert'; conjure runs GPT-2 models"),
            (["--mlm"], "--mlm is for BERT"),
            (["--do_eval"], "--do_eval needs --eval_data_file"),
            (["--evaluate_during_training"], "--evaluate_during_training needs --eval_data_file"),
            (["--block_size=1"], "--block_size is 1; a block needs at least 2 tokens"),
            (["--max_grad_norm=0"], "--max_grad_norm must be above 0, not 0.0"),
            (["--seed=-3"], "--seed must be an integer from 0 to 4294967295, not -3"),
            (
                ["--per_gpu_train_batch_size=0", "--learning_rate=nan"],
                "--per_gpu_train_batch_size must be at least 1, not 0;"
                " --learning_rate must be at least 0, not nan",
            ),
            (["--num_train_epochs=0.5"], "--num_train_epochs is 0.5: only whole epochs are trained"),
            (["--gradient_accumulation_steps=99"], "so no update would ever be made"),
            (["--gradient_accumulation_steps=99", "--max_steps=3"], "so no update would ever be made"),
            (["--model_name_or_path="], "--model_name_or_path is missing"),
            (["--line_by_line"], "unrecognized arguments: --line_by_line"),
        ],
    )
    def test_each_is_one_sentence_with_status_2(self, finetune, folder, arguments, sentence):
        status, err = finetune("--do_train", *arguments)
        assert status == 2
        assert sentence in err
        assert "Traceback" not in err
        assert not (folder / "output").exists()

    def test_without_a_model_type_it_is_bert_as_in_2019(self, capsys):
        assert main(["--train_data_file=train.txt", "--output_dir=output", "--do_train"]) == 2
        assert "--model_type is 'bert'" in capsys.readouterr().err

    def test_a_loss_that_explodes_stops_it(self, finetune):
        status, err = finetune("--do_train", "--learning_rate=1e30", "--num_train_epochs=9")
        assert status == 1
        assert re.search(r"the loss became (nan|inf)", err)
        assert "lower --learning_rate" in err


class TestRemarks:
    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (["--fp16", "--fp16_opt_level=O2"], "--fp16 needed NVIDIA's apex"),
            (["--local_rank=0"], "--local_rank is 0: this process does all the work"),
            (["--server_ip=1.2.3.4", "--server_port=99"], "made the script wait for a debugger"),
            (["--do_lower_case"], "--do_lower_case has no effect"),
            (["--num_train_epochs=1.5"], "only whole epochs are trained, as in 2019"),
        ],
    )
    def test_what_cannot_apply_is_said_and_the_rest_done(self, finetune, folder, arguments, sentence):
        status, err = finetune("--do_train", *arguments)
        assert status == 0
        assert err.count(sentence) == 1
        assert (folder / "output" / "model.safetensors").exists()

    def test_the_other_processes_of_a_distributed_launch_do_nothing(self, finetune, folder):
        status, err = finetune("--do_train", "--local_rank=2")
        assert status == 0
        assert "the process with rank 0 does all the work" in err
        assert not (folder / "output").exists()

    def test_nothing_to_do(self, finetune, folder):
        status, err = finetune()
        assert status == 0
        assert "nothing to do" in err
        assert not (folder / "output").exists()
