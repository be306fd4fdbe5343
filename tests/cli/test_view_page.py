"""The page that `view --html` writes, in a real browser."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

import pytest
from selenium.webdriver import ActionChains, Keys

from cli.browsing import Opened
from cli.sample_traces import MS, Recording, batch, busy, hostile, long, many, order
from spakky.tracing.cli.view.page import page
from spakky.tracing.cli.view.traces import DrawnSpan, traces_of
from spakky.tracing.recorder import SpanLink

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from selenium.webdriver import Chrome

_ORDER: Final = [
    "POST /orders", "send orders", "process orders", "send paid", "process paid", "send pack",
    "run pack", "run pack", "run pack",
]  # fmt: skip
_CONTRASTS: Final = """
    const brush = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    const pixel = (...colours) => {
        brush.clearRect(0, 0, 1, 1);
        for (const colour of colours) { brush.fillStyle = colour; brush.fillRect(0, 0, 1, 1); }
        return brush.getImageData(0, 0, 1, 1).data;
    };
    const linear = (v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
    const light = (rgba) => {
        const [r, g, b] = [...rgba].map((v) => linear(v / 255));
        return .2126 * r + .7152 * g + .0722 * b;
    };
    const grounds = (element) => {
        const all = [];
        for (let up = element; up; up = up.parentElement) all.unshift(getComputedStyle(up).backgroundColor);
        return all;
    };
    const contrast = (ground, colour) => {
        const [a, b] = [light(pixel(...ground)), light(pixel(...ground, colour))].sort((x, y) => y - x);
        return (a + .05) / (b + .05);
    };
"""
_WORST_TEXT: Final = (
    _CONTRASTS
    + """
    const worst = [99, ""];
    for (const element of document.querySelectorAll("body *")) {
        const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
        if (!(own || element.placeholder) || !element.checkVisibility()) continue;
        const part = element.placeholder ? "::placeholder" : undefined;
        const ratio = contrast(grounds(element), getComputedStyle(element, part).color);
        if (ratio < worst[0]) worst.splice(0, 2, ratio, element.outerHTML.slice(0, 80));
    }
    return worst;
"""
)
_WORST_PAINT: Final = (
    _CONTRASTS
    + """
    const ground = document.querySelector("#rows .row:not([aria-selected=true])");
    return Math.min(...[...Array(10).keys()].map((number) => {
        const probe = document.createElement("i");
        probe.className = `bar work p${number}`;
        ground.append(probe);
        const ratio = contrast(grounds(ground), getComputedStyle(probe).backgroundColor);
        probe.remove();
        return ratio;
    }));
"""
)
_GROUND: Final = "return getComputedStyle(document.body).backgroundColor"
_WHITE: Final = "rgb(255, 255, 255)"


@pytest.fixture
def opened(browser: Chrome, tmp_path: Path) -> Iterator[Opened]:
    """A page that in the end has asked for nothing and complained of nothing."""
    opened = Opened(browser, tmp_path / "page.html")
    opened.log("performance")
    yield opened
    assert opened.faults() == []
    assert opened.requested() == set()
    assert opened.script("return performance.getEntriesByType('resource').length") == 0


def shop() -> list[DrawnSpan]:
    """Return two orders, and a batch that links to both and to a span of a trace that is not there."""
    first, second = order(1), order(2, at=700)
    return [*first, *second, *batch(3, [first[1], second[1]])]


def test_it_is_one_file_whose_policy_allows_its_own_style_and_script_only() -> None:
    html = page(traces_of(order()), title="a <title> & \x1b")

    (policy,) = re.findall('http-equiv="Content-Security-Policy" content="([^"]+)"', html)
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert not re.search(r"""(src|href)=["']?(?!#)""", html.partition("<style>")[0])
    assert "<title>a &lt;title&gt; &amp; \\x1b</title>" in html


def test_the_spans_are_in_it_as_data_that_no_parser_of_markup_can_mistake() -> None:
    html = page(traces_of(hostile(1)), title="</script>")

    (data,) = re.findall('<script type="application/json" id="data">(.*)</script>', html)
    assert data.isascii()
    assert not set("<>&\n") & set(data)
    assert json.loads(data)["title"] == "</script>"


def test_no_spans_make_a_page_that_says_so(opened: Opened) -> None:
    opened.show([])

    assert opened.text("#no-spans") == "There are no spans to show."
    assert opened.text("#summary") == "0 traces · 0 spans · 0 processes · no errors"
    opened.press("e", "z", "0", "+", "*")


def test_the_top_says_what_is_in_the_file(opened: Opened) -> None:
    opened.show(shop())

    assert opened.text("#title") == "spans.jsonl"
    assert opened.text("#summary") == "3 traces · 20 spans · 5 processes · 2 with errors"
    assert opened.texts(".item .title") == ["POST /orders", "POST /orders", "process audit"]
    assert opened.texts(".item .names") == ["shop, billing, shipping, worker"] * 2 + ["audit"]


def test_a_row_names_process_broker_destination_and_times(opened: Opened) -> None:
    opened.show(order())

    assert opened.names == _ORDER
    assert " ".join(opened.row("process orders").text.split()) == (
        "process orders billing kafka orders waited 250 ms took 40.0 ms starts after 260 ms"
    )
    assert opened.texts("#legend li") == ["shop 2", "billing 2", "shipping 2", "worker 3"]
    assert "through http, kafka, rabbitmq, celery" in opened.text("#facts")


def test_time_in_the_queue_is_a_labelled_bar_before_that_of_the_span(opened: Opened) -> None:
    opened.show(order(), width=2540)

    assert opened.texts(".bar.queue span") == ["queue 250 ms", "queue 200 ms", "queue 400 ms"]
    for row in ("process orders", "process paid"):
        queue, work = (box(opened, row, part) for part in ("queue", "work"))
        assert queue["right"] == pytest.approx(work["left"], abs=1)
        assert queue["width"] > 20
    assert "repeating-linear-gradient" in opened.find(".bar.queue").value_of_css_property("background-image")


def test_where_the_time_in_the_queue_is_from_is_said(opened: Opened) -> None:
    opened.show(order())

    said = []
    for name, number in (("process orders", 0), ("process paid", 0), ("run pack", 2)):
        opened.row(name, number).click()
        said.append(detail(opened, "waited"))
    assert said == [
        "250 ms, from the message's own timestamp to the start of this span",
        "120 ms, from the end of the span that sent it to the start of this one",
        "400 ms, from the end of the attempt before to the start of this one",
    ]


def test_the_attempts_of_a_message_are_seen_to_belong_together(opened: Opened) -> None:
    opened.show(order())
    opened.row("run pack", 2).click()

    assert opened.texts("#rows .outcome [aria-hidden]") == ["1/3", "2/3", "3/3"]
    assert opened.texts("#rows .badge.again") == ["↻ retry", "↻ retry"]
    assert len(opened.all("#rows .row.kin")) == 3
    assert len(opened.row("run pack", 2).find_elements("css selector", ".bar.earlier")) == 2
    assert opened.texts("#details .others li") == [
        "attempt 1: retry, 80.0 ms", "attempt 2: retry, 80.0 ms", "attempt 3: error, 90.0 ms (this one)"
    ]  # fmt: skip

    opened.find("#details .others a").click()
    opened.until(lambda: detail(opened, "attempt") == "1 of 3")


def test_a_retry_that_was_sent_anew_is_an_attempt_of_the_same_message(opened: Opened) -> None:
    made = Recording()
    sent = made.add("send job", 0, 1, kind="producer", destination="jobs")
    for attempt in (1, 2, 3):
        run = made.add(
            "run job", attempt * 100, 20, sent, kind="consumer", destination="jobs", attempt=attempt
        )
        sent = made.add("send job", attempt * 100 + 10, 5, run, kind="producer", destination="jobs")
    made.add("run job", 700, 5, sent, kind="consumer", destination="jobs", process="audit", attempt=1)
    opened.show(made.spans)

    assert opened.texts("#rows .outcome [aria-hidden]") == ["1/3", "2/3", "3/3"]


def test_two_services_that_got_the_same_message_have_attempts_of_their_own(opened: Opened) -> None:
    made = Recording()
    sent = made.add("send job", 0, 1, kind="producer", destination="jobs")
    for process, attempt in (("billing", 1), ("audit", 1), ("audit", 2)):
        at: dict[str, Any] = {
            "kind": "consumer",
            "destination": "jobs",
            "process": process,
            "attempt": attempt,
        }
        made.add("run job", attempt * 100, 20, sent, **at)
    opened.show(made.spans)

    assert opened.texts("#rows .outcome [aria-hidden]") == ["1/2", "2/2"]
    assert [text for text in opened.texts("#rows .process") if text != "shop"] == [
        "billing",
        "audit",
        "audit",
    ]


def test_a_message_that_is_tried_for_ever_can_be_opened(opened: Opened) -> None:
    made = Recording()
    sent = made.add("send poison", 0, 1, kind="producer", destination="jobs")
    for attempt in range(1, 301):
        made.add("run poison", attempt * 10, 5, sent, kind="consumer", destination="jobs", attempt=attempt)
    opened.show(made.spans)

    last = opened.all("#rows .row")[-1]
    assert last.find_element("css selector", ".outcome [aria-hidden]").text == "300/300"
    assert len(last.find_elements("css selector", ".bar.earlier")) == 20


def test_of_many_messages_of_one_sender_none_is_said_to_be_the_one_that_is_tried_again(
    opened: Opened,
) -> None:
    made = Recording()
    sent = made.add("send jobs", 0, 1, kind="producer", destination="jobs")
    ran: dict[str, Any] = {"kind": "consumer", "destination": "jobs", "process": "worker"}
    for number, (attempt, outcome) in enumerate([(1, "ok"), (1, "retry"), (1, "ok"), (2, "ok")], start=1):
        made.add("run job", number * 100, 20, sent, attempt=attempt, outcome=outcome, **ran)
    opened.show(made.spans)

    assert opened.texts("#rows .outcome [aria-hidden]") == ["2"]
    assert opened.all(".bar.earlier") == []
    opened.all("#rows .row")[-1].click()
    assert detail(opened, "attempt") == "2"
    assert "waited" not in opened.text("#span-fields")


def test_attempts_of_one_message_in_traces_of_their_own_are_found_by_their_link(opened: Opened) -> None:
    first, retry = Recording(1), Recording(2)
    sent = first.add("send job", 0, 1, kind="producer", destination="jobs")
    ran: dict[str, Any] = {
        "kind": "consumer", "destination": "jobs", "links": (SpanLink(sent.trace_id, sent.span_id),)
    }  # fmt: skip
    retry.add("run job", 100, 20, attempt=1, outcome="retry", **ran)
    again = Recording(3)
    again.add("run job", 300, 20, attempt=2, **ran)
    opened.show([*first.spans, *retry.spans, *again.spans])
    opened.all(".item")[1].click()
    opened.row("run job").click()

    opened.all("#details .others a")[0].click()
    opened.until(lambda: detail(opened, "attempt") == "2 of 2")
    assert opened.all(".item")[2].get_attribute("aria-selected") == "true"


def test_errors_are_seen_in_the_list_in_the_rows_and_in_the_details(opened: Opened) -> None:
    opened.show(shop())

    assert opened.texts(".item .bad") == ["1 error", "1 error"]
    assert opened.texts("#rows .badge.bad") == ["✕ BoxTooSmall"]
    opened.row("run pack", 2).click()
    assert detail(opened, "outcome") == "error"
    assert detail(opened, "exception") == "shop.errors.BoxTooSmall"


def test_the_filter_of_errors_leaves_them_and_what_is_above_them(opened: Opened) -> None:
    opened.show(shop())
    opened.press("e")

    assert opened.find("#errors").get_attribute("aria-pressed") == "true"
    assert opened.text("#found") == "2 of 3 traces"
    assert opened.names == [name for name in _ORDER if name != "run pack"] + ["run pack"]
    assert opened.text("#rows [aria-selected=true] .badge") == "✕ BoxTooSmall"

    opened.find("#errors").click()
    assert opened.text("#found") == "3 traces"
    assert opened.names == _ORDER


def test_search_looks_into_all_traces_and_says_what_matches(opened: Opened) -> None:
    opened.show(shop())
    opened.press("/", "archive")

    assert opened.text("#found") == "1 of 3 traces"
    assert opened.names == ["process audit", "send archive"]
    assert opened.selected == "send archive"

    opened.press(Keys.ESCAPE)
    assert opened.text("#found") == "3 traces"
    opened.press("no such span")
    assert opened.text("#found") == "0 of 3 traces"
    assert opened.text("#nothing") == "No span of this trace matches."


def test_links_lead_to_another_trace_and_back(opened: Opened) -> None:
    opened.show(shop())
    opened.row("send orders").click()
    (back,) = opened.all("#details .others a")
    assert opened.texts("#details section h3") == ["Linked from"]

    back.click()
    opened.until(lambda: opened.text("#trace-name") == "process audit")
    assert opened.focused.startswith("process audit")
    assert opened.texts("#details section h3") == ["Links to"]

    opened.all("#details .others a")[1].click()
    opened.until(lambda: opened.text("#trace-name") == "POST /orders")
    assert opened.selected == "send orders"
    assert opened.all(".item")[1].get_attribute("aria-selected") == "true"

    opened.browser.back()
    opened.until(lambda: opened.text("#trace-name") == "process audit")
    opened.browser.back()
    opened.until(lambda: opened.selected == "send orders")
    assert opened.all(".item")[0].get_attribute("aria-selected") == "true"


def test_a_link_works_again_after_another_span_was_looked_at(opened: Opened) -> None:
    opened.show(shop())
    for _ in range(2):
        opened.all(".item")[2].click()
        opened.row("process audit").click()
        opened.all("#details .others a")[0].click()
        opened.until(lambda: opened.text("#trace-name") == "POST /orders")


def test_a_link_to_a_trace_that_is_not_there_is_named(opened: Opened) -> None:
    opened.show(shop())
    opened.all(".item")[2].click()
    opened.row("process audit").click()

    named = opened.texts("#details .others li")[-1].replace("Copy", "").split()
    assert " ".join(named) == f"span {'e' * 16} of trace {'f' * 32} not in this file"


def test_ids_can_be_copied(opened: Opened) -> None:
    opened.show(order())
    opened.find("#facts .copy").click()

    opened.until(lambda: opened.find("#said").get_attribute("textContent") in {"Copied", "Selected"})


def test_the_tree_is_walked_with_the_keyboard(opened: Opened) -> None:
    opened.show(order())
    opened.press(Keys.TAB)
    opened.press(Keys.ENTER)  # the link that skips the list
    assert opened.focused.startswith("POST /orders")

    walked = []
    for key in (Keys.DOWN, Keys.RIGHT, Keys.UP, Keys.END, Keys.LEFT, Keys.HOME, Keys.PAGE_DOWN, Keys.PAGE_UP):
        opened.press(key)
        walked.append(opened.focused.partition(" starts")[0].split(" ", 2)[:2])
    assert [" ".join(words) for words in walked] == [
        "send orders", "process orders", "send orders", "run pack",
        "send pack", "POST /orders", "run pack", "POST /orders",
    ]  # fmt: skip


def test_subtrees_are_collapsed_and_expanded_with_keys_and_mouse(opened: Opened) -> None:
    opened.show(order())
    opened.row("send paid").click()
    opened.press(Keys.LEFT)
    assert opened.names == _ORDER[:4]
    assert opened.row("send paid").get_attribute("aria-expanded") == "false"

    opened.press(Keys.RIGHT)
    assert opened.names == _ORDER

    opened.row("send orders").find_element("css selector", ".twist").click()
    assert opened.names == _ORDER[:2]
    opened.press("*")
    assert opened.names == _ORDER

    opened.find("#collapse-all").click()
    assert opened.names == _ORDER[:1]
    opened.find("#expand-all").click()
    assert opened.names == _ORDER


def test_enter_and_escape_lead_from_the_list_to_the_details_and_back(opened: Opened) -> None:
    opened.show(shop())
    opened.press("/", Keys.ENTER)
    assert opened.focused.startswith("POST /orders 1.35 s")
    opened.press(Keys.DOWN, Keys.DOWN)
    assert opened.text("#trace-name") == "process audit"
    opened.press(Keys.HOME, Keys.END, Keys.ENTER)
    assert opened.focused.startswith("process audit → 3 links")
    opened.press(Keys.ENTER)
    assert opened.browser.switch_to.active_element.get_attribute("id") == "details"
    opened.press(Keys.ESCAPE)
    assert opened.focused.startswith("process audit → 3 links")
    assert not opened.all("#details")
    opened.press(Keys.ESCAPE)
    assert opened.focused.startswith("process audit 25.0 ms")


def test_nothing_traps_the_tab_key(opened: Opened) -> None:
    opened.show(shop())
    opened.row("process orders").click()
    reached = set()
    for _ in range(40):
        opened.press(Keys.TAB)
        reached.add(opened.script("const a = document.activeElement; return a.id || a.className"))

    assert {
        "skip",
        "theme",
        "help-button",
        "search",
        "errors",
        "sort",
        "item",
        "zoom-in",
        "row",
        "close",
        "copy",
    } <= {name.split(" ")[0] for name in reached}


def test_the_focus_is_seen(opened: Opened) -> None:
    opened.show(shop())
    opened.press("/", Keys.ENTER)
    assert opened.browser.switch_to.active_element.value_of_css_property("outline-style") == "solid"
    opened.press(Keys.ENTER)
    assert opened.browser.switch_to.active_element.value_of_css_property("outline-style") == "solid"


def test_the_focus_stays_where_it_was_when_a_filter_takes_its_row(opened: Opened) -> None:
    opened.show(busy(1, 60))
    opened.press("/", Keys.ENTER, Keys.ENTER, Keys.DOWN, "e")
    assert "✕ TimeoutError" in opened.focused
    opened.press("e", Keys.ESCAPE, "e")
    assert opened.focused.startswith("POST /import")


def test_the_help_opens_closes_and_switches_keys_off(opened: Opened) -> None:
    opened.show(shop())
    opened.press("?")
    assert "only errors, or all again" in opened.text("#help")
    opened.find("#single-keys").click()
    opened.press(Keys.ESCAPE)
    assert not opened.all("#help")

    opened.press("e")
    assert opened.text("#found") == "3 traces"


def test_keys_are_letters_in_the_search(opened: Opened) -> None:
    opened.show(shop())
    opened.press("/", "te?z0[]")

    assert opened.find("#search").get_attribute("value") == "te?z0[]"
    assert not opened.all("#help")


def read_aloud(opened: Opened) -> list[tuple[str, str]]:
    """Return the roles and names of all that a screen reader finds."""
    nodes = opened.browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    return [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node["ignored"]
    ]


def test_what_a_screen_reader_reads_of_a_row(opened: Opened) -> None:
    opened.show(order())
    # Rows have `content-visibility`: the browser names one when it has laid it out for the first time.
    opened.until(lambda: all(name for role, name in read_aloud(opened) if role == "row"))
    named = read_aloud(opened)

    assert ("treegrid", "Spans") in named
    assert ("listbox", "Traces") in named
    assert {
        ("button", "Zoom in"),
        ("button", "Switch to dark colours"),
        ("searchbox", "Search spans in all traces"),
    } <= set(named)
    rows = [name for role, name in named if role == "row"]
    assert " ".join(rows[-1].split()) == (
        "run pack worker celery tasks ✕ BoxTooSmall attempt 3 of 3 "
        "waited 400 ms took 90.0 ms starts after 1.26 s"
    )
    row = opened.row("run pack", 1)
    assert [row.get_attribute(f"aria-{name}") for name in ("level", "posinset", "setsize", "rowindex")] == [
        "7",
        "2",
        "3",
        "9",
    ]
    assert not [
        role for role, name in named if role in {"button", "link", "searchbox", "combobox"} and not name
    ]


def test_a_span_of_5_ms_in_a_trace_of_10_minutes_can_be_read(opened: Opened) -> None:
    opened.show(long(1))
    opened.row("send report").click()
    assert box(opened, "send report", "work")["width"] == pytest.approx(3)
    assert opened.texts(".tick")[0] == "0"
    assert opened.texts(".tick")[-1].endswith("min")

    opened.press("z")
    line = box(opened, "send report", "", "line")
    assert box(opened, "send report", "work")["width"] > line["width"] * 0.8
    assert {re.sub(r"\d", "0", text) for text in opened.texts(".tick")} == {"000.000 s"}
    around = box(opened, "run nightly", "work")
    assert (around["left"], around["right"]) <= (line["left"], around["right"])
    assert around["right"] >= line["right"]

    opened.press("]", "]", "]")
    assert box(opened, "send report", "work")["right"] < line["left"]
    opened.press("[", "[", "[", "-", "0")
    assert box(opened, "send report", "work")["width"] == pytest.approx(3)


def test_buttons_and_drags_zoom(opened: Opened) -> None:
    opened.show(order())
    before = box(opened, "process paid", "work")["width"]
    opened.row("process paid").click()
    opened.find("#zoom-in").click()
    assert box(opened, "process paid", "work")["width"] == pytest.approx(2 * before, rel=0.02)
    opened.find("#zoom-out").click()
    opened.find("#zoom-span").click()
    assert box(opened, "process paid", "work")["width"] > 3 * before

    opened.find("#zoom-all").click()
    assert box(opened, "process paid", "work")["width"] == pytest.approx(before, rel=0.02)
    drag(opened, "#axis", 0.25, 0.5)
    assert box(opened, "process paid", "work")["width"] == pytest.approx(4 * before, rel=0.05)
    drag(opened, "#overview", 0.2, 0.7)
    assert box(opened, "process paid", "work")["width"] == pytest.approx(2 * before, rel=0.05)


def test_lines_of_the_grid_are_below_the_marks_of_the_axis(opened: Opened) -> None:
    opened.show(order())
    opened.press("+", "]")
    step, shift = opened.script(
        "const style = document.getElementById('waterfall').style;"
        "return ['--step', '--shift'].map((name) => parseFloat(style.getPropertyValue(name)))"
    )
    left = box(opened, "process paid", "", "line")["left"]
    marks = [tick.rect["x"] - left for tick in opened.all(".tick")]
    assert len(marks) > 1
    assert all(
        (mark - shift) / step == pytest.approx(round((mark - shift) / step), abs=0.02) for mark in marks
    )


def test_the_overview_shows_a_short_span_at_the_end_and_the_wait_before_it(opened: Opened) -> None:
    made = Recording()
    made.add("run job", 3_600_000, 1, kind="consumer", queue_time_nano=3_600_000 * MS)
    opened.show(made.spans)

    middle, end = opened.script("""
        const { width } = document.getElementById("map");
        const line = document.getElementById("map").getContext("2d").getImageData(0, 4, width, 1).data;
        return [line[4 * Math.floor(width / 2) + 3], line.at(-1)];
    """)
    assert 0 < middle < end == 255


def test_200_spans_are_all_there_and_the_last_is_reached(opened: Opened) -> None:
    opened.show(busy(1, 200))

    assert len(opened.names) == 200
    assert "200 spans" in opened.text("#facts")
    opened.press("/", Keys.ENTER, Keys.ENTER, Keys.END)
    row, scroll = opened.browser.switch_to.active_element.rect, opened.find(".scroll").rect
    assert scroll["y"] <= row["y"]
    assert row["y"] + row["height"] <= scroll["y"] + scroll["height"]


def test_5000_spans_can_be_opened_and_searched(opened: Opened) -> None:
    opened.show(busy(1, 5000))
    assert opened.script("return document.querySelectorAll('#rows .row').length") == 5000

    opened.press("/", "timeouterror")
    shown = opened.script("return document.querySelectorAll('#rows .row:not([hidden]):not(.passed)').length")
    assert shown == len([span for span in busy(1, 5000) if span.error])


def test_many_traces_are_listed_sorted_and_walked(opened: Opened) -> None:
    opened.show([*many(300), *busy(1, 20), *long(2)])
    assert opened.text("#found") == "302 traces"

    for criterion, first in (
        ("took", "run nightly"),
        ("count", "POST /import"),
        ("start", "POST /orders"),
    ):
        opened.find(f"#sort option[value={criterion}]").click()
        titles = opened.texts(".item .title")
        assert (titles[0], len(titles)) == (first, 302)
    opened.find("#search").click()
    opened.press(Keys.ENTER, Keys.END)
    assert opened.all(".item")[-1].get_attribute("aria-selected") == "true"
    assert opened.browser.switch_to.active_element.rect["y"] < 900


def test_text_from_spans_is_inert(opened: Opened) -> None:
    opened.show(hostile(1))
    assert len(opened.names) == 3
    for row in opened.all("#rows .row"):
        row.click()

    assert opened.script("return window.wasRun") is None
    assert opened.script("return document.querySelectorAll('img, svg, #rows b b, #details b').length") == 0
    assert opened.names[0].startswith("</script><img src=x onerror=")
    assert opened.names[1] == r"\x1b[31mred\x1b[0m \u202etxt.exe\u2028 <!--"
    assert len(opened.text("#span-name")) == 10_000
    shown = opened.script("return document.body.textContent")
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2028\u2029]", shown)
    assert opened.script("return document.documentElement.scrollWidth <= innerWidth")


