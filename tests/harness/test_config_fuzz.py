"""Any key, any value: a config that is fine, or one sentence; and nothing is made before the sentence."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from harness.config.check import check
from harness.config.compose import compose, known_keys, normalize_overrides
from harness.config.jobs import sweep
from harness.errors import UserError

VALUES = [
    "0", "1", "-1", "2", "0.5", "1.0", "-0.1", "1e9", "1e-30", "1e400", "nan", "inf", "-inf", "true", "false", "null",
    "auto", "never", "x", "''", '""', "' '", ".", "..", "../x", "/", "~", "[]", "[0.9]", "[0.9,0.95]", "[a,[b]]", "{}",
    "{a:1}", "{_target_:nowhere.Thing}", "{_target_:os.getcwd}", "{_target_:5}", "${seed}", "${nowhere}", "${oc.env:X}",
    "${", "é", "日本", "a b", "it's", "1e", "99999999999999999999999", "14m", "default", "bf16-mixd", "\x00", "x" * 300,
]  # fmt: skip
PREFIXES = ["", "+", "++", "~"]


def keys() -> list[str]:
    callbacks = [f"callbacks.{name}" for name in ("mine", "nan_guard", "nan_guard.new", "samples.prompts")]
    return [*known_keys(), *callbacks, "hydra.job.name", "modle", "model.config.num_layer", "experiment", "debug"]


@pytest.mark.slow
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    prefix=st.sampled_from(PREFIXES), key=st.deferred(lambda: st.sampled_from(keys())), value=st.sampled_from(VALUES)
)
@example(prefix="", key="model", value="''")
@example(prefix="", key="env", value="{a:{b:1}}")
def test_any_value_anywhere_is_fine_or_one_sentence(
    prefix: str, key: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    word = f"{prefix}{key}" if prefix == "~" else f"{prefix}{key}={value}"
    try:
        for job in sweep(list(normalize_overrides([word]))):
            check(compose(job))
    except UserError as error:
        assert error.code == 2
        assert str(error).strip() and "Traceback" not in str(error)
    assert list(tmp_path.iterdir()) == []
