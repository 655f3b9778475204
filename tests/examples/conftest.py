"""What tests of the examples share."""

import pytest

# Their assertions are to show values, as those of test files do.
pytest.register_assert_rewrite("example_runs")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options of a run of `finetune_bert` that takes seconds."""
    from example_runs import write_tiny

    return write_tiny(tmp_path_factory.mktemp("tiny"))