def test_times_that_cannot_be_are_shown_for_what_they_are(opened: Opened) -> None:
    wrong: dict[str, Any] = {"trace_id": "a" * 32, "kind": "internal", "system": "kafka", "destination": ""}
    first = DrawnSpan(name="1970", span_id="1" * 16, start_unix_nano=0, end_unix_nano=5, **wrong)
    last = DrawnSpan(name="late", span_id="2" * 16, start_unix_nano=10**30, end_unix_nano=10**30 + 5, **wrong)
    never = DrawnSpan(name="never", span_id="3" * 16, start_unix_nano=10**30, end_unix_nano=10**400, **wrong)
    for spans in ([first, last], [first, last, never]):
        opened.show(spans)
        for row in opened.all("#rows .row"):
            row.click()
            opened.press("z", "+", "-", "]", "0")
        assert detail(opened, "process") == "(no name)"


@pytest.mark.parametrize("width", [360, 600, 768, 1024, 1280, 1440, 1600, 3840])
def test_no_width_needs_a_sideways_scroll(opened: Opened, width: int) -> None:
    opened.show([*order(), *hostile(2)], width=width)
    for number in range(2):
        opened.all(".item")[number].click()
        opened.all("#rows .row")[-1].click()
        assert opened.script("return document.documentElement.scrollWidth") <= width
        assert (
            opened.script("const s = document.querySelector('.scroll'); return s.scrollWidth - s.clientWidth")
            <= 0
        )
        assert (
            opened.script(
                "const s = document.querySelector('#details'); return s.scrollWidth - s.clientWidth"
            )
            <= 0
        )
        opened.press(Keys.ESCAPE)  # as the details cover the list of a narrow window


