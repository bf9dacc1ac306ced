"""The flows of ChatKit and of the OpenAI-compatible layer that lean on the store most, on Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.postgres.server import shared_server
from tests.server.served import Server, serve
from tests.server.test_chatkit_flows import (
    chat,
    test_a_call_that_needs_approval_waits_on_a_card_and_goes_on_when_approved,
    test_a_decision_counts_once_and_an_action_can_only_name_what_waits,
    test_a_form_that_was_filled_in_is_answered,
    test_a_message_is_answered_anew_and_the_model_has_forgotten_the_first_answer,
    test_a_thread_read_again_shows_what_was_streamed_and_each_item_once,
    test_another_user_finds_nothing_of_a_thread,
    test_feedback_is_kept_and_can_be_changed,
    test_the_theme_is_switched_by_the_client_and_the_model_hears_of_it,
    test_threads_are_listed_renamed_paged_and_deleted,
    test_who_leaves_in_the_middle_leaves_the_answer_so_far,
)
from tests.server.test_openai_api import (
    client,
    test_a_file_arrives_in_parts,
    test_a_file_comes_back_as_it_went,
    test_a_streamed_response_is_kept_when_its_end_is_told,
    test_a_vector_store_finds_the_passage_by_its_meaning,
    test_an_item_that_is_only_referred_to_is_the_one_that_was_stored,
    test_an_item_whose_id_is_taken_is_refused_and_nothing_is_lost,
    test_every_call_is_a_trace_of_its_caller,
    test_items_keep_their_order_their_ids_and_their_types,
    test_nothing_of_another_user_is_found,
    test_responses_in_a_conversation_add_to_it_in_order,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
__all__ = [
    "chat", "client", "test_a_call_that_needs_approval_waits_on_a_card_and_goes_on_when_approved",
    "test_a_decision_counts_once_and_an_action_can_only_name_what_waits", "test_a_file_arrives_in_parts",
    "test_a_file_comes_back_as_it_went", "test_a_form_that_was_filled_in_is_answered",
    "test_a_message_is_answered_anew_and_the_model_has_forgotten_the_first_answer",
    "test_a_streamed_response_is_kept_when_its_end_is_told",
    "test_a_thread_read_again_shows_what_was_streamed_and_each_item_once",
    "test_a_vector_store_finds_the_passage_by_its_meaning",
    "test_an_item_that_is_only_referred_to_is_the_one_that_was_stored", "test_an_item_whose_id_is_taken_is_refused_and_nothing_is_lost",
    "test_another_user_finds_nothing_of_a_thread", "test_every_call_is_a_trace_of_its_caller",
    "test_feedback_is_kept_and_can_be_changed", "test_items_keep_their_order_their_ids_and_their_types",
    "test_nothing_of_another_user_is_found", "test_responses_in_a_conversation_add_to_it_in_order",
    "test_the_theme_is_switched_by_the_client_and_the_model_hears_of_it",
    "test_threads_are_listed_renamed_paged_and_deleted", "test_who_leaves_in_the_middle_leaves_the_answer_so_far",
]  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[Server]:
    with shared_server().lab_url() as url:
        async with serve(url) as server:
            yield server
