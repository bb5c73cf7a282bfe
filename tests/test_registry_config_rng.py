"""Names, options and named randomness."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from dap.config import from_options, parse_assignments, to_json
from dap.errors import OptionError
from dap.methods import DAP, DiT
from dap.registry import Registry, unknown_name_error
from dap.rng import derive_seed, generator


def test_registry_keeps_order_and_refuses_a_second_of_a_name():
    things: Registry[int] = Registry("thing")
    assert things.register("zebra")(1) == 1
    things.register("ant")(2)
    assert list(things) == ["zebra", "ant"] and things["ant"] == 2
    with pytest.raises(OptionError, match="a thing named 'ant' is registered already"):
        things.register("ant")(3)
    with pytest.raises(OptionError, match="unknown thing 'zebar'; did you mean 'zebra'"):
        things["zebar"]


def test_unknown_names_list_the_known_ones():
    assert str(unknown_name_error("fruit", "xyz", {"pear", "apple"})) == "unknown fruit 'xyz'. Known: apple, pear"
    assert "did you mean 'pear'? Known: apple, pear" in str(unknown_name_error("fruit", "paer", ["pear", "apple"]))
    assert str(unknown_name_error("cadence", "x", ["tenth", "tenth, late"])).endswith("Known: 'tenth', 'tenth, late'")


@dataclass(frozen=True)
class Options:
    name: ClassVar[str] = "sample"
    rate: float = 0.5
    count: int = 3
    flag: bool = False
    mode: str = "a"
    free: int | None = None


def test_options_become_a_dataclass():
    options = {"rate": 1, "count": 4, "flag": True, "mode": "b", "free": 7}
    made = from_options(Options, options, "sample")
    assert made == Options(1, 4, True, "b", 7)
    assert to_json(made) == {"name": "sample", **options}
    assert from_options(Options, {}, "sample") == Options()


@pytest.mark.parametrize(
    "option", [("rate", "x"), ("rate", True), ("count", 2.0), ("count", True), ("flag", 0), ("mode", 1)], ids=str
)
def test_options_of_the_wrong_type_are_refused(option):
    name, value = option
    with pytest.raises(OptionError, match=f"^sample: {name} takes (float|int|bool|str), got {value!r}$"):
        from_options(Options, {name: value}, "sample")


def test_options_with_unknown_names_are_refused():
    with pytest.raises(OptionError, match="unknown option of sample 'raet'; did you mean 'rate'"):
        from_options(Options, {"raet": 1.0}, "sample")
    with pytest.raises(OptionError, match="sample has no options, got 'rate'"):
        from_options(DiT, {"rate": 1.0}, "sample")


@pytest.mark.parametrize("kernel", ["linear", "rbf", {"name": "rbf", "bandwidth": 2.5}], ids=str)
def test_a_method_goes_to_json_and_back(kernel):
    method = DAP(scale=0.3, kernel=kernel, block=2)
    values = json.loads(json.dumps(to_json(method)))
    assert values.pop("name") == "dap" and values["kernel"]["name"] == method.kernel.name
    assert from_options(DAP, values, "dap") == method


def test_assignments_are_json_or_else_text():
    given = ("a=1", "b=0.5", "c=true", "d=null", "e=rbf", 'f={"name": "rbf"}', "g=x=y", "h=")
    expected = {"a": 1, "b": 0.5, "c": True, "d": None, "e": "rbf", "f": {"name": "rbf"}, "g": "x=y", "h": ""}
    assert parse_assignments(given) == expected
    assert type(parse_assignments(("a=1",))["a"]) is int
    texts = ("a={}", "b=5", "c=null", 'd="5"', "e=[1]", "f=5")
    assert parse_assignments(texts, "abcde") == {"a": "{}", "b": "5", "c": None, "d": "5", "e": "[1]", "f": 5}
    for wrong in ("scale", "=1"):
        with pytest.raises(OptionError, match=f"expected name=value, got '{wrong}'"):
            parse_assignments((wrong,))


def test_seeds_are_the_first_63_bits_of_the_parts_hash():
    digest = hashlib.sha256(b'[0,"slot","Dress",3]').hexdigest()
    assert derive_seed(0, "slot", "Dress", 3) == int(digest[:16], 16) // 2 < 2**63
    different = {
        derive_seed(*parts)
        for parts in [(), (1,), ("1",), (1, 1), (11,), ("a", "b"), ("ab",), ("a,b",), ('a","b',), ("b", "a"), ("é",)]
    }
    assert len(different) == 11


def test_generators_are_named_and_their_own():
    first = torch.randn(4, generator=generator(7, "x"))
    assert torch.equal(first, torch.randn(4, generator=generator(7, "x")))
    assert not torch.equal(first, torch.randn(4, generator=generator(8, "x")))
    assert generator(7).device == torch.device("cpu")
    with torch.random.fork_rng(devices=[]):
        state = torch.random.get_rng_state()
        generator(1, "y")
        assert torch.equal(torch.random.get_rng_state(), state)
