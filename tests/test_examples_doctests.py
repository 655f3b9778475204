"""The doctests of the examples' modules."""

import doctest

import batches
import bert_weights
import pytest
import report
import table


@pytest.mark.parametrize("module", [batches, bert_weights, report, table])
def test_doctests_of_the_examples(module):
    result = doctest.testmod(module)
    assert result.attempted > 0 and result.failed == 0
