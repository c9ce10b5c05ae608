import pytest

from drsformer import PRESETS, ConfigError, DRSformerConfig


def test_presets_are_the_published_variants():
    assert PRESETS["mefc"] == DRSformerConfig()
    assert PRESETS["plain"] == DRSformerConfig(mefc=False)
    assert PRESETS["mefc"].hidden_channels(48) == 127


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dim": 0}, "dim must be"),
        ({"dim": 7}, "dim must be"),
        ({"dim": True}, "dim must be"),
        ({"dim": 48.0}, "dim must be"),
        ({"num_blocks": (1, 2, 3)}, "num_blocks must be"),
        ({"num_blocks": (1, 2, 3, 0)}, "num_blocks must be"),
        ({"num_blocks": 4}, "num_blocks must be"),
        ({"num_heads": (5, 2, 4, 8)}, r"num_heads\[0\]"),
        ({"dim": 8, "num_heads": (8, 2, 4, 8)}, r"num_heads\[0\]"),
        ({"ffn_expansion_factor": float("nan")}, "ffn_expansion_factor must be a number"),
        ({"ffn_expansion_factor": 10**400}, "ffn_expansion_factor must be a number"),
        ({"ffn_expansion_factor": "2"}, "ffn_expansion_factor must be a number"),
        ({"ffn_expansion_factor": 0.001}, "at least one hidden channel"),
        ({"bias": 1}, "bias must be"),
        ({"mefc": "yes"}, "mefc must be"),
        ({"stem": 0}, "stem must be one of 1, 2, 4, not 0"),
        ({"stem": 3}, "stem must be"),
        ({"stem": True}, "stem must be"),
        ({"stem": 2.0}, "stem must be"),
    ],
)
def test_impossible_values_are_named(values, message):
    with pytest.raises(ConfigError, match=message):
        DRSformerConfig(**values)


@pytest.mark.parametrize(("stem", "multiple", "channels"), [(1, 8, 3), (2, 16, 12), (4, 32, 48)])
def test_a_stem_changes_what_the_network_takes(stem, multiple, channels):
    config = DRSformerConfig(stem=stem)
    assert (config.size_multiple, config.image_channels) == (multiple, channels)


def test_dictionary_and_back():
    config = DRSformerConfig(dim=16, num_blocks=[1, 2, 1, 3])
    assert DRSformerConfig.from_dict(config.to_dict()) == config
    assert hash(config)
    with pytest.raises(ConfigError, match="unknown configuration key 'depth'"):
        DRSformerConfig.from_dict({"depth": 3})


def test_dictionaries_from_before_the_stem_are_the_papers_network():
    values = DRSformerConfig().to_dict()
    del values["stem"]
    assert DRSformerConfig.from_dict(values).stem == 1
