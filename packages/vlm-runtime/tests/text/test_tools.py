from __future__ import annotations

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vlm_runtime.text.tools import TOOL_FORMATS as FORMATS
from vlm_runtime.text.tools import ToolCallSplitter, ToolSplit, detect_format, parse_tool_calls

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "tags": {"type": "array"}},
            },
        },
    }
]
WANT = {"city": "São Paulo", "days": 3, "tags": ["a", "b"]}
ARGUMENTS = json.dumps(WANT)
SPELLINGS = [
    ("json_tags", '<tool_call>\n{"name": "get_weather", "arguments": ' + ARGUMENTS + "}\n</tool_call>"),
    ("json_tags", '<tool_call>{"name": "get_weather", "arguments": ' + json.dumps(ARGUMENTS) + "}</tool_call>"),
    (
        "qwen_xml",
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nSão Paulo\n</parameter>\n<parameter=days>\n3\n"
        '</parameter>\n<parameter=tags>\n["a", "b"]\n</parameter>\n</function>\n</tool_call>',
    ),
    (
        "glm",
        "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>São Paulo</arg_value>\n<arg_key>days</arg_key>\n"
        '<arg_value>3</arg_value><arg_key>tags</arg_key><arg_value>["a", "b"]</arg_value>\n</tool_call>',
    ),
    (
        "gemma",
        '<|tool_call>call:get_weather{city:<|"|>São Paulo<|"|>,days:3,tags:[<|"|>a<|"|>,<|"|>b<|"|>]}<tool_call|>',
    ),
    (
        "function_gemma",
        "<start_function_call>call:get_weather{city:<escape>São Paulo<escape>,days:3,"
        "tags:[<escape>a<escape>,<escape>b<escape>]}<end_function_call>",
    ),
    ("mistral", '[TOOL_CALLS] [{"name": "get_weather", "arguments": ' + ARGUMENTS + "}]"),
    ("mistral", "[TOOL_CALLS]get_weather[ARGS]" + ARGUMENTS),
    ("mistral", "[TOOL_CALLS]get_weather[CALL_ID]a1b2c3d4e[ARGS]" + ARGUMENTS),
    ("mistral", "[TOOL_CALLS]get_weather" + ARGUMENTS),
    ("llama_json", '{"name": "get_weather", "parameters": ' + ARGUMENTS + "}"),
    ("llama_json", '<|python_tag|>{"type": "function", "name": "get_weather", "parameters": ' + ARGUMENTS + "}"),
    ("pythonic", "[get_weather(city='São Paulo', days=3, tags=[\"a\", 'b'])]"),
    ("pythonic", "<|python_start|>[get_weather(city='São Paulo', days=3, tags=['a', 'b'])]<|python_end|>"),
]
IDS = [f"{name}{place}" for place, (name, _) in enumerate(SPELLINGS)]


def loaded(split: ToolSplit) -> list[tuple[str, dict]]:
    return [(call.name, json.loads(call.arguments)) for call in split.calls]


@pytest.mark.parametrize(("name", "text"), SPELLINGS, ids=IDS)
def test_a_call_is_read(name, text):
    split = parse_tool_calls(text, FORMATS[name], TOOLS)
    assert loaded(split) == [("get_weather", WANT)]
    assert split.content == ""


@pytest.mark.parametrize(("name", "text"), SPELLINGS, ids=IDS)
def test_content_around_calls_is_kept(name, text):
    format = FORMATS[name]
    if format.at_head:
        split = parse_tool_calls(f"\n{text}", format, TOOLS)
        assert (split.content, len(split.calls)) == ("", 1)
        split = parse_tool_calls(f"See: {text}", format, TOOLS)
        assert (split.content, split.calls) == (f"See: {text}", ())
    else:
        split = parse_tool_calls(f"I look.\n\n{text}\n{text}\n", format, TOOLS)
        assert (split.content, len(split.calls)) == ("I look.", 2)


