"""What the answers of each family depend on."""

from flashtrader.config import PLAIN_FAMILIES
from flashtrader.verification.families import nature_of


def test_every_plain_family_has_a_nature() -> None:
    assert [family for family in PLAIN_FAMILIES if nature_of(family).learns] == ["ridge", "dlinear", "boosting"]


def test_a_transformer_depends_on_everything() -> None:
    assert all(nature_of(None))
