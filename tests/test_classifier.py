"""A learner as a scikit-learn classifier: the contract, images of every form, rejection, folders."""

import shutil

import huggingface_hub
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks
from tiny_models import flat, rng, tiny_model, tiny_pool

from freelib import FewShotClassifier, ModelPool
from freelib.adapted import AdaptedNetwork
from freelib.meta_learner import MetaLearner, prototype_logits
from freelib.methods import get_method
from freelib.methods.prototypes import PoolFeaturesConfig
from freelib.models.backbones import build_backbone

PIXELS = (torch.rand(40, 3, 16, 16, generator=rng()) * 255).round().to(torch.uint8)
NAMES = np.array(["ant", "bee", "cat", "dog", "elk"])
SHOWN, Y, ASKED = PIXELS[:10], np.tile(NAMES, 2), PIXELS[10:]

CANNOT_APPLY = {
    "check_estimators_overwrite_params": "it compares joblib's hashes, which tell a torch tensor from its own copy"
}


def learner(head: str = "prototypes", *, batch_stats: bool = False, **settings) -> MetaLearner:
    """An untrained student as pool distillation makes it, or, with inner steps, as FREE does."""
    embeds = head == "prototypes"
    shape = {"n_way": 8 if embeds else 5, "embeds": embeds, "batch_stats": batch_stats or not embeds}
    network = build_backbone("conv4", image_size=16, width=8, **shape).eval()
    return MetaLearner(network, mean=(0.5, 0.4, 0.3), std=(0.25, 0.2, 0.3), image_size=16, head=head, **settings)


LEARNERS = {
    "prototypes": learner(centre="episode"),
    "maml": learner("maml", inner_lr=0.1),
    "batch statistics": learner(batch_stats=True, centre="support"),
}


class Named(FewShotClassifier):
    """With no address of its learner in its name, and so in those of the tests."""

    def __repr__(self, N_CHAR_MAX=700):
        return type(self).__name__


@parametrize_with_checks([Named(learner())], expected_failed_checks=lambda _: CANNOT_APPLY)
def test_scikit_learns_contract(estimator, check):
    check(estimator)


@pytest.mark.parametrize("kind", LEARNERS)
def test_an_answer_does_not_depend_on_the_other_images_and_the_learner_stays(kind):
    before = flat(LEARNERS[kind].params.values())
    classifier = clone(FewShotClassifier(LEARNERS[kind])).fit(SHOWN, Y)
    together = classifier.predict_proba(ASKED)
    np.testing.assert_allclose(together[:1], classifier.predict_proba(ASKED[:1]), atol=1e-5)
    np.testing.assert_allclose(together.sum(1), 1, atol=1e-5)
    assert torch.equal(flat(LEARNERS[kind].params.values()), before)
    assert classifier.classes_.tolist() == NAMES.tolist()
    assert classifier.predict(ASKED).tolist() == NAMES[together.argmax(1)].tolist()


@pytest.mark.parametrize("centre", ["none", "support", "episode"])
def test_prototypes_take_nothing_from_the_queries(centre):
    """10 glyph teachers, 5-way test accuracy at 1 and 5 shots: 56.9 and 74.1, with the episode's mean 55.1 and 69.2."""
    own, labels = learner(centre=centre), torch.arange(5).repeat(2)
    classifier, taken = FewShotClassifier(own).fit(SHOWN, Y), "none" if centre == "episode" else centre
    expected = prototype_logits(own.embed(SHOWN), labels, own.embed(ASKED), centre=taken).softmax(1)
    np.testing.assert_allclose(classifier.predict_proba(ASKED), expected.detach(), atol=1e-5)
    features = FewShotClassifier(own).fit(own.embed(SHOWN).detach().numpy(), Y)
    np.testing.assert_allclose(features.predict_proba(own.embed(ASKED).detach()), expected.detach(), atol=1e-5)


@pytest.mark.parametrize("kind", ["maml", "batch statistics"])
def test_fixed_statistics_are_the_support_sets(kind):
    """Asked for the support set itself, the transductive classifier has the same statistics.

    What that costs on 100 glyph episodes (test classes, 5-way, FREE of 10 teachers and 30 rounds, transductive 36.2 and
    47.6 %): 1.6 ± 0.9 points at 1 shot, 0.4 ± 0.7 at 5.
    """
    labels, images = torch.arange(5).repeat(2), SHOWN.float() / 255
    expected = LEARNERS[kind].adapt(images, labels).predict_proba(images).detach()
    torch.testing.assert_close(AdaptedNetwork(LEARNERS[kind], images, labels)(images), expected)


def test_an_ensemble_of_models_without_statistics_of_their_own_takes_the_support_sets():
    """It has features, and no class scores of its own."""
    model, labels, images = tiny_model(), torch.arange(5).repeat(2), SHOWN.float() / 255
    model.module = build_backbone("conv4", image_size=16, width=4, batch_stats=True).eval()
    pool, config = ModelPool.from_models([model]), PoolFeaturesConfig(centre="none")
    ensemble = get_method("pool_features").build(pool, config, seed=0)
    expected = ensemble.adapt(images, labels).predict_proba(images)
    torch.testing.assert_close(AdaptedNetwork(ensemble, images, labels)(images), expected)


