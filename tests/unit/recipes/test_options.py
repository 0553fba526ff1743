"""The typed options say what the command line and the requests say."""

import click
import pytest

from conjure.cli.commands import finetune, generate, score
from conjure.cli.recorded_run_options import RECORDING
from conjure.core.home import Home
from conjure.core.text import today
from conjure.errors import UsageError
from conjure.lm.training.request import FinetuneRequest
from conjure.python_api import RecordingOptions
from conjure.recipes.finetune_specs import finetune_spec
from conjure.recipes.generation_specs import check_generate, generate_spec, score_spec
from conjure.recipes.options import (
    AUTOMATIC,
    FinetuneOptions,
    GenerateOptions,
    ScoreOptions,
    option_words,
    parse_options,
)
from conjure.recipes.request_checks import check_finetune, check_finetune_sweep, check_score

COMMANDS = [(finetune, FinetuneOptions), (generate, GenerateOptions), (score, ScoreOptions)]
NOT_RECORDED = {"model", "output", "resume", "dry_run", "no_run", "save", "as_json", "stream"} | {
    "save_command",
    "from_file",
}
GIVEN_APART = {"prompt", "prompt_option", "prompt_file", "inputs", "data", "as_text", "compare"}
FOR_EVERY_RUN = {"label", "description", "project", "background"}


@pytest.mark.parametrize(("module", "options"), COMMANDS)
def test_every_option_of_a_command_is_a_keyword(module, options):
    names = {parameter.name for parameter in module.command.params}
    assert set(options.__annotations__) == names - NOT_RECORDED - GIVEN_APART - set(RECORDING)


def test_where_a_run_is_carried_out_is_told_alike():
    assert set(RecordingOptions.__annotations__) == set(RECORDING) - FOR_EVERY_RUN


@pytest.mark.parametrize(("module", "options"), COMMANDS)
def test_every_keyword_is_spelled_as_the_command_takes_it(module, options):
    flags = {flag for each in module.command.params for flag in (*each.opts, *each.secondary_opts)}
    for name in options.__annotations__:
        kind = next(each for each in module.command.params if each.name == name)
        assert isinstance(kind, click.Option)
        for value in (True, False) if kind.is_flag else ("x",):
            assert {word.partition("=")[0] for word in option_words({name: value})} <= flags


def test_a_fine_tune_takes_every_field_of_the_request():
    fields = set(FinetuneRequest.__dataclass_fields__) - {"data", "output", "model", "resume"}
    assert set(FinetuneOptions.__annotations__) == fields


def test_options_that_may_be_automatic_are_known():
    kinds = finetune.command.params
    assert {each.name for each in kinds if isinstance(each.type, finetune.Automatic)} == set(AUTOMATIC)


def test_texts_are_read_as_the_command_reads_them():
    texts = {"epochs": "2", "lora": "8", "block_size": "auto", "dedup": "keep", "column": "auto"}
    read = parse_options(texts, FinetuneOptions)
    assert read == {"epochs": 2.0, "lora": 8, "dedup": "keep", "column": "auto"}
    typed = [word for name, text in texts.items() for word in (f"--{name.replace('_', '-')}", text)]
    params = finetune.command.make_context("finetune", typed).params
    assert {name: params[name] for name in read} == read


CHAT = '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}\n'


def test_all_trials_on_conversations_have_the_same_date(home, folder):
    (folder / "chats.jsonl").write_text(CHAT)
    trials = [{"epochs": "1"}, {"epochs": "2"}]
    checked = check_finetune_sweep(home, ["chats.jsonl"], "sprite", {"seed": 1}, trials)
    assert checked == {"seed": 1, "chat_date": today()}
    given = {"chat_date": "2026-03-01"}
    assert check_finetune_sweep(home, ["chats.jsonl"], "sprite", given, trials) == given


def test_a_recorded_score_of_conversations_keeps_its_date(home, folder):
    (folder / "chats.jsonl").write_text(CHAT)
    (folder / "jokes.txt").write_text("A joke.\n")

    def words(*typed: str) -> list[str]:
        command = score.run_spec(score.command.make_context("score", list(typed))).command
        return [word for word in command if word.startswith("--chat-date")]

    assert words("chats.jsonl") == [f"--chat-date={today()}"]
    assert words("chats.jsonl", "--chat-date", "2026-03-01") == ["--chat-date=2026-03-01"]
    assert words("jokes.txt") == words("a text") == []
    for plain in ("jokes.txt", "a text"):
        with pytest.raises(UsageError, match="chat_date='2026-03-01' is of use only to conversations"):
            words(plain, "--chat-date", "2026-03-01")
    assert check_score(home, ["chats.jsonl"], ["sprite"], {"stride": 8}) == {
        "stride": 8,
        "chat_date": today(),
    }


def test_what_only_conversations_have_is_refused_before_a_run_gets_a_number(home, folder):
    (folder / "chats.jsonl").write_text(CHAT)
    (folder / "jokes.txt").write_text("A joke.\n")
    options = {"prompt_loss_weight": 0.5, "chat_date": "2026-03-01"}
    assert check_finetune(home, ["chats.jsonl"], "sprite", options) == options
    with pytest.raises(UsageError, match=r"prompt_loss_weight is 0.5, but .*; chat_date is 2026"):
        check_finetune(home, ["jokes.txt"], "sprite", options)


def test_options_that_are_not_given_are_not_written():
    assert option_words({"epochs": 2, "lora": None, "mask_records": False, "header": False}) == [
        "--epochs=2",
        "--no-mask-records",
        "--no-header",
    ]