@pytest.mark.parametrize(("width", "share"), [(1280, 0.28), (1440, 0.35), (1920, 0.28)])
def test_the_time_line_has_the_room_that_the_columns_leave(opened: Opened, width: int, share: float) -> None:
    opened.show(busy(1, 200), width=width)

    lane, whole = (opened.find(selector).rect["width"] for selector in ("#axis", "#waterfall"))
    assert lane / whole > share
    assert (
        opened.script("const s = document.querySelector('.scroll'); return s.scrollWidth - s.clientWidth")
        <= 0
    )


@pytest.mark.parametrize("width", [360, 1280])
def test_a_name_is_seen_however_deep_it_is(opened: Opened, width: int) -> None:
    made = Recording()
    span = made.add("call 0", 0, 99)
    for level in range(1, 61):
        span = made.add(f"call {level}", level, 1, span)
    opened.show(made.spans, width=width)

    deepest, cell = opened.row("call 60"), opened.all("#rows .name")[-1].rect
    name = deepest.find_element("css selector", ".what").rect
    assert name["width"] > 40
    assert name["x"] + name["width"] <= cell["x"] + cell["width"]


def test_durations_of_hours_are_whole(opened: Opened) -> None:
    made = Recording()
    made.add("run job", 0, 12 * 3_600_000 + 34 * 60_000, kind="consumer", queue_time_nano=83 * 60_000 * MS)
    opened.show(made.spans, width=1280)

    cut = "(part) => { const c = document.querySelector(part); return c.scrollWidth - c.clientWidth; }"
    assert opened.texts("#rows .took")[0].endswith("12 h 34 min")
    assert [
        opened.script(f"return ({cut})(arguments[0])", f"#rows .{part}") for part in ("waited", "took")
    ] == [0, 0]


