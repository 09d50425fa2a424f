import numpy as np

from flashtrader.report.book_plots import plot_directions

NAMES = ("down", "flat", "up")
CONFUSION = [[6, 2, 0], [1, 1, 2], [0, 0, 0]]


def test_every_cell_says_its_share_of_the_outcome_and_its_count() -> None:
    answers, _ = plot_directions(CONFUSION, NAMES, np.zeros(5), np.zeros(5)).axes
    texts = [text.get_text() for text in answers.texts]
    assert texts == ["75%\n6", "25%\n2", "0%\n0", "25%\n1", "25%\n1", "50%\n2", "0%\n0", "0%\n0", "0%\n0"]
    assert [label.get_text() for label in answers.get_yticklabels()] == list(NAMES)


def test_bars_are_the_mean_moves_of_forecasts_from_lowest_to_highest() -> None:
    forecasts = np.linspace(-0.9, 0.9, 200)
    moves = 3 * forecasts
    known_and_not = (np.append(forecasts, [0.9, np.nan]), np.append(moves, [np.nan, 50.0]))
    _, bars = plot_directions(CONFUSION, NAMES, *known_and_not).axes
    heights = [bar.get_height() for bar in bars.patches]
    np.testing.assert_allclose(heights, moves.reshape(10, 20).mean(axis=1), atol=1e-9)
    assert bars.get_ylabel().endswith("bp")


def test_a_market_that_has_no_outcome_yet_has_no_bars() -> None:
    _, bars = plot_directions(CONFUSION, NAMES, np.zeros(5), np.full(5, np.nan)).axes
    assert not bars.patches
