from dataclasses import asdict, fields

import pytest
from made_records import FREE, made, made_evidence
from test_evidence import PROFILE

from freelib.experiments import paper_size
from freelib.experiments.differences import (
    METHOD_PHRASES,
    POOL_PHRASES,
    differing,
    line_of_the_papers_size,
    method_lines,
    of_method,
    of_pools,
)
from freelib.methods import get_method
from freelib.models.pretraining import PoolConfig
from freelib.run.pools import pool_config, pool_parts
from freelib.run.profiles import get_profile
from freelib.run.units import Unit, unit_config

CPU, PAPER = get_profile("cpu"), get_profile("paper")


def test_every_setting_of_a_method_that_differs_is_explained():
    names = {
        name
        for method in CPU.methods
        for shots in CPU.shots
        for name in differing(
            *(asdict(unit_config(Unit("table1", method, "cifar-fs", shots, 0), p)) for p in (CPU, PAPER))
        )
    }
    assert names == set(METHOD_PHRASES)  # nor is anything explained that does not occur


def test_every_setting_of_a_pool_that_differs_is_explained():
    names = set()
    for experiment in ("table1", "table2", "table3", "table4", "figure7"):
        own, paper = (profile.for_experiment(experiment) for profile in (CPU, PAPER))
        for dataset in own.datasets:
            for ours, theirs in zip(pool_parts(dataset, own), pool_parts(dataset, paper), strict=True):
                names |= set(differing(asdict(ours.config), asdict(theirs.config)))
    assert names == set(POOL_PHRASES) <= {item.name for item in fields(PoolConfig)}


def test_a_methods_settings_have_the_papers_in_brackets_and_differ_by_shots():
    words = of_method("purer", CPU, PAPER)
    assert "rounds of training (`rounds`): 740 at 1-shot and 365 at 5-shot (10000)" in words
    assert "passes of a generator (`adapt_steps`): 50 (200)" in of_method("bidf_mkd", CPU, PAPER)
    assert of_method("ota", CPU, PAPER) == []
    assert of_method("purer", PAPER, PAPER) == []


def test_free_comes_first_and_every_method_that_differs_has_a_line():
    lines = list(method_lines(CPU))
    assert lines[0].startswith("- FREE: ")
    titles = {line[2:].split(":")[0] for line in lines}
    expected = {get_method(name).title for name in CPU.methods if of_method(name, CPU, PAPER)}
    assert titles == expected >= {"FREE", "PURER", "BiDf-MKD"}


def test_pools_differ_in_crop_and_flip_too():
    words = of_pools([pool_config("cifar-fs", CPU)], [pool_config("cifar-fs", PAPER)])
    assert "random crop and flip of the training images: yes (no)" in words
    assert "models: 40 (100)" in words
    several = [PoolConfig(epochs=20), PoolConfig(epochs=30)]
    assert of_pools(several, [PoolConfig()] * 2) == ["epochs: 20, 30 (60)"]
    assert of_pools(several, [PoolConfig()] * 2, "epochs") == []


@pytest.mark.parametrize(("augment", "told"), [(False, False), (True, True)])
def test_the_line_of_the_papers_size_is_its_records(tmp_path, augment, told):
    ((own, (unit,)),) = paper_size.plan(PROFILE)
    record = made(unit, own, FREE)
    pool = {**record["pool"], "config": {**record["pool"]["config"], "augment": augment}}
    evidence = made_evidence(tmp_path, PROFILE)
    evidence.runs(paper_size.EXPERIMENT).records.append({**record, "pool": pool})
    text = "".join(line_of_the_papers_size(evidence))
    assert ("of the pool, random crop and flip of the training images: yes (no)" in text) == told
    assert "rounds of training" not in text


def test_without_its_record_the_papers_size_has_no_line(tmp_path):
    assert list(line_of_the_papers_size(made_evidence(tmp_path, PROFILE))) == []
