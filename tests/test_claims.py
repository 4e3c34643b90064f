import pytest
from fake_methods import TINY
from test_tables import record

from freelib.experiments import claims
from freelib.records import RecordStore

FREE = [51.0, 52.0, 53.0, 52.0]


@pytest.fixture
def verdicts(monkeypatch, tmp_path):
    """The verdicts on some records, by the name of the claim."""

    def of(*records):
        monkeypatch.setattr(claims, "standing", lambda *_: list(records))
        found = claims.all_verdicts(TINY, RecordStore(tmp_path))
        return dict(zip([claim.__name__ for claim in claims.CLAIMS], found, strict=True))

    return of


def test_without_records_nothing_is_claimed(verdicts):
    assert {verdict.verdict for verdict in verdicts().values()} == {claims.OPEN}
    alone = verdicts(record("free", FREE))
    assert alone["beats_published"].verdict == claims.OPEN


def test_a_claim_holds_where_the_paired_interval_is_above_zero(verdicts):
    found = verdicts(
        record("free", FREE),
        record("random", [value - 9 for value in FREE]),
        record("ota", [48.0, 49.5, 50.0, 48.5]),
        record("best_teacher", [51.5, 51.5, 52.5, 52.5]),
        record("pool_features", [value + 5 for value in FREE]),
    )
    published = found["beats_published"]
    assert published.verdict == claims.SO_FAR
    assert published.measured == (
        "FREE, points: CIFAR-FS, 1-shot: +3.0 ± 0.4 against OTA; "
        "not yet measured everywhere: average, dro, purer, bidf_mkd"
    )
    assert found["beats_best_teacher"].verdict == claims.FAILS  # +0.0: not told apart
    assert found["beats_pool_features"].verdict == claims.FAILS  # measured or not: one is enough
    assert "−5.0 ± 0.0 against Pool features" in found["beats_pool_features"].measured


def test_a_claim_on_another_method_is_held_against_that_method(verdicts):
    found = verdicts(
        record("pool_distillation", [value + 7 for value in FREE]),
        record("pool_features", [value + 5 for value in FREE]),
        record("best_teacher", [value + 8 for value in FREE]),
    )
    assert found["beats_pool_features"].verdict == claims.OPEN  # FREE was not run
    assert found["distilled_beats_pool"].verdict == claims.SO_FAR  # without centring: not measured
    assert found["distilled_beats_pool"].measured.startswith(
        "Pool distillation, points: CIFAR-FS, 1-shot: +2.0"
    )
    assert found["distilled_beats_best_teacher"].verdict == claims.FAILS


def test_a_claim_holds_where_all_is_measured(verdicts):
    others = ("random", "average", "ota", "dro", "purer", "bidf_mkd")
    found = verdicts(record("free", FREE), *(record(name, [v - 3 for v in FREE]) for name in others))
    assert found["beats_published"].verdict == claims.HOLDS


def test_a_claim_that_holds_in_one_setting_of_two_holds_in_part():
    above, below = (claims.Cell("s", "x", difference, 0.5) for difference in (0.6, 0.4))
    assert claims.counted([above, above]) == claims.HOLDS
    assert claims.counted([above, below]) == claims.HOLDS_IN_PART
    assert claims.counted([below]) == claims.FAILS


@pytest.mark.parametrize(("seconds", "verdict"), [(200.0, "HOLDS"), (50.0, "HOLDS_IN_PART"), (4.0, "FAILS")])
def test_recovery_is_as_much_faster_as_the_seconds_say(tmp_path, seconds, verdict):
    """FIve reaches 80 % in 5 seconds, a generator from scratch in its fourth step of eight."""
    curves = {
        "five": (5.0, [0.7, 0.8]),
        "scratch": (2 * seconds, [0.1, 0.2, 0.3, 0.8, 0.9, 0.9, 0.9, 0.9]),
        "pixels": (1.0, [0.1]),
    }
    tasks = [
        {"way": way, "model": "m", "seconds": spent, "loss": agreement, "agreement": agreement}
        for way, (spent, agreement) in curves.items()
    ]
    store = RecordStore(tmp_path)
    store.put(record("recovery_cost", [1.0], experiment="figure1", extra={"tasks": tasks}))
    found = claims.recovers_faster(TINY, store)
    assert found.verdict == getattr(claims, verdict)
    assert f"CIFAR-FS: {seconds / 5:.1f} times" in found.measured
