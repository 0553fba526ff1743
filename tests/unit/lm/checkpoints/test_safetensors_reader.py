import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from conjure.errors import CheckpointError
from conjure.lm.checkpoints import safetensors_reader
from conjure.lm.checkpoints.safetensors_reader import TensorFile

TENSORS = {"b": torch.arange(12, dtype=torch.float32).view(3, 4), "a": torch.ones(5), "c": torch.zeros(2, 2)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_file(TENSORS, tmp_path / "x.safetensors")
    return tmp_path / "x.safetensors"


def with_header(path: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """The same bytes under another header."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(change(json.loads(content[8 : 8 + length]))).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + length :])
    return path


def edited(name: str, **changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda header: {**header, name: {**header[name], **changes}}


class TestReading:
    def test_equals_what_the_library_wrote(self, path: Path) -> None:
        with TensorFile(path) as file:
            assert set(file.tensors) == set(TENSORS)
            for name, tensor in TENSORS.items():
                assert torch.equal(file.tensors[name].read(torch.float32), tensor)

    def test_transposed_and_converted_copies_are_contiguous(self, path: Path) -> None:
        with TensorFile(path) as file:
            copy = file.tensors["b"].read(torch.bfloat16, transpose=True)
        assert copy.is_contiguous()
        assert torch.equal(copy, TENSORS["b"].t().to(torch.bfloat16))

    @pytest.mark.parametrize("transpose", [False, True])
    def test_in_pieces(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transpose: bool) -> None:
        tensor = torch.randn(37, 129)
        save_file({"w": tensor, "v": tensor.clone()}, tmp_path / "big.safetensors")
        monkeypatch.setattr(safetensors_reader, "_PIECE_BYTES", 5000)
        with TensorFile(tmp_path / "big.safetensors") as file:
            copy = file.tensors["w"].read(torch.float32, transpose=transpose)
            assert file.tensors["w"].same_as(file.tensors["v"])
        assert torch.equal(copy, tensor.t() if transpose else tensor)

    def test_a_copy_outlives_changes_to_the_file(self, path: Path) -> None:
        with TensorFile(path) as file:
            copy = file.tensors["b"].read(torch.float32)
        with path.open("r+b") as stream:
            stream.truncate(0)
        assert torch.equal(copy, TENSORS["b"])

    def test_sameness_tells_values_shapes_and_types_apart(self, tmp_path: Path) -> None:
        save_file(
            {
                "one": torch.ones(4, 2),
                "same": torch.ones(4, 2),
                "value": torch.ones(4, 2).mul(2),
                "shape": torch.ones(2, 4),
                "type": torch.ones(4, 2, dtype=torch.float16),
            },
            tmp_path / "x.safetensors",
        )
        with TensorFile(tmp_path / "x.safetensors") as file:
            tensors = file.tensors
            equal = {name for name in tensors if tensors["one"].same_as(tensors[name])}
        assert equal == {"one", "same"}


class TestDamage:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                edited("b", data_offsets=[0, 10**12]),
                "tensor b of shape (3, 4) cannot be 1,000,000,000,000 bytes",
            ),
            (edited("b", shape=[10**6, 10**6]), "tensor b of shape (1000000, 1000000) cannot be 48 bytes"),
            (edited("b", shape=[-3, -4]), "describes tensor b wrongly"),
            (edited("b", shape=7), "describes tensor b wrongly"),
            (edited("b", shape=[True, 12]), "describes tensor b wrongly"),
            (edited("b", data_offsets=[0]), "describes tensor b wrongly"),
            (edited("b", data_offsets=["0", "48"]), "describes tensor b wrongly"),
            (edited("b", dtype="F4"), "tensor b in"),
            (edited("b", dtype=[]), "is of type '[]'"),
            (edited("a", data_offsets=[4, 24]), "is not at the expected position"),
            (lambda header: {**header, "b": 3}, "describes tensor b wrongly"),
            (lambda header: {k: v for k, v in header.items() if k != "c"}, "belong to no tensor"),
            (lambda header: [*header], "its header is not a JSON object"),
        ],
    )
    def test_a_header_that_lies(self, path: Path, change: Callable, message: str) -> None:
        with pytest.raises(CheckpointError) as caught:
            TensorFile(with_header(path, change))
        assert message in str(caught.value)

    def test_cut_short_names_the_tensor_and_both_sizes(self, path: Path) -> None:
        size = path.stat().st_size
        with path.open("r+b") as file:
            file.truncate(size - 1)
        with pytest.raises(
            CheckpointError, match=rf"truncated: tensor \w needs .* {size} bytes .* {size - 1}"
        ):
            TensorFile(path)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "0 bytes is too short"),
            (b"1234567", "7 bytes is too short"),
            (b"\xff" * 8, "claims a header of 18,446,744,073,709,551,615 bytes"),
            (b"\x80\x02}q\x00.pickled", "not a safetensors file"),
            ((2).to_bytes(8, "little") + b"{", "claims a header of 2 bytes"),
            ((2).to_bytes(8, "little") + b"{]", "its header is not JSON"),
            ((2).to_bytes(8, "little") + b"\xff\xfe", "its header is not JSON"),
            ((100_000).to_bytes(8, "little") + b"[" * 100_000, "its header is not JSON"),
        ],
    )
    def test_not_a_safetensors_file(self, path: Path, content: bytes, message: str) -> None:
        path.write_bytes(content)
        with pytest.raises(CheckpointError) as caught:
            TensorFile(path)
        assert message in str(caught.value)

    def test_damaged_at_any_byte_it_is_refused_or_what_the_library_reads_too(self, path: Path) -> None:
        content = path.read_bytes()
        header_end = 8 + int.from_bytes(content[:8], "little")
        damaged = [content[:cut] for cut in range(0, len(content), 7)]
        damaged += [
            content[:place] + bytes([content[place] ^ flip]) + content[place + 1 :]
            for place in range(header_end)
            for flip in (1, 0x80)
        ]
        accepted = 0
        for variant in damaged:
            path.write_bytes(variant)
            try:
                file = TensorFile(path)
            except CheckpointError:
                continue
            accepted += 1
            with file:
                assert {name: stored.shape for name, stored in file.tensors.items()} == {
                    name: tuple(tensor.shape) for name, tensor in load_file(path).items()
                }
        assert 0 < accepted < len(damaged) / 4  # a changed letter of a name is no damage

    def test_a_folder_or_nothing_in_its_place(self, tmp_path: Path) -> None:
        for name, message in (("", "Is a directory"), ("none", "No such file")):
            with pytest.raises(CheckpointError, match=message):
                TensorFile(tmp_path / name)
