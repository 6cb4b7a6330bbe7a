"""The JSON Schema says the same as the parser, and conf/full.yaml shows every key of it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from asynclb.config import json_schema, parse
from asynclb.config.schema import PARTS
from asynclb.errors import ConfigError

CONF = Path(__file__).parents[3] / "conf"
SCHEMA = json_schema()


def parts() -> dict[str, dict[str, Any]]:
    """Return every mapping of the schema by its title."""
    return {"document": SCHEMA, **SCHEMA["$defs"]}


def keys() -> list[tuple[str, str, dict[str, Any]]]:
    """Return every key of the schema: its part, its name, what is said of it."""
    return [(part, key, said) for part, found in parts().items() for key, said in found["properties"].items()]


def test_schema_is_json() -> None:
    """The schema survives being written."""
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA
    assert SCHEMA["$schema"].endswith("2020-12/schema")


def test_every_part_is_closed() -> None:
    """Editors flag unknown keys everywhere, as the parser does, and names that are none."""
    assert all(part["additionalProperties"] is False for part in parts().values())
    named = [said for _, _, said in keys() if "patternProperties" in said]
    assert len(named) == 4
    assert all(said["additionalProperties"] is False for said in named)


@pytest.mark.parametrize(("part", "key", "said"), keys(), ids=lambda value: value if isinstance(value, str) else "")
def test_every_key_is_described(part: str, key: str, said: dict[str, Any]) -> None:
    """Every key has a description, and is required or has a default."""
    assert said["description"], (part, key)
    assert ("default" in said) != (key in parts()[part].get("required", ()))


def test_defaults_are_spelled_as_in_the_file() -> None:
    """Durations, addresses and statuses appear as the operator writes them."""
    probe, rule = SCHEMA["$defs"]["ProbeSpec"]["properties"], SCHEMA["$defs"]["RuleSpec"]["properties"]
    assert probe["interval"]["default"] == "5s"
    assert probe["expected_status"]["default"] == 200
    assert probe["expect"]["default"] == "any"
    assert rule["idle_timeout"]["default"] == "4m"
    assert rule["distribution"]["default"] == "five_tuple"
    assert SCHEMA["properties"]["admin"]["default"]["listen"] == "127.0.0.1:9180"


def test_patterns_match_what_the_parser_takes() -> None:
    """What the schema offers as an example is what its own pattern allows."""
    for _, key, said in keys():
        for option in said.get("anyOf", [said]):
            if "pattern" in option:
                assert all(re.search(option["pattern"], example) for example in option.get("examples", ())), key


def test_defaults_are_what_absent_keys_mean() -> None:
    """Writing out every default of a part changes nothing."""
    text = (CONF / "asynclb.yaml").read_text()
    written = yaml.safe_load(text)
    rule = SCHEMA["$defs"]["RuleSpec"]["properties"]
    written["rules"][0] = {key: said["default"] for key, said in rule.items() if "default" in said} | written["rules"][
        0
    ]
    probe = SCHEMA["$defs"]["ProbeSpec"]["properties"]
    given = {key: said["default"] for key, said in probe.items() if said.get("default") is not None}
    written["probes"]["web"] = {k: v for k, v in given.items() if k not in {"tls", "expect"}} | written["probes"]["web"]
    top = {key: said["default"] for key, said in SCHEMA["properties"].items() if "default" in said}
    spelled = yaml.safe_dump({**top, **written}).encode()
    assert parse(spelled, file="a").model == parse(text.encode(), file="b").model


def test_full_yaml_mentions_every_key() -> None:
    """conf/full.yaml shows every key of every part, in use or in a comment."""
    text = (CONF / "full.yaml").read_text()
    missing = [(part, key) for part, key, _ in keys() if not re.search(rf"(^|[\s{{#]){key}:", text, re.MULTILINE)]
    assert missing == []
    assert len(PARTS) == len(SCHEMA["$defs"])


def test_full_yaml_has_no_key_of_its_own() -> None:
    """Uncommenting what conf/full.yaml shows in comments gives known keys too."""
    commented = re.compile(r"^(\s*)# ((?:number_of_probes|send|expect_hex):)", re.MULTILINE)
    text = commented.sub(r"\1\2", (CONF / "full.yaml").read_text())
    with pytest.raises(ConfigError) as caught:
        parse(text.encode(), file="full.yaml")
    assert not [problem for problem in caught.value.problems if "unknown key" in problem.rule]