@pytest.mark.parametrize(("name", "text"), SPELLINGS, ids=IDS)
def test_a_call_that_is_cut_off_is_content(name, text):
    cut = text[: text.index("days") + 1]
    assert parse_tool_calls(cut, FORMATS[name], TOOLS) == ToolSplit(cut)


@pytest.mark.parametrize(("name", "text"), SPELLINGS, ids=IDS)
def test_every_cut_gives_the_same(name, text):
    format = FORMATS[name]
    whole = parse_tool_calls(f"{text} then", format, TOOLS)
    for cut in range(len(text) + 5):
        splitter = ToolCallSplitter(format, TOOLS)
        assert splitter.add(f"{text} then"[:cut]) + splitter.add(f"{text} then"[cut:]) + splitter.finish() == whole


def test_several_calls_in_one():
    text = '{"name": "a", "parameters": {}}; {"name": "b", "parameters": {"x": 1}}'
    assert loaded(parse_tool_calls(text, FORMATS["llama_json"])) == [("a", {}), ("b", {"x": 1})]
    text = "[a(), m.b(x=-1, y=None, z={'k': (1, 2.5)}, t=true)]"
    assert loaded(parse_tool_calls(text, FORMATS["pythonic"])) == [
        ("a", {}), ("m.b", {"x": -1, "y": None, "z": {"k": [1, 2.5]}, "t": True}),
    ]  # fmt: skip
    text = '<tool_call>[{"name": "a"}, {"name": "b", "arguments": {}}]</tool_call>'
    assert [name for name, _ in loaded(parse_tool_calls(text, FORMATS["json_tags"]))] == ["a", "b"]
    text = '[TOOL_CALLS]a{"x": "]}"}[TOOL_CALLS]b[ARGS]{}'
    assert loaded(parse_tool_calls(text, FORMATS["mistral"])) == [("a", {"x": "]}"}), ("b", {})]


def test_end_tags_inside_strings_do_not_end_the_call():
    value = 'say "</tool_call>" \\ ok'
    text = "<tool_call>" + json.dumps({"name": "a", "arguments": {"x": value}}) + "</tool_call>"
    assert loaded(parse_tool_calls(text, FORMATS["json_tags"])) == [("a", {"x": value})]
    text = "<tool_call><function=a><parameter=x>\n</tool_call>\n\ntwo\n</parameter></function></tool_call>"
    assert loaded(parse_tool_calls(text, FORMATS["qwen_xml"])) == [("a", {"x": "</tool_call>\n\ntwo"})]
    text = "<tool_call>a<arg_key>x</arg_key><arg_value></tool_call></arg_value></tool_call>"
    assert loaded(parse_tool_calls(text, FORMATS["glm"])) == [("a", {"x": "</tool_call>"})]
    text = '<|tool_call>call:a{x:<|"|>},{<tool_call|><|"|>}<tool_call|>'
    assert loaded(parse_tool_calls(text, FORMATS["gemma"])) == [("a", {"x": "},{<tool_call|>"})]


def test_schemas_decide_between_text_and_numbers():
    pairs = "".join(f"<arg_key>{key}</arg_key><arg_value>42</arg_value>" for key in ("city", "z"))
    text = f"<tool_call>get_weather{pairs}</tool_call>"
    assert loaded(parse_tool_calls(text, FORMATS["glm"], TOOLS)) == [("get_weather", {"city": "42", "z": 42})]


