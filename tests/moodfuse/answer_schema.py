"""Checks values against the JSON Schema of answers, for the keywords that it uses."""

from typing import Any

from moodfuse.model.answers import read_answer_schema

TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}
IGNORED = {"description", "title", "$schema", "$defs"}


def check_answer(answer: Any, name: str | None = None) -> None:
    """Check an answer against the schema, or against one of its definitions."""
    root = read_answer_schema()
    check(answer, root if name is None else root["$defs"][name], root)


def check(value: Any, rule: dict[str, Any], root: dict[str, Any]) -> None:
    """Check a value against a rule; an unknown keyword is an error of the test."""
    for keyword, expected in rule.items():
        if keyword == "$ref":
            check(value, root["$defs"][expected.removeprefix("#/$defs/")], root)
        elif keyword == "oneOf":
            assert sum(matches(value, option, root) for option in expected) == 1, value
        elif keyword == "type":
            types = [expected] if isinstance(expected, str) else expected
            assert any(isinstance(value, TYPES[name]) for name in types), (value, types)
            assert not isinstance(value, bool) or "boolean" in types, (value, types)
        elif keyword == "const":
            assert value == expected and type(value) is type(expected)
        elif keyword == "enum":
            assert value in expected
        elif keyword == "required":
            assert set(expected) <= value.keys(), set(expected) - value.keys()
        elif keyword == "properties":
            for name in expected.keys() & value.keys():
                check(value[name], expected[name], root)
        elif keyword == "additionalProperties":
            for name in value.keys() - rule.get("properties", {}).keys():
                assert expected is not False, name
                check(value[name], expected, root)
        elif keyword == "items":
            for member in value:
                check(member, expected, root)
        elif keyword == "minimum":
            assert value >= expected
        elif keyword == "maximum":
            assert value <= expected
        else:
            assert keyword in IGNORED, keyword


def matches(value: Any, rule: dict[str, Any], root: dict[str, Any]) -> bool:
    """Whether a value follows a rule."""
    try:
        check(value, rule, root)
    except (AssertionError, AttributeError):
        return False
    return True
