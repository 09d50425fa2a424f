from flashtrader.benchmarks.backtest import measure_backtest


def test_both_engines_earn_the_same_and_every_speed_is_a_number() -> None:
    for speed, size in zip(measure_backtest(sizes := ((300, 5), (500, 1)), repeats=1), sizes, strict=True):
        assert (speed.num_bars, speed.num_assets) == size
        assert speed.relative_difference < 1e-9
        assert min(speed.first_call_s, speed.warm_s, speed.engine_rate, speed.numpy_loop_rate) > 0
