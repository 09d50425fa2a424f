from pathlib import Path

from config_reference import SECTIONS, reference
from flashtrader.config import known_keys

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_page_is_what_the_schema_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), (
        "run: python scripts/config_reference.py > docs/configuration.md"
    )


def test_the_page_has_every_key() -> None:
    sections = {name.rpartition(".")[2].partition(",")[0] for name, _ in SECTIONS}
    keys = {key.rpartition(".")[2] for key in known_keys()} - sections
    assert len(keys) > 40
    assert [key for key in sorted(keys - {"name"}) if f"| `{key}` |" not in reference()] == []


def test_a_key_is_one_row_of_its_table() -> None:
    rows = [line for line in reference().splitlines() if line.startswith("| `")]
    assert len(rows) > 40
    assert [row for row in rows if not row.endswith(" |")] == []