def test_a_narrow_window_shows_the_same_facts(opened: Opened) -> None:
    opened.show(order(), width=360, height=740)
    row = opened.row("run pack", 2)
    row.click()

    assert {"run pack", "worker", "celery tasks", "✕ BoxTooSmall", "3/3", "90.0 ms"} <= set(
        row.text.split("\n")
    )
    assert box(opened, "run pack", "work", number=2)["width"] > 10
    assert row.rect["y"] - opened.script("return scrollY") < opened.find("#details").rect[
        "y"
    ] - opened.script("return scrollY")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_light_and_in_dark(opened: Opened, scheme: str) -> None:
    opened.show(shop())
    opened.emulate(scheme=scheme)
    opened.row("run pack", 2).click()
    opened.press("e")

    assert (opened.script(_GROUND) == _WHITE) == (scheme == "light")
    ratio, worst = opened.script(_WORST_TEXT)
    assert ratio >= 4.5, worst
    assert opened.script(_WORST_PAINT) >= 3

    opened.press("t")
    assert (opened.script(_GROUND) == _WHITE) == (scheme == "dark")
    opened.press("e", "?")
    ratio, worst = opened.script(_WORST_TEXT)
    assert ratio >= 4.5, worst
    opened.press(Keys.ESCAPE)


def test_the_button_switches_the_colours_and_says_to_which(opened: Opened) -> None:
    opened.show(order())
    opened.emulate(scheme="dark")
    opened.until(lambda: opened.text("#theme") == "Light")
    opened.find("#theme").click()

    assert opened.script(_GROUND) == _WHITE
    assert opened.text("#theme") == "Dark"


