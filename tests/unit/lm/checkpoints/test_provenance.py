"""What is told of a base model: its license, and whether its weights were rounded."""

import json

import pytest

from conjure.lm.checkpoints.provenance import BaseFacts


def test_the_licence_comes_from_the_card_or_from_the_file(tmp_path):
    assert BaseFacts.of("x", tmp_path) == BaseFacts("x")
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\nlanguage: en\n---\n# x\nlicense: mit\n")
    assert BaseFacts.of("x", tmp_path).licence == "apache-2.0"
    origin = {"license": "gemma", "number_formats": {"Q4_1": 3, "F32": 2, "Q8_0": 1}}
    (tmp_path / "origin.json").write_text(json.dumps(origin))
    assert BaseFacts.of("x", tmp_path) == BaseFacts("x", "gemma", "Q4_1, Q8_0")
    (tmp_path / "origin.json").write_text("{")
    assert BaseFacts.of("x", tmp_path) == BaseFacts("x", "apache-2.0")


@pytest.mark.parametrize("licence", ["mit", "Llama 3.2 Community License", 'the "free" one', "yes", "©"])
def test_any_name_of_a_licence_is_passed_on(tmp_path, licence):
    (tmp_path / "origin.json").write_text(json.dumps({"license": licence}))
    assert BaseFacts.of("x", tmp_path).licence == licence
    (tmp_path / "origin.json").unlink()
    (tmp_path / "README.md").write_text(f"---\nlicense: {json.dumps(licence, ensure_ascii=False)}\n---\n")
    assert BaseFacts.of("x", tmp_path).licence == licence


def test_what_is_no_name_is_not(tmp_path):
    for licence in ("", "x" * 101, "\x1b[31m", 3, ["mit"]):
        (tmp_path / "origin.json").write_text(json.dumps({"license": licence}))
        assert BaseFacts.of("x", tmp_path).licence is None
    (tmp_path / "origin.json").write_text(json.dumps({"license": "mit\nbase_model: other"}))
    assert BaseFacts.of("x", tmp_path).licence == "mit base_model: other"
    (tmp_path / "origin.json").unlink()
    for line, licence in {"'mit'": "mit", '"\\x"': None, "[mit, gemma]": None}.items():
        (tmp_path / "README.md").write_text(f"---\nlicense: {line}\n---\n")
        assert BaseFacts.of("x", tmp_path).licence == licence


@pytest.mark.parametrize(
    ("lines", "name"),
    [
        ("license: other\nlicense_name: qwen-research", "qwen-research"),
        ('license_name: "Gemma 3"\nlicense: other', "Gemma 3"),
        ("license: other\nlicense_name: Llama 3.2 Community", "Llama 3.2 Community"),
        ("license: other", None),
        ("license: mit\nlicense_name: x", None),
    ],
)
def test_a_licence_that_is_no_usual_one_has_its_name_in_another_line(tmp_path, lines, name):
    (tmp_path / "README.md").write_text(f"---\n{lines}\n---\n")
    facts = BaseFacts.of("x", tmp_path)
    assert (facts.licence, facts.licence_name) == ("mit" if "mit" in lines else "other", name)
    if name is not None:
        assert facts.licence_lines == f'license: "other"\nlicense_name: {json.dumps(name)}\n'
        assert f"its license is {name}, which also applies" in str(facts)


def test_of_a_gguf_file_as_well(tmp_path):
    (tmp_path / "origin.json").write_text(json.dumps({"license": "other", "license_name": "qwen-research"}))
    (tmp_path / "README.md").write_text("---\nlicense: mit\nlicense_name: x\n---\n")
    assert BaseFacts.of("x", tmp_path) == BaseFacts("x", "other", licence_name="qwen-research")


def test_the_files_with_the_licence(tmp_path):
    for name, content in {"LICENSE": b"\xffA", "LICENSE.txt": b"B", "LICENSE.pdf": b"C" * (1 << 21)}.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "LICENSES").mkdir()
    assert BaseFacts.of("x", tmp_path).licence_texts == {"LICENSE": b"\xffA", "LICENSE.txt": b"B"}
