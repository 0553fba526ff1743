"""Asserts in the tests that every database shares are explained like those beside this file."""

import pytest

pytest.register_assert_rewrite("support.database_contract")
