from dataclasses import replace

import pytest
from made_records import FREE, made, made_evidence
from test_evidence import PROFILE

from freelib.experiments import paper_size
from freelib.experiments.changed_settings import changed_settings

CHANGED = replace(PROFILE, overrides={**PROFILE.overrides, "free": {"lambda_bn": 0.05, "align_sweeps": 12}})


def test_a_profile_with_the_releases_settings_has_no_sentence(tmp_path):
    assert changed_settings(made_evidence(tmp_path, PROFILE)) == ""


def test_without_the_run_of_the_papers_size_only_the_tables_are_spoken_of(tmp_path):
    text = changed_settings(made_evidence(tmp_path, CHANGED))
    assert text.startswith(
        "In the tables FREE differs from its public release (in brackets) in more than size: "
    )
    assert "12 distillation sweeps a round (1), λ_bn = 0.05 (0)." in text
    assert "paper's size" not in text


@pytest.mark.parametrize(
    ("sweeps", "words"),
    [
        (1, "The run of the paper's size, end to end, has the release's values of these. All"),
        (3, "has the release's values of these, but for 3 distillation sweeps a round (1). All"),
    ],
)
def test_what_the_run_of_the_papers_size_has_is_its_records(tmp_path, sweeps, words):
    ((own, (unit,)),) = paper_size.plan(CHANGED)
    record, evidence = made(unit, own, FREE), made_evidence(tmp_path, CHANGED)
    config = {**record["config"], "align_sweeps": sweeps}
    evidence.runs(paper_size.EXPERIMENT).records.append({**record, "config": config})
    assert words in changed_settings(evidence)
