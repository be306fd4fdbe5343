"""Which law a test of a contract is about, by the test's name."""

from __future__ import annotations

from typing import Final

LAWS: Final[dict[int, str]] = {
    1: "Reading never raises.",
    2: "Writing never changes what the caller owns.",
    3: "Set replaces.",
    4: "Restore, never clear.",
    5: "The handler is untouched.",
    6: "A span id on the wire can be found.",
    7: "Processing is inside.",
    8: "Public API only.",
    9: "No state grows.",
}

TESTS: Final[dict[int, frozenset[str]]] = {
    1: frozenset(
        [
            "test_a_hostile_header_starts_a_new_trace_and_says_why_once",
            "test_a_hostile_trace_state_leaves_the_trace_whole",
            "test_a_propagator_that_fails_does_not_fail_the_handler",
            "test_a_propagator_that_fails_does_not_fail_the_send",
            "test_a_tracer_that_fails_does_not_fail_the_handler",
            "test_outside_a_trace_a_malformed_context_is_replaced",
        ]
    ),
    2: frozenset(
        [
            "test_concurrent_sends_do_not_mix",
            "test_headers_of_the_caller_stay_as_they_were",
            "test_shared_headers_get_the_context_of_each_send",
        ]
    ),
    3: frozenset(
        [
            "test_baggage_of_the_current_context_replaces_that_of_the_headers",
            "test_other_headers_arrive_as_they_were_given",
            "test_stale_fields_are_replaced_or_taken_out",
        ]
    ),
    4: frozenset(
        [
            "test_a_context_set_by_the_handler_is_gone_afterwards",
            "test_after_a_cancellation_the_context_before_is_back",
            "test_after_an_error_the_context_before_is_back",
            "test_afterwards_the_context_before_is_back",
            "test_the_context_afterwards_is_the_one_before",
        ]
    ),
    5: frozenset(
        [
            "test_a_cancellation_reaches_the_handler_and_comes_back",
            "test_after_a_cancellation_the_context_before_is_back",
            "test_after_an_error_the_context_before_is_back",
            "test_signature_name_and_type_hints_stay",
            "test_the_exception_of_a_handler_passes_through",
            "test_the_value_of_a_sync_handler_passes_through",
            "test_the_value_of_an_async_handler_passes_through",
        ]
    ),
    6: frozenset(
        [
            "test_a_recorded_root_is_the_one_on_the_wire",
            "test_a_recorded_send_is_a_child_whose_id_is_on_the_wire",
            "test_the_current_context_itself_is_sent",
        ]
    ),
    7: frozenset(
        [
            "test_a_task_started_in_the_handler_keeps_the_context",
            "test_a_thread_started_in_the_handler_inherits_the_context",
            "test_each_body_runs_in_the_context_of_its_message",
            "test_the_trace_is_continued_in_a_new_span",
        ]
    ),
    8: frozenset(["test_an_integration_uses_the_public_api_of_its_client_library_only"]),
    9: frozenset(
        [
            "test_nothing_is_kept_of_a_message_that_is_done",
            "test_nothing_is_kept_of_a_message_that_is_sent",
        ]
    ),
}
