from apmae.config import EncodeConfig, LMConfig
from apmae.engine.stages import decisive, opened
from apmae.lm.load import load


def test_what_decides_bytes_is_how_the_model_was_loaded_but_not_where():
    config = EncodeConfig(seed=3)
    assert decisive(config, None) == config.model_dump(mode="json")
    plain = decisive(config, load(LMConfig(source="bundled-small"), check=False))
    added = {
        "dtype": "float32",
        "infill": "<fim_prefix>{prefix}<fim_suffix>{suffix}<fim_middle>",
        "outcome_rule": "text",
    }
    assert plain == config.model_dump(mode="json") | added
    eager = load(LMConfig(source="bundled-small", attention="eager"), check=False)
    assert decisive(config, eager) == plain | {"attention": "eager"}


def test_a_model_is_loaded_once(bundled_lm):
    assert opened(bundled_lm) is bundled_lm
    again = opened(bundled_lm.config)
    assert again is not bundled_lm and again.config == bundled_lm.config
    assert again.fingerprint == bundled_lm.fingerprint
