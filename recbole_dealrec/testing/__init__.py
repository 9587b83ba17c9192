"""Tests that other packages run on their own samplers; pytest has to be installed."""

import pytest

pytest.register_assert_rewrite("recbole_dealrec.testing.sampler_tests")  # so that a failure shows the values

from recbole_dealrec.testing.sampler_tests import SamplerTests  # noqa: E402

__all__ = ["SamplerTests"]
