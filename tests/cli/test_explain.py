"""`spakky-tracing explain`: what it prints, in a terminal and into a pipe, and how it ends."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

import pytest
from rich.cells import cell_len

from cli.running import Ended, in_terminal, piped
from vectors.test_trace_context import PARENT_ID, TRACE_ID

if TYPE_CHECKING:
    from collections.abc import Sequence

PARENT: Final = f"00-{TRACE_ID}-{PARENT_ID}-01"
UPPER: Final = f"00-{TRACE_ID.upper()}-{PARENT_ID}-01"
MANY: Final = ",".join(f"key{number:02}={'v' * 20}" for number in range(33))

# What a terminal would act upon, what rich would take for markup, and what is two cells wide.
HOSTILE: Final = "\x1b[31m\x1b]0;title\x07\u202e\x9b2J[red]bold[/red]:warning:\u200b注文\udce4\r"

ESCAPE_SEQUENCE: Final = re.compile(r"\x1b\[[0-9;]*m")


def explained(*headers: str) -> Ended:
    return piped("explain", *headers)


def as_json(*headers: str) -> Any:
    return json.loads(piped("explain", "--json", *headers).output)


def reading(lines: bytes, *options: str) -> Ended:
    """Explain *lines* from standard input."""
    finished = subprocess.run(
        [sys.executable, "-m", "spakky.tracing", "explain", *options, "-"],
        input=lines,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        timeout=60,
        check=False,
    )
    return Ended(finished.returncode, finished.stdout.decode(), finished.stderr.decode())


def codes(findings: Sequence[dict[str, Any]]) -> list[str]:
    return [finding["code"] for finding in findings]


class TestTraceparent:
    def test_a_valid_one_is_said_in_words(self) -> None:
        ended = explained(f"traceparent: {PARENT}")

        assert ended.code == 0
        assert "traceparent: valid, the trace goes on" in ended.output
        assert re.search(rf"trace id +{TRACE_ID} ", ended.output)
        assert re.search(rf"parent id +{PARENT_ID} +the span of the sender", ended.output)
        assert re.search("sampled +yes", ended.output)
        assert re.search("random +no", ended.output)
        assert re.search("level +1 or 2", ended.output)
        assert re.search(rf"sent on +{PARENT}", ended.output)

    def test_a_higher_version_is_sent_on_as_version_00_without_unknown_flags(self) -> None:
        ended = explained(f"traceparent: cc-{TRACE_ID}-{PARENT_ID}-ff-more")

        assert ended.code == 0
        assert "note: version: cc is above 00" in ended.output
        assert "note: trace-flags: the bits fc have no meaning yet" in ended.output
        assert re.search(rf"sent on +00-{TRACE_ID}-{PARENT_ID}-03 +as version 00", ended.output)

    def test_all_faults_are_named_with_their_sections(self) -> None:
        (header,) = as_json(f"traceparent: ff-{'0' * 32}-{'0' * 16}-0G")["messages"][0]["headers"]

        assert header["verdict"] == "refused"
        assert [(each["code"], each["section"]) for each in header["findings"]] == [
            ("version-forbidden", "3.2.2.1"),
            ("trace-id-zero", "3.2.2.3"),
            ("parent-id-zero", "3.2.2.4"),
            ("trace-flags-characters", "3.2.2.5"),
        ]

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ("", ["traceparent-shape"]),
            ("nothing", ["traceparent-shape"]),
            (UPPER, ["trace-id-upper-case"]),
            (f"{PARENT}-x", ["trailing-data"]),
            (f"{PARENT}\n", ["trailing-data"]),
            (f"cc{PARENT[2:]}.x", ["version-higher", "trailing-data"]),
            (f"00-{TRACE_ID}.{PARENT_ID}-01", ["dash-missing"]),
            (
                f"00-{TRACE_ID}0-{PARENT_ID[1:]}-1",
                ["trace-id-length", "parent-id-length", "trace-flags-length"],
            ),
            (f"{TRACE_ID}-{PARENT_ID}-01", ["version-missing"]),
            (f"00-{TRACE_ID}", ["parent-id-missing", "trace-flags-missing"]),
            (f"cc{PARENT[2:]}-{'x' * 500}", ["version-higher", "traceparent-length"]),
        ],
    )
    def test_a_fault_has_its_name(self, value: str, expected: list[str]) -> None:
        (header,) = as_json(f"traceparent: {value}")["messages"][0]["headers"]

        assert codes(header["findings"]) == expected

    def test_a_mark_is_below_each_fault(self) -> None:
        lines = explained(f"traceparent: 00-{TRACE_ID[:-1]}G-{PARENT_ID}-0").output.splitlines()

        assert lines[1] == f"  00-{TRACE_ID[:-1]}G-{PARENT_ID}-0"
        assert lines[2] == " " * (2 + lines[1].index("G") - 2) + "^ 1"
        assert lines[3] == " " * (len(lines[1]) - 1) + "^ 2"


class TestLists:
    def test_every_fault_of_a_tracestate_is_named_with_its_member(self) -> None:
        value = f"a=1,B=2,,_c=3,d,e=,f=1=2,a=2,{'k' * 257}=1,g={'v' * 257},x@y@z=1"

        (header,) = as_json(f"tracestate: {value}")["messages"][0]["headers"]

        assert header["verdict"] == "refused"
        assert [(each["code"], each["member"], each["section"]) for each in header["findings"]] == [
            ("member-empty", None, "3.3.2"),
            ("tracestate-long", None, "3.3.3.1"),
            ("key-characters", 2, "3.3.2.2.1"),
            ("key-start", 3, "3.3.2.2.1"),
            ("member-without-value", 4, "3.3.2.1"),
            ("value-empty", 5, "3.3.2.2.2"),
            ("value-characters", 6, "3.3.2.2.2"),
            ("key-repeated", 7, "3.3.3"),
            ("key-length", 8, "3.3.2.2.1"),
            ("value-length", 9, "3.3.2.2.2"),
            ("key-level-2", 10, "3.3.2.2.1"),
        ]

    def test_a_repeated_key_leaves_the_first_one(self) -> None:
        ended = explained("tracestate: foo=1,bar=2,foo=3")

        assert ended.code == 1
        assert "tracestate: valid in part, 2 members of it" in ended.output
        assert "fault: member 3 has the key of member 1, and only the first one counts" in ended.output

    def test_more_than_32_members_are_refused(self) -> None:
        (header,) = as_json(f"tracestate: {MANY}")["messages"][0]["headers"]

        assert codes([each for each in header["findings"] if each["is_fault"]]) == ["too-many-members"]

    def test_every_fault_of_baggage_is_named_with_its_member(self) -> None:
        value = 'a=1,b="x y",c,=d,ü=e,f=1;;g=%;h=";i j=1,a=2,k=%ff'

        (header,) = as_json(f"baggage: {value}")["messages"][0]["headers"]

        assert header["verdict"] == "partial"
        assert [(each["code"], each["member"], each["section"]) for each in header["findings"]] == [
            ("key-repeated", 1, "3.3.1.1"),
            ("value-characters", 2, "3.3.1.3"),
            ("member-without-value", 3, "3.3.1"),
            ("key-empty", 4, "3.3.1.2"),
            ("key-characters", 5, "3.3.1.2"),
            ("key-empty", 6, "3.3.1.4"),
            ("value-percent", 6, "3.3.1.4"),
            ("value-characters", 6, "3.3.1.4"),
            ("key-characters", 6, "3.3.1.4"),
            ("value-encoding", 8, "3.3.1.3"),
        ]

    def test_baggage_is_shown_decoded_with_its_properties(self) -> None:
        ended = explained("baggage: serverNode=DF%2028;ttl=5;internal,name=K%C3%A4se")

        assert ended.code == 0
        assert "  serverNode  DF 28  (DF%2028 on the wire)  ;ttl=5  ;internal" in ended.output
        assert "  name        Käse  (K%C3%A4se on the wire)" in ended.output

    @pytest.mark.parametrize(
        "value", [",".join(f"k{number}=v" for number in range(65)), f"a={'x' * 8180},b={'y' * 8180}"]
    )
    def test_members_above_the_limits_are_named(self, value: str) -> None:
        (header,) = as_json(f"baggage: {value}")["messages"][0]["headers"]

        assert codes(header["findings"]) == ["too-much"]
        assert header["findings"][0]["section"] == "3.3.2"
        assert header["verdict"] == "partial"

    def test_baggage_that_is_one_huge_member_is_refused_for_its_length_alone(self) -> None:
        (header,) = as_json(f"baggage: a={'x' * 40_000}")["messages"][0]["headers"]

        assert codes(header["findings"]) == ["baggage-length"]
        assert header["verdict"] == "refused"


class TestTogether:
    def test_a_tracestate_without_a_traceparent_is_not_used(self) -> None:
        together = explained("tracestate: a=1", "baggage: b=1")
        alone = explained("tracestate: a=1")

        assert (together.code, alone.code) == (1, 0)
        assert "fault: a tracestate without a traceparent is not used [W3C Trace Context Level 2, 4.1.1]" in (
            together.output
        )
        assert "note: a tracestate without a traceparent is not used" in alone.output

    def test_traceparents_that_differ_are_a_fault(self) -> None:
        ended = explained(f"traceparent: {PARENT}", f"traceparent: {PARENT[:-1]}0")

        assert ended.code == 1
        assert "outcome: no context, a new trace is started" in ended.output
        assert "traceparent is there 2 times, with different values" in ended.output

    def test_lists_in_several_headers_are_one(self) -> None:
        document = as_json(f"traceparent: {PARENT}", "tracestate: a=1", "tracestate: b=2")

        assert document["is_valid"] is True
        assert document["messages"][0]["sent_on"] == {
            "traceparent": PARENT,
            "tracestate": "a=1,b=2",
            "baggage": "",
        }

    def test_a_tracestate_of_a_refused_traceparent_is_not_used(self) -> None:
        ended = explained(f"traceparent: {UPPER}", "tracestate: a=1")

        assert "note: the tracestate is not used, as no traceparent is" in ended.output

    def test_a_name_with_a_hyphen_is_not_read(self) -> None:
        ended = explained(f"trace-parent: {PARENT}")

        assert ended.code == 1
        assert "fault: trace-parent is not read: the name is traceparent, in one word" in ended.output

    def test_headers_of_another_format_are_one_line_and_no_fault(self) -> None:
        ended = explained(f"X-B3-TraceId: {TRACE_ID}", f"X-B3-SpanId: {PARENT_ID}")

        assert ended.code == 0
        assert ended.output.splitlines()[0] == (
            "X-B3-TraceId, X-B3-SpanId: B3 of Zipkin, several headers; "
            "not W3C; this library does not read it by itself"
        )

    def test_headers_are_also_taken_as_curl_takes_them(self) -> None:
        assert explained("-H", f"traceparent: {PARENT}").output == explained(f"traceparent: {PARENT}").output

    def test_arguments_without_a_header_are_counted(self) -> None:
        ended = explained(f"traceparent: {PARENT}", "Accept: */*")

        assert ended.output.splitlines()[-1] == "1 argument without such a header passed over"


CURL: Final = f"""*   Trying 127.0.0.1:8080...
> GET / HTTP/1.1
> Host: localhost:8080
> traceparent: {PARENT}
> tracestate: a=1
>\x20
< HTTP/1.1 200 OK
< traceresponse: 00-{TRACE_ID}-{PARENT_ID}-01
<\x20
""".replace("\n", "\r\n").encode()

KAFKA: Final = f"""traceparent:{PARENT},tracestate:a=1\tthe first value
traceparent:{UPPER}\tthe second value
NO_HEADERS\tthe third value
traceparent:{PARENT[:-1]}0\t\xff
""".encode("latin-1")


class TestStandardInput:
    def test_what_curl_prints_is_read(self) -> None:
        ended = reading(CURL)

        assert (ended.code, ended.errors) == (0, "")
        assert ended.output.splitlines()[0] == "line 4"
        assert "traceresponse: the traceparent of a response" in ended.output
        assert ended.output.splitlines()[-1] == "4 lines without such a header passed over"

    def test_each_record_of_a_dump_is_a_message(self) -> None:
        document = json.loads(reading(KAFKA, "--json").output)

        assert [each["line"] for each in document["messages"]] == [1, 2, 4]
        assert [each["is_valid"] for each in document["messages"]] == [True, False, True]
        assert (document["is_valid"], document["passed_over"]) == (False, 1)

    def test_each_object_of_indented_json_is_a_message(self) -> None:
        lines = f'{{\n  "traceparent": "{PARENT}",\n  "tracestate": "a=1"\n}}\n'

        document = json.loads(reading((2 * lines).encode(), "--json").output)

        assert [each["line"] for each in document["messages"]] == [2, 6]
        assert [len(each["headers"]) for each in document["messages"]] == [2, 2]
        assert (document["is_valid"], document["passed_over"]) == (True, 0)

    def test_traceparents_without_names_are_messages_each(self) -> None:
        ended = reading(f"{PARENT}\n{PARENT}\n".encode())

        assert (ended.code, ended.errors) == (0, "")
        assert "2 messages, none of them with faults" in ended.output

    def test_a_fault_in_one_message_is_a_fault(self) -> None:
        ended = reading(KAFKA)

        assert ended.code == 1
        assert "3 messages, 1 of them with faults" in ended.output

    def test_a_megabyte_is_read(self) -> None:
        lines = [
            f"tracestate: {'a=1,' * 250_000}",
            "",
            "baggage: " + "\x1b,\xe9;" * 250_000,
            "",
            "b3=" * 333_333,
        ]

        ended = reading("\n".join(lines).encode())

        assert (ended.code, ended.errors) == (1, "")
        assert "it has 1000000 characters" in ended.output
        assert "\x1b" not in ended.output
        assert re.search(r"and \d+ more", ended.output)

    def test_bytes_that_are_no_text_are_refused_by_the_grammar(self) -> None:
        ended = reading(b"traceparent: \x00\xff\xfe" + PARENT.encode())

        assert ended.code == 1
        assert "\\x00\\ufffd\\ufffd00-" in ended.output


def in_shell(line: str, **variables: str) -> Ended:
    """Run *line* in a shell, where `explain` is the command."""
    finished = subprocess.run(
        ["/bin/bash", "-c", f'explain() {{ {sys.executable} -m spakky.tracing explain "$@"; }}; {line}'],
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **variables},
        capture_output=True,
        timeout=60,
        check=False,
    )
    return Ended(finished.returncode, finished.stdout.decode(), finished.stderr.decode())


class TestSurroundings:
    @pytest.mark.parametrize("variables", [{}, {"LC_ALL": "C", "PYTHONUTF8": "0"}], ids=["as_it_is", "C"])
    def test_arguments_are_utf_8_whatever_the_locale_is(self, variables: dict[str, str]) -> None:
        ended = in_shell("explain 'baggage: a=\N{LATIN SMALL LETTER E WITH ACUTE}'", **variables)

        assert ended.code == 1
        assert "%C3%A9 belongs there" in ended.output

    def test_closed_standard_input_has_no_header(self) -> None:
        ended = in_shell("explain - <&-")

        assert (ended.code, ended.output, ended.errors.count("\n")) == (2, "", 1)

    @pytest.mark.parametrize("options", ["", "--json"])
    def test_a_full_disk_is_said_in_one_sentence(self, options: str) -> None:
        ended = in_shell(f"explain {options} {PARENT} > /dev/full")

        assert ended.code == 2
        assert ended.errors == "Error: the output cannot be written: No space left on device.\n"


class TestRefusals:
    @pytest.mark.parametrize("arguments", [[], ["hello"], ["X-Request-Id: 7"], [HOSTILE]])
    def test_what_has_no_header_is_refused_in_one_sentence(self, arguments: list[str]) -> None:
        ended = explained(*arguments)

        assert (ended.code, ended.output) == (2, "")
        assert ended.errors.startswith("Error: there is no")
        assert ended.errors.endswith("or - to read lines from standard input.\n")
        assert ended.errors.count("\n") == 1

    def test_empty_input_is_refused(self) -> None:
        assert reading(b"").code == reading(b"a\nb\n").code == 2


HEADERS: Final = [
    f"traceparent: {PARENT}",
    f"traceparent: {UPPER}-{HOSTILE}",
    f"tracestate: {MANY},{HOSTILE}=1",
    (
        f"baggage: {HOSTILE}=1,user=a b,long={'%20x' * 500};{'p' * 300},"
        f"{'k' * 250}=v,k=%1b%5b31m%e6%b3%a8%E2%80%AE"
    ),
    f"b3: {HOSTILE}",
    f"trace-state: {HOSTILE}",
]


class TestTerminal:
    @pytest.mark.parametrize("columns", [80, 60])
    def test_no_line_is_longer_than_the_terminal(self, columns: int) -> None:
        ended = in_terminal("explain", *HEADERS, columns=columns)

        shown = ESCAPE_SEQUENCE.sub("", ended.output)
        assert ended.code == 1
        assert max(map(cell_len, shown.splitlines())) <= columns
        assert "\x1b" in ended.output
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\u200b]", shown)
        assert "[red]bold[/red]:warning:" in re.sub(r"\s+", "", shown)  # it may be folded

    def test_marks_stand_below_what_is_meant_however_wide_it_is_drawn(self) -> None:
        """How wide a terminal draws combining marks and flags depends on what is beside them."""
        value = "a=1\u0301\U0001f1e9\U0001f1ea\u6ce8,B=2"

        ended = in_terminal("explain", f"tracestate: {value}", NO_COLOR="1")

        _, shown, *marks = ESCAPE_SEQUENCE.sub("", ended.output).splitlines()
        assert shown == r"  a=1\u0301\U0001f1e9\U0001f1ea\u6ce8,B=2"
        assert [line.find("^") for line in marks[:2]] == [shown.index(r"\u0301"), shown.index("B=2")]

    def test_headings_are_folded_where_the_terminal_is_narrow(self) -> None:
        ended = in_terminal("explain", f"traceparent: {PARENT}0", "tracestate: a", columns=40, NO_COLOR="1")

        shown = ESCAPE_SEQUENCE.sub("", ended.output)
        assert max(map(cell_len, shown.splitlines())) <= 40
        assert "outcome: no context, a new trace is\n  started" in shown

    def test_without_colour_it_says_the_same(self) -> None:
        coloured = in_terminal("explain", *HEADERS)
        plain = in_terminal("explain", *HEADERS, NO_COLOR="1")

        assert ESCAPE_SEQUENCE.sub("", coloured.output) == ESCAPE_SEQUENCE.sub("", plain.output)
        assert not re.search(r"\x1b\[[0-9;]*3[0-7]", plain.output)

    def test_into_a_pipe_values_are_whole_and_without_escape_sequences(self) -> None:
        ended = explained(*HEADERS)

        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\u200b]", ended.output)
        assert MANY in ended.output
        assert f"long={'%20x' * 500};{'p' * 300}" in ended.output
        assert r"\x1b[31m注\u202e" in ended.output

    def test_the_json_is_ascii_and_whole(self) -> None:
        ended = piped("explain", "--json", *HEADERS)
        document = json.loads(ended.output)

        assert ended.code == 1
        assert ended.output.isascii()
        assert list(document) == ["is_valid", "passed_over", "messages"]
        (message,) = document["messages"]
        assert list(message) == ["line", "is_valid", "headers", "other_formats", "findings", "sent_on"]
        assert {header["kind"] for header in message["headers"]} == {"traceparent", "tracestate", "baggage"}
        assert message["headers"][-1]["members"][-1]["value"] == "\x1b[31m注\u202e"