def test_gemma_values_nest():
    text = '<|tool_call>call:a{x:{y:[1,{z:null}],<|"|>k:1<|"|>:-1.5e3},e:{},l:[],w:bare word}<tool_call|>'
    want = {"x": {"y": [1, {"z": None}], "k:1": -1500.0}, "e": {}, "l": [], "w": "bare word"}
    assert loaded(parse_tool_calls(text, FORMATS["gemma"])) == [("a", want)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("json_tags", '<tool_call>{"name": 3}</tool_call>'),
        ("json_tags", "<tool_call>hello</tool_call>"),
        ("json_tags", '<tool_call>{"name": "a", "arguments": {"x": NaN}}</tool_call>'),
        ("json_tags", "<tool_call>" + "[" * 5000 + "</tool_call>"),
        ("qwen_xml", "<tool_call>{}</tool_call>"),
        ("glm", "<tool_call><arg_key>x</arg_key></tool_call>"),
        ("gemma", "<|tool_call>call:a{x}<tool_call|>"),
        ("gemma", "<|tool_call>call:a{" + "x:{" * 5000 + "<tool_call|>"),
        ("mistral", "[TOOL_CALLS] [1, 2]"),
        ("mistral", "[TOOL_CALLS]} oops"),
        ("llama_json", '{"answer": 42}'),
        ("llama_json", "<|python_tag|>print(1)"),
        ("pythonic", "[1, 2, 3]"),
        ("pythonic", "[a(1)]"),
        ("pythonic", "[a(**x)]"),
        ("pythonic", "[__import__('os').system('x')(a=b)]"),
        ("pythonic", "[" * 3000 + "]" * 3000),
        ("pythonic", "[a(x=b'bytes'), a(x=1j)]"),
    ],
)
def test_what_is_no_call_stays_content(name, text):
    assert parse_tool_calls(text, FORMATS[name]) == ToolSplit(text)


def test_content_streams_as_it_comes():
    splitter = ToolCallSplitter(FORMATS["json_tags"])
    assert splitter.add("one two <b> ") == ToolSplit("one two <b>")
    assert splitter.add("<tool") == ToolSplit()
    assert splitter.add("box>") == ToolSplit(" <toolbox>")
    splitter = ToolCallSplitter(FORMATS["llama_json"])
    assert splitter.add("Hello {") == ToolSplit("Hello {")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ('...<tool_call>\n{"name"...', "json_tags"),
        ("<tool_call>\n<function=example>\n<parameter=x>", "qwen_xml"),
        ("<tool_call>{function-name}\n<arg_key>", "glm"),
        ("'<|tool_call>call:' + name", "gemma"),
        ("<start_function_call>call:", "function_gemma"),
        ("[TOOL_CALLS]", "mistral"),
        ("<|python_tag|>", "llama_json"),
        ("in the format of [func_name1(params_name1=", "pythonic"),
    ],
)
def test_templates_tell_their_format(source, name):
    assert detect_format(source) is FORMATS[name]


def test_templates_without_tools_tell_none():
    assert detect_format("{{ messages }}") is None


FRAGMENTS = st.sampled_from(
    ["<tool_call>", "</tool_call>", '{"name": "a", "arguments": {"x": "y"}}', "{", "}", "[", "]", '"', "\\", "call:a{", "a",
     "<function=a>", "<parameter=x>", "</parameter>", "</function>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>",
     '<|"|>', "<|tool_call>", "<tool_call|>", "[TOOL_CALLS]", "[ARGS]", " ", "\n", ",", ":", "<", "(", ")", "=1", "a()", ";",
     "'", "<|python_tag|>", "<|python_start|>", "<|python_end|>", "x", '{"name": "b", "parameters": {}}', "<to", "ol_call>"]
)  # fmt: skip


@pytest.mark.parametrize("name", sorted(FORMATS))
@given(pieces=st.lists(FRAGMENTS, max_size=14), data=st.data())
@example(pieces=["[TOOL_CALLS]", " ", "a", '{"name": "b", "parameters": {}}'], data=None)
@settings(max_examples=150, deadline=None)
def test_cuts_do_not_matter_and_nothing_is_lost(name, pieces, data):
    text = "".join(pieces)
    format = FORMATS[name]
    whole = parse_tool_calls(text, format, TOOLS)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6))) if data else [3, 9]
    for parts in ([text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)])], list(text)):
        splitter = ToolCallSplitter(format, TOOLS)
        split = ToolSplit()
        for part in parts:
            split += splitter.add(part)
        assert split + splitter.finish() == whole
    if not whole.calls:
        assert whole.content == text
