from harness.nan.policy import Action, Policy

HEALTHY = {"weights_finite": True, "can_fall_back": False}


def judged(policy: Policy, steps: str) -> list[Action]:
    """One letter a step: b is bad, g is good. Returns what was decided about the bad ones."""
    actions = []
    for number, letter in enumerate(steps, start=1):
        if letter == "g":
            policy.good()
        else:
            actions.append(policy.bad(number, **HEALTHY))
            if actions[-1] is not Action.GO_ON:
                policy.acted(actions[-1])
    return actions


def test_three_in_a_row_are_too_many():
    assert judged(Policy(), "gbgg") == [Action.GO_ON]
    assert judged(Policy(), "bbb")[-1] is Action.ROLL_BACK
    assert judged(Policy(), "bgbgb") == [Action.GO_ON] * 3  # 3 bad, 0.2 forgiven: the next one is too many
    assert judged(Policy(), "bgbgbb")[-1] is Action.ROLL_BACK


def test_one_in_ten_never_adds_up():
    assert set(judged(Policy(), "bgggggggggg" * 50)) == {Action.GO_ON}


def test_the_trouble_began_with_the_first_that_is_not_forgiven():
    policy = Policy(forgive=1.0)
    judged(policy, "bgbb")
    assert policy.first_bad == 3


def test_a_weight_that_is_not_finite_needs_no_patience_and_no_other_precision():
    assert Policy().bad(1, weights_finite=False, can_fall_back=True) is Action.ROLL_BACK


def test_fp16_is_left_before_going_back():
    policy = Policy(patience=1)
    assert policy.bad(1, weights_finite=True, can_fall_back=True) is Action.FALL_BACK
    policy.acted(Action.FALL_BACK)
    assert policy.rollbacks == 0


def test_the_fourth_time_it_stops():
    assert judged(Policy(patience=1), "bbbb") == [*[Action.ROLL_BACK] * 3, Action.STOP]


def test_counts_survive_a_resume():
    first, second = Policy(), Policy()
    judged(first, "bbbgb")
    second.load_state_dict(first.state_dict())
    assert second == first


def test_a_count_of_zero_means_what_it_says():
    assert judged(Policy(forgive=0), "b" + "g" * 99 + "bb")[-1] is Action.ROLL_BACK
    assert judged(Policy(max_rollbacks=0), "bbb")[-1] is Action.STOP