def test_images_of_every_form_give_the_same_answer(tmp_path):
    arrays = ASKED.permute(0, 2, 3, 1).numpy()
    pictures = [Image.fromarray(array) for array in arrays]
    turned = [image.transpose(Image.Transpose.ROTATE_90) for image in pictures]
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    paths = [tmp_path / f"{i:02}.png" for i in range(30)]
    for path, image in zip(paths, turned, strict=True):
        image.save(path, exif=exif)
    classifier = FewShotClassifier(LEARNERS["prototypes"]).fit(pictures[:5], NAMES)
    expected = classifier.predict_proba(arrays)
    forms = [ASKED.numpy(), ASKED, ASKED / 255, arrays / 255.0, pictures, list(map(Image.open, paths)), paths]
    for form in [*forms, np.array(list(map(str, paths)))]:
        np.testing.assert_allclose(classifier.predict_proba(form), expected, atol=1e-5)
    large = [image.resize((64, 64), Image.Resampling.NEAREST).convert("L").convert("P") for image in pictures]
    assert classifier.predict_proba(large).shape == (30, 5)


def test_rejection_by_hand_and_what_other_learners_cannot_do(tmp_path):
    """With a class left out, its highest cosines with the others' prototypes.

    AUROC of the highest score on glyph test classes, 5 known and 5 unseen (100 episodes): pool distillation of 10
    teachers 0.63 at 1 shot and 0.68 at 5, FREE 0.48. With reject=0.1 and 5 shots 24 % of unseen and 46 % of known ones
    are given a class.
    """
    table = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.6, 0.8, 0]], dtype=np.float32)
    y = np.array([0, 1, 2, 0])
    classifier = FewShotClassifier(learner(centre="none"), reject=0.5, unknown_label=-1).fit(table, y)
    # class 0 left out: 0 and 0.8; class 1: 0.8 / |(1.6, 0.8)| · 1; class 2: 0
    assert classifier.threshold_ == pytest.approx(10 * (0.8 / np.hypot(1.6, 0.8)) / 2)
    assert classifier.predict([[1, 1, 0], [0, 0, -1], [0, 0, 1]]).tolist() == [0, -1, 2]
    assert FewShotClassifier(learner()).fit(table, y).threshold_ is None
    for share, labels, words in ((1.5, y, "in \\(0, 1\\)"), (0.1, y % 2, "three classes or more")):
        with pytest.raises(ValueError, match=words):
            FewShotClassifier(learner(), reject=share).fit(table, labels)
    method = get_method("pool_features")
    ensemble = FewShotClassifier(method.meta_train(tiny_pool(), method.Config(), seed=0)).fit(SHOWN, Y)
    assert ensemble.predict(ASKED).shape == (30,)
    with pytest.raises(ValueError, match="one network of freelib's"):
        ensemble.save_pretrained(tmp_path / "a")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("kind", LEARNERS)
def test_a_folder_gives_it_back(kind, tmp_path, monkeypatch):
    classifier = FewShotClassifier(LEARNERS[kind], reject=0.2).fit(SHOWN, Y)
    facts = {"pool": "ten glyph models", "accuracy": "61.0 ± 0.9 %, 5-way 1-shot"}
    classifier.save_pretrained(tmp_path / "a", model_card_kwargs=facts)
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["README.md", "config.json", "model.safetensors"]
    card = (tmp_path / "a" / "README.md").read_text("utf-8")
    assert all(f"| {cell} |" in card for cell in [*facts.values(), "unknown", ", ".join(NAMES)])
    again = FewShotClassifier.from_pretrained(tmp_path / "a")
    np.testing.assert_allclose(again.predict_proba(ASKED), classifier.predict_proba(ASKED), atol=1e-5)
    assert again.predict(ASKED).tolist() == classifier.predict(ASKED).tolist()
    assert FewShotClassifier.from_pretrained(tmp_path / "a", reject=None).threshold_ is None

    class Api:
        def __init__(self, token=None) -> None:
            self.create_repo = lambda repo_id, **_: huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

        def upload_folder(self, *, folder_path, **_):
            shutil.copytree(folder_path, tmp_path / "hub")

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Api)
    again.push_to_hub("me/mine", model_card_kwargs=facts)
    assert (tmp_path / "hub" / "README.md").read_text("utf-8") == card


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"width": 8', '"width": 1000000'), ('"image_size": 16', '"image_size": 30000'), ("{", "["),
        ('"inner_steps": 10', '"inner_steps": 1000000000000'), ('"arch"', '"colour"'), ('"head": "', '"head": "x'),
    ],
)  # fmt: skip
def test_a_damaged_folder_is_named(tmp_path, old, new):
    FewShotClassifier(LEARNERS["maml"]).fit(SHOWN, Y).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(ValueError, match=r"Expecting|holds no whole FewShotClassifier"):
        FewShotClassifier.from_pretrained(tmp_path)
