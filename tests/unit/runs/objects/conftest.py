import pytest

pytest.register_assert_rewrite("support.object_contract")
