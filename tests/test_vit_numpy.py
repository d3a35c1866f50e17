"""The NumPy network against the spec, and what its interface promises."""

from __future__ import annotations

import numpy as np
import pytest
from vit_cases import CASES, Reference, config, images, parts, random_params, reference, run

from tokenmerge import ViTConfig, get_vit
from tokenmerge.spec.shared.vit_parameters import is_merger_parameter

PLAIN, LEARNED = "plain", "tome, patch_merger, tome"


@pytest.mark.parametrize("case", CASES)
def test_float64_agrees_with_the_spec(case: str) -> None:
    network, params, given, expected = reference(case)
    assert expected.differences(run(network, params, given, "numpy")) == []


@pytest.mark.parametrize("case", ["tome 3", "ats 7", "ltm 0.5", "patch_merger"])
def test_float32_stays_float32(case: str) -> None:
    network = config(case)
    model = get_vit(network)
    floats = {name: part.dtype for name, part in parts(model(images(network))).items() if part.dtype.kind == "f"}
    assert set(floats.values()) == {np.dtype(np.float32)}, floats


@pytest.mark.parametrize("case", ["plain", "tome 3", "ats 7", "ltm 0.5", "patch_merger", "ats, tome, ltm"])
def test_an_empty_batch_is_empty(case: str) -> None:
    network = config(case)
    given = images(network, batch=0)
    empty, expected = (parts(get_vit(network, backend=backend)(given)) for backend in ("numpy", "spec"))
    assert {name: part.shape for name, part in empty.items()} == {name: part.shape for name, part in expected.items()}
    assert empty["logits"].shape == (0, 5)


def test_samples_do_not_depend_on_one_another() -> None:
    network, params, given, expected = reference("ats, tome, ltm")
    alone = np.concatenate([run(network, params, image[None], "numpy").logits for image in given])
    assert (np.abs(alone - expected.parts["logits"]) <= expected.budget["logits"]).all()


def test_inputs_are_not_modified() -> None:
    network = config("ats, tome, ltm")
    params, given = random_params(network), images(network)
    before = given.copy(), {name: value.copy() for name, value in params.items()}
    run(network, params, given, "numpy")
    assert (given == before[0]).all()
    assert all((params[name] == value).all() for name, value in before[1].items())


def test_params_are_copies_and_come_back() -> None:
    network = config(LEARNED)
    model, params = get_vit(network), random_params(network)
    model.load_params(params)
    got = model.params()
    assert {name: value.dtype for name, value in got.items()} == dict.fromkeys(params, np.dtype(np.float64))
    assert all((got[name] == value).all() for name, value in params.items())
    got["pos_embed"][...] = 0
    assert (model.params()["pos_embed"] == params["pos_embed"]).all()


def test_a_checkpoint_without_the_merger_keeps_its_parameters() -> None:
    network = config(LEARNED)
    model, before = get_vit(network, seed=3), get_vit(network, seed=3).params()
    model.load_params({name: value for name, value in random_params(network).items() if not is_merger_parameter(name)})
    merger = {name for name in before if is_merger_parameter(name)}
    assert merger
    assert all((model.params()[name] == before[name]).all() for name in merger)
    assert (model.params()["pos_embed"] != before["pos_embed"]).any()


def test_the_seed_gives_the_first_parameters() -> None:
    network = config(PLAIN)
    one, other, same = (get_vit(network, seed=seed).params() for seed in (0, 1, 0))
    assert (one["pos_embed"] == same["pos_embed"]).all()
    assert (one["pos_embed"] != other["pos_embed"]).any()


# Bad input


def test_an_image_of_the_wrong_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^vit: `images` must have .*16.*got \(1, 20, 16, 3\)$"):
        get_vit(config(PLAIN))(np.zeros((1, 20, 16, 3)))


def test_an_image_that_is_no_float_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^vit: `images` must be floating point, got "):
        get_vit(config(PLAIN))(np.zeros((1, 16, 16, 3), np.uint8))


def test_a_state_dict_that_does_not_fit_is_refused_and_changes_nothing() -> None:
    model = get_vit(config(PLAIN))
    before = model.params()
    bad = model.params() | {"head.bias": np.zeros(7), "head_dist.bias": np.zeros(5)}
    del bad["norm.weight"]
    bad["pos_embed"] += 1
    with pytest.raises(ValueError, match=r"^vit: `params` must fit the configuration, got ") as error:
        model.load_params(bad)
    for words in ("missing: norm.weight", "unexpected: head_dist.bias", r"wrong shape: head.bias (7,) instead of (5,)"):
        assert words in str(error.value)
    assert all((value == before[name]).all() for name, value in model.params().items())


def test_a_contradiction_shows_when_the_network_is_made() -> None:
    with pytest.raises(ValueError, match="layer"):
        get_vit(ViTConfig(pool="mean", depth=2, merging=CASES["patch_merger, norm first"]["merging"]))


# The comparison above can fail


def test_a_wrong_parameter_is_noticed() -> None:
    network, params, given, expected = reference("tome 3")
    for name in params:
        changed = params | {name: params[name] * (1 + 1e-6)}
        assert expected.differences(run(network, changed, given, "numpy")) != [], name


def test_another_plan_is_noticed() -> None:
    network, params, given, expected = reference("tome 3")
    other = Reference(network, params, given[::-1])
    assert any("decided otherwise" in difference for difference in expected.differences(other.output))