def test_nothing_moves_by_itself(opened: Opened) -> None:
    opened.show(shop())
    moving = opened.script(
        "return [...document.querySelectorAll('*')].filter((element) => {"
        "  const style = getComputedStyle(element);"
        "  return style.transitionDuration !== '0s' || style.animationName !== 'none';"
        "}).length"
    )
    assert moving == 0


def test_print_shows_the_whole_trace_on_white(opened: Opened) -> None:
    opened.show(busy(1, 200))
    opened.emulate(scheme="dark", media="print")

    assert opened.script(_GROUND) == _WHITE
    assert not opened.all(".tools, .traces, .buttons")
    scroll = opened.find(".scroll")
    assert scroll.rect["height"] >= opened.find("#rows").rect["height"]
    assert scroll.value_of_css_property("overflow-y") == "visible"


def box(opened: Opened, name: str, part: str, kind: str = "bar", number: int = 0) -> dict[str, float]:
    """Return where a part of the time line of a span is."""
    selector = f".{kind}.{part}" if part else f".{kind}"
    found = opened.row(name, number).find_element("css selector", selector)
    bounds: dict[str, float] = opened.script("return arguments[0].getBoundingClientRect().toJSON()", found)
    return bounds


def detail(opened: Opened, name: str) -> str:
    fields = dict(zip(opened.texts("#details dt"), opened.texts("#details dd"), strict=True))
    return fields[name]


def drag(opened: Opened, selector: str, start: float, end: float) -> None:
    """Drag over an element from one share of its width to another."""
    element = opened.find(selector)
    width = element.rect["width"]
    (
        ActionChains(opened.browser, duration=0)
        .move_to_element_with_offset(element, round(width * (start - 0.5)), 0)
        .click_and_hold()
        .move_to_element_with_offset(element, round(width * (end - 0.5)), 0)
        .release()
        .perform()
    )
