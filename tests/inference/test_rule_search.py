"""Component rules are chosen only if their gain on validation cases is significant."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medhybrid.data.fingerprint import UNKNOWN
from medhybrid.inference.rule_search import ComponentRules, JudgedCase, choose_rules

SHAPE = (24, 24, 12)
LESION = {"lesion": (1,)}


def case(rng: np.random.Generator, *, specks: int, second_lesion: bool = False) -> JudgedCase:
    """Return a case with a well predicted blob, false components of one voxel, and on request a second true blob."""
    reference = np.zeros(SHAPE, np.uint8)
    reference[4:12, 4:12, 3:9] = 1
    if second_lesion:
        reference[16:21, 16:21, 3:9] = 1
    prediction = np.roll(reference, int(rng.integers(0, 2)), axis=0)
    for _ in range(specks):
        prediction[tuple(rng.integers([14, 0, 0], [24, 12, 12]))] = 1
    return JudgedCase(prediction, reference, 0.008)


def test_false_specks_are_removed_by_volume_and_true_lesions_kept(rng: np.random.Generator) -> None:
    cases = [case(rng, specks=12, second_lesion=True) for _ in range(12)]

    rules = choose_rules(cases, LESION)

    assert rules.keep_largest == ()
    assert 0.008 < rules.min_component_ml < 150 * 0.008
    assert rules.gain.low > 0


def test_no_rule_is_chosen_if_none_helps(rng: np.random.Generator) -> None:
    assert choose_rules([case(rng, specks=0, second_lesion=True) for _ in range(12)], LESION) == ComponentRules()


def test_no_rule_is_chosen_for_a_gain_in_one_case(rng: np.random.Generator) -> None:
    cases = [case(rng, specks=0) for _ in range(11)] + [case(rng, specks=30)]

    assert choose_rules(cases, LESION) == ComponentRules()


@pytest.mark.parametrize("n_seeds", [1, 8])
def test_no_rule_is_chosen_from_few_cases_even_with_many_predictions_of_each(
    rng: np.random.Generator, n_seeds: int
) -> None:
    cases = [replace(case(rng, specks=12, second_lesion=True), name=name) for name in "abcde" for _ in range(n_seeds)]

    assert choose_rules(cases, LESION) == ComponentRules()
    assert choose_rules(cases[:1], LESION) == ComponentRules()


def test_rules_name_regions(rng: np.random.Generator) -> None:
    """False cores of one voxel are inside the tumour, where they are no components of the whole tumour."""
    cases = []
    for _ in range(8):
        reference = np.zeros(SHAPE, np.uint8)
        reference[2:22, 2:22, 1:11] = 1
        reference[4:9, 4:9, 3:8] = 2
        prediction = reference.copy()
        for x in rng.integers(12, 20, 20):
            prediction[x, rng.integers(4, 20), rng.integers(2, 10)] = 2
        cases.append(JudgedCase(prediction, reference, 0.008))

    rules = choose_rules(cases, {"whole": (1, 2), "core": (2,)})

    assert rules.keep_largest == ("core",) or rules.min_component_ml > 0
    assert rules.gain.low > 0


def test_neither_unknown_voxels_nor_missing_structures_decide_on_rules(rng: np.random.Generator) -> None:
    cases = [case(rng, specks=12) for _ in range(8)]
    hidden = [replace(c, reference=np.where(c.prediction != c.reference, UNKNOWN, c.reference)) for c in cases]
    missing = [replace(c, annotated=("other",)) for c in cases]

    assert choose_rules(cases, LESION | {"other": (2,)}).gain.low > 0
    assert choose_rules(hidden, LESION) == ComponentRules()
    assert choose_rules(missing, LESION | {"other": (2,)}) == ComponentRules()
