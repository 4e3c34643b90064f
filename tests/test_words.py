from dataclasses import replace

import torch
from fake_methods import TINY
from made_records import made_evidence
from tiny_models import tiny_model

from freelib.experiments.embedded import EMBEDDED, figures
from freelib.experiments.words import WORDS, glossary
from freelib.generator import MetaGenerator
from freelib.inversion import InversionConfig


def test_each_term_has_a_line_and_steps_are_counted_by_the_profile():
    lines = "\n".join(glossary(replace(TINY, overrides={"free": {"adapt_steps": 7}})))
    assert lines.count("\n- *") == len(WORDS)
    assert "the *7 steps* of the meta-generator are 7 passes and 6 updates" in lines
    assert "{" not in lines


def test_each_embedded_figure_has_a_title_and_sentences(tmp_path):
    (tmp_path / "figures").mkdir()
    for name in (*EMBEDDED, "another"):
        (tmp_path / "figures" / f"{name}.png").touch()
    text = "\n".join(figures(tmp_path, made_evidence(tmp_path / "records")))
    for name, (title, words) in EMBEDDED.items():
        assert f"![{title}]({tmp_path.name}/figures/{name}.png)\n\n*{title}.* {words}\n" in text
        assert words.endswith(".")
    assert f"More: [another]({tmp_path.name}/figures/another.png)." in text


def test_a_pass_more_than_updates_as_the_glossary_says(monkeypatch):
    updates, step = [], torch.optim.Adam.step
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self, *a: updates.append(1) or step(self, *a))
    config = InversionConfig(ngf=4, images_per_class=2, adapt_steps=3)
    generator = MetaGenerator(config, image_size=16, channels=3, seed=0)
    task = generator.adapt(tiny_model(), None, torch.Generator().manual_seed(0))
    assert (generator.iterations, len(task.losses), len(updates)) == (3, 3, 2)
