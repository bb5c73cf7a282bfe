"""Options of priors: each of a wrong kind is one line, before the weights are read and in the prior's class alike."""

from __future__ import annotations

import pytest
import tiny
from conftest import build_pipeline

from dap.errors import OptionError
from dap.priors import load_prior

MAKERS = {
    "sd": tiny.stable_diffusion, "sdxl": tiny.stable_diffusion_xl, "sd3": tiny.stable_diffusion_3, "flux": tiny.flux,
    "pixart": tiny.pixart, "sana": tiny.sana, "unet": lambda: tiny.latent(classes=2), "dit": build_pipeline,
}  # fmt: skip
TEXT = ("sd", "sdxl", "sd3", "flux", "pixart", "sana")
WRONG = [
    (TEXT, {"template": 5}, "template: expected text with one"),
    (("sd", "sdxl", "sd3", "pixart", "sana"), {"negative_prompt": 5}, "negative_prompt: expected text, or none, got 5"),
    (TEXT, {"prompts": 5}, "prompts: expected text by class name, or a JSON file of it, got 5"),
    (("sd",), {"concepts": 5}, "concepts: expected tensors .* or a folder of them, got 5"),
    (("sd",), {"concepts": {"cat": 1}}, "concepts: expected tensors"),
    (("flux",), {"guidance": "much"}, "guidance: expected a number of at least 0, got 'much'"),
    (("dit",), {"learned_variance": "maybe"}, "learned_variance: expected true or false, got 'maybe'"),
    *(
        (("dit",), {"guided_channels": value}, "guided_channels: expected a whole number")
        for value in ("abc", [1], True, 0)
    ),
    (("unet",), {"class_names": 5}, "class_names: expected a list of names, got 5"),
    (("unet",), {"class_names": "ab"}, "class_names: expected a list of names, got 'ab'"),
    (tuple(MAKERS), {"recommended": 5}, "unknown option of a .*Prior 'recommended'"),
    (("dit", "unet"), {"learned": "x"}, "unknown option of a .*Prior 'learned'"),
]  # fmt: skip


@pytest.mark.parametrize(("kinds", "options", "message"), WRONG, ids=lambda value: str(value)[:40])
def test_options_of_another_kind_are_refused(kinds, options, message, tmp_path, monkeypatch):
    for kind in kinds:
        pipeline = MAKERS[kind]()
        with pytest.raises(OptionError, match=message):
            load_prior(pipeline, options=options)
    pipeline.save_pretrained(tmp_path)
    monkeypatch.setattr("dap.priors.pipeline_folder.load_pipeline", None)  # the weights are not read
    with pytest.raises(OptionError, match=message):
        load_prior(tmp_path, options=options)


@pytest.mark.parametrize("kind", ["sd", "sd3", "pixart", "sana", "sdxl"])
def test_no_negative_prompt_is_that_of_the_pipeline(kind):
    given = load_prior(MAKERS[kind](), options={"negative_prompt": None}).describe()
    assert given == load_prior(MAKERS[kind]()).describe()
    assert given["negative_prompt"] == (None if kind == "sdxl" else "")


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_guidance_is_an_input_of_latent_consistency_models_alone(kind):
    with pytest.raises(OptionError, match=r"guidance=500: .* takes no scale as an input; .* guidance_scale"):
        load_prior(MAKERS[kind](), options={"guidance": 500})
    lcm = load_prior(MAKERS[kind](time_cond_proj_dim=8))
    assert lcm.describe()["guidance"] == (7.5 if kind == "sd" else 5.0)
    assert load_prior(MAKERS[kind](time_cond_proj_dim=8), options={"guidance": 2}).describe()["guidance"] == 2


def test_flux_schnell_takes_no_guidance():
    with pytest.raises(OptionError, match=r"guidance=2: .* takes no scale as an input; leave it out"):
        load_prior(tiny.flux(guided=False), options={"guidance": 2})
    assert load_prior(tiny.flux(), options={"guidance": 2}).describe()["guidance"] == 2


def test_prompts_of_other_classes_alone_are_refused():
    prior = load_prior(tiny.stable_diffusion(), options={"prompts": {"tench": "a tench in a net"}})
    with pytest.raises(OptionError, match=r"prompts: expected those of some of the classes 'n01440764', got those of"):
        prior.for_classes(["n01440764"])
    assert prior.for_classes(["tench", "cat"]).labels_of(["cat"])