def test_a_fine_tune_has_its_data_mounted_and_placeholders_last(tmp_path):
    (tmp_path / "jokes.txt").write_text("A joke.\n")
    spec = finetune_spec(
        Home(tmp_path / "home"),
        [str(tmp_path / "jokes.txt")],
        "sprite",
        {"epochs": 2},
        placeholders={"learning_rate": ":lr:"},
    )
    assert spec.kind == "finetune"
    assert [mount.target for mount in spec.mounts] == ["jokes.txt"]
    assert spec.command[2:] == ("jokes.txt", "--model", "sprite", "--epochs=2", "--learning-rate=:lr:")


@pytest.mark.parametrize(
    ("given", "recorded"), [({}, True), ({"precision": "auto"}, True), ({"precision": "bfloat16"}, False)]
)
def test_the_number_format_that_is_set_is_recorded(home, folder, given, recorded):
    (folder / "jokes.txt").write_text("A joke.\n")
    home.create().config_file.write_text('precision = "float32"\n')
    for spec in (
        finetune_spec(home, ["jokes.txt"], "sprite", given),
        generate_spec(home, "My", "sprite", given),
    ):
        assert ("--precision=float32" in spec.command) == recorded
        assert ("--precision=bfloat16" in spec.command) != recorded
    assert "--precision" not in " ".join(score_spec(home, ["x"], ["sprite"], {}, files=False).command)


def test_the_processes_of_a_fine_tune_are_known_to_its_run_and_to_its_command(tmp_path):
    (tmp_path / "jokes.txt").write_text("A joke.\n")
    asked = {"distributed": 2, "nodes": 3}
    spec = finetune_spec(Home(tmp_path / "home"), [str(tmp_path / "jokes.txt")], "sprite", asked)
    assert (spec.distributed, spec.nodes) == (2, 3)
    assert spec.command[-2:] == ("--distributed=2", "--nodes=3")


def test_stop_texts_arrive_as_they_are(tmp_path):
    spec = generate_spec(Home(tmp_path), "My", "sprite", {"stop": ["\n", r"a\n"]})
    words = [word.partition("=")[2] for word in spec.command if word.startswith("--stop")]
    assert [generate._unescaped(word) for word in words] == ["\n", r"a\n"]


def test_a_scored_text_is_not_taken_for_a_file(tmp_path):
    spec = score_spec(Home(tmp_path), ["--text"], ["sprite"], {}, files=False)
    assert spec.command[-3:] == ("--text", "--", "--text")


def test_a_generation_has_its_seed_fixed():
    assert check_generate([""], {"temperature": 0.5})["seed"] != check_generate([""], {})["seed"]
    assert check_generate([""], {"seed": 7}) == {"seed": 7}


def test_none_is_as_good_as_not_given(home, folder):
    (folder / "jokes.txt").write_text("A joke.\n")
    options = {"patience": None, "seed": 1}
    assert check_finetune(home, ["jokes.txt"], "sprite", options) == {"seed": 1}
    assert check_score(home, ["jokes.txt"], ["sprite"], {"stride": None}) == {}
    drawn = check_generate([""], {"seed": None, "stop": None, "top_k": None})
    assert list(drawn) == ["seed"]
    assert isinstance(drawn["seed"], int)


@pytest.mark.parametrize(
    ("check", "said"),
    [
        (lambda home: check_finetune(home, ["x"], "sprite", {"epoch": 2}), "there is no option 'epoch'"),
        (lambda home: check_finetune(home, [], "sprite", {}), "no data was given"),
        (lambda home: check_finetune(home, ["x"], "sprite", {"epochs": 0}), "epochs must be above 0, not 0"),
        (
            lambda home: check_finetune(home, ["x"], "sprite", {"batch_size": 6, "distributed": 4}),
            r"distributed is 4; the 6 blocks of a step .* can be shared by 1, 2, 3, 6 processes",
        ),
        (
            lambda home: check_finetune(
                home, ["x"], "sprite", {"batch_size": 6, "distributed": 2, "nodes": 2}
            ),
            r"distributed is 2 on each of 2 nodes; the 6 blocks of a step",
        ),
        (lambda home: check_finetune(home, ["x"], "sprite", {"nodes": 2}), "nodes needs distributed='N'"),
        (lambda home: check_generate([""], {"top_p": 7}), "top_p must be above 0 and at most 1, not 7"),
        (lambda home: check_score(home, [], ["a", "b", "c"], {}), "3 models were named"),
        (
            lambda home: check_finetune(home, ["x"], "sprite", {"precision": "bf16", "split": "words"}),
            "precision is 'bf16'; allowed: auto, float32, bfloat16; split is 'words'; allowed: lines,",
        ),
        (
            lambda home: check_finetune_sweep(
                home, ["x"], "sprite", {"precision": "bf16"}, [{"epochs": "1"}]
            ),
            "precision is 'bf16'; allowed: auto, float32, bfloat16",
        ),
        (
            lambda home: check_generate([""], {"precision": "bf16"}),
            "precision is 'bf16'; allowed: auto, float32, bfloat16, int8",
        ),
        (
            lambda home: check_score(home, [], ["a"], {"precision": "auto"}),
            "precision is 'auto'; allowed: float32, bfloat16",
        ),
        (
            lambda home: check_score(home, [], ["a"], {"context": 0, "stride": "x"}),
            "context must be at least 1, not 0; stride must be an integer of at least 1, not 'x'",
        ),
        (
            lambda home: check_score(home, [], ["a"], {"context": 8, "stride": 9}),
            "stride must be from 1 to the context, not 9",
        ),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, check, said):
    with pytest.raises(UsageError, match=said):
        check(Home(tmp_path))
