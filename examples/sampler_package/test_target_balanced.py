"""In the installed package's folder: python -m pytest test_target_balanced.py"""

from recbole_dealrec.testing import SamplerTests


class TestTargetBalanced(SamplerTests):
    sampler = "TargetBalanced"
